//! What the settings promise: all mistakes at once, no secret ever, one table for everything.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::setting::{Default, SETTINGS, describe, env_example};
use super::*;

const CANARY: &str = "c4n4ry";

fn load(vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::load(vars.iter().map(|(name, value)| (name.into(), value.into())))
}

fn problems(vars: &[(&str, &str)]) -> Vec<String> {
    let errors = load(vars).expect_err("these settings must be refused");
    errors.problems().iter().map(ToString::to_string).collect()
}

/// A file of its own for each test, taken away with its folder's owner.
struct TempFile(PathBuf);

impl TempFile {
    fn holding(name: &str, content: &[u8]) -> TempFile {
        let file = format!("rollcall-config-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, content).unwrap();
        TempFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn an_empty_environment_gives_the_defaults() {
    let config = load(&[("PATH", "/bin"), ("rollcaller", "1")]).unwrap();
    assert_eq!(config.key_prefix, "rollcall");
    assert_eq!(config.ingest.lanes, 2);
    assert_eq!(config.ingest.prefetch_bytes, 24 << 20);
    assert_eq!(config.ingest.hold_max, Duration::from_secs(600));
    assert_eq!(config.limits.event_age_max, time::Duration::days(1826));
    assert_eq!(config.retention, None);
    assert_eq!(config.log_format, None);
    let ops = OpsAddr { addr: Some("127.0.0.1:9464".parse().unwrap()), explicit: false };
    assert_eq!(config.ops, ops);
}

#[test]
fn every_default_keeps_its_own_rule() {
    // Set as if by hand, a default must be taken, and say the same.
    let vars: Vec<(&str, &str)> = SETTINGS
        .iter()
        .filter(|s| s.name != "ROLLCALL_RETENTION_DAYS")
        .map(|s| match s.default {
            Default::Text(text) => (s.name, text),
            Default::Unset { example } => (s.name, example),
        })
        .collect();
    let config = load(&vars).unwrap();
    assert!(config.ops.explicit);
    assert_eq!(config.redacted().len(), SETTINGS.len());
    assert!(
        config
            .redacted()
            .iter()
            .all(|line| !line.contains("(default)") || line.starts_with("ROLLCALL_RETENTION_DAYS"))
    );
}

#[test]
fn every_setting_is_read() {
    // A row of the table that nobody reads would not appear in the dump.
    assert_eq!(load(&[]).unwrap().redacted().len(), SETTINGS.len());
}

#[test]
fn all_mistakes_are_told_at_once() {
    let found = problems(&[
        ("AMQP_URL", "http://host"),
        ("ROLLCALL_LANES", "17"),
        ("ROLLCALL_DRAIN_SECS", "soon"),
        ("ROLLCALL_BATCH_EVENTS_MAX", "+5"),
        ("ROLLCALL_PARTITION_BY", "week"),
        ("ROLLCALL_DECLARE_TOPOLOGY", "yes"),
        ("ROLLCALL_OPS_ADDR", "localhost"),
        ("ROLLCALL_KEY_PREFIX", "a:b"),
        ("ROLLCALL_QUEUE", "amq.mine"),
        ("ROLLCALL_LANE", "1"),
    ]);
    assert_eq!(found.len(), 10, "{found:#?}");
    let has = |text: &str| assert!(found.iter().any(|p| p.contains(text)), "{text}: {found:#?}");
    has("ROLLCALL_LANES must be a whole number of lanes from 1 to 16, not \"17\"");
    has("ROLLCALL_LANE is not a setting (did you mean ROLLCALL_LANES?)");
    has("AMQP_URL must be a URL that starts with amqp:// or amqps:// (its scheme is another)");
}

#[test]
fn relations_are_checked_unless_a_side_is_wrong_already() {
    let found = problems(&[
        ("ROLLCALL_DRAIN_SECS", "600"),
        ("ROLLCALL_RETRY_MIN_MS", "60000"),
        ("ROLLCALL_BATCH_BYTES_MAX", "1048575"),
        ("ROLLCALL_PREFETCH_BYTES", "65536"),
        ("ROLLCALL_RETENTION_DAYS", "30"),
        ("ROLLCALL_EVENT_AGE_MAX_DAYS", "31"),
        ("ROLLCALL_DEAD_LETTERS", "rollcall"),
    ]);
    assert_eq!(found.len(), 6, "{found:#?}");
    let found = problems(&[("ROLLCALL_HOLD_MAX_SECS", "0"), ("ROLLCALL_DRAIN_SECS", "1699")]);
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn a_worker_that_may_take_more_than_it_is_allowed_is_refused() {
    let urls = [
        ("AMQP_URL", "amqp://u:p@h/%2f"),
        ("DATABASE_URL", "postgres://u:p@h/d"),
        ("REDIS_URL", "redis://h"),
    ];
    let with = |more: &[(&str, &str)]| load(&[&urls[..], more].concat()).unwrap();
    let needed = with(&[]).memory_needed();
    assert!(needed <= 256 << 20, "the defaults take {needed} bytes");
    let (enough, less) = (needed.to_string(), (needed - 1).to_string());
    let name = "ROLLCALL_MEMORY_MAX_BYTES";
    assert!(with(&[(name, &enough)]).worker().is_ok());
    let short = with(&[(name, &less)]);
    let said = short.worker().unwrap_err().to_string();
    assert!(said.contains(&format!("and {name} allows {less}")), "{said}");
    let wide = [("ROLLCALL_LANES", "16"), ("ROLLCALL_PREFETCH_BYTES", "4294967296")];
    let said = with(&wide).worker().unwrap_err().to_string();
    assert!(said.contains("ROLLCALL_PREFETCH_BYTES") && said.contains("lower one"), "{said}");
}

#[test]
fn the_retention_bounds_the_age_that_nobody_set() {
    let config = load(&[("ROLLCALL_RETENTION_DAYS", "30")]).unwrap();
    assert_eq!(config.limits.event_age_max, time::Duration::days(30));
    let line = "ROLLCALL_EVENT_AGE_MAX_DAYS=30 (the retention)".to_owned();
    assert!(config.redacted().contains(&line));
}

#[test]
fn an_unknown_name_is_refused_and_its_value_never_shown() {
    for (name, near) in [
        ("ROLLCALL_DRAIN_SEC", "did you mean ROLLCALL_DRAIN_SECS?"),
        ("rollcall_lanes", "did you mean ROLLCALL_LANES?"),
        ("ROLLCALL_AMQP_URL", "did you mean AMQP_URL?"),
        ("ROLLCALL_REDIS_URL_FILE", "did you mean REDIS_URL_FILE?"),
        ("ROLLCALL_SOMETHING_ELSE_ENTIRELY", "`rollcall settings` lists them all"),
    ] {
        let found = problems(&[(name, CANARY)]);
        assert_eq!(found, [format!("{name} is not a setting ({near})")]);
    }
}

#[test]
fn the_service_links_of_kubernetes_are_no_settings() {
    load(&[
        ("ROLLCALL_SERVICE_HOST", "10.0.0.1"),
        ("ROLLCALL_SERVICE_PORT", "9464"),
        ("ROLLCALL_WORKER_SERVICE_PORT_OPS", "9464"),
        ("ROLLCALL_PORT", "tcp://10.0.0.1:9464"),
        ("ROLLCALL_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("ROLLCALL_PORT_9464_TCP_ADDR", "10.0.0.1"),
    ])
    .unwrap();
    assert_eq!(problems(&[("ROLLCALL_PORT", "9464")]).len(), 1);
}

#[test]
fn an_empty_value_is_as_good_as_none() {
    let config = load(&[("ROLLCALL_LANES", ""), ("AMQP_URL", ""), ("REDIS_URL_FILE", "")]).unwrap();
    assert_eq!(config.ingest.lanes, 2);
    let error = config.broker().unwrap_err().to_string();
    assert!(error.contains("AMQP_URL is required for this role"), "{error}");
    let error = config.worker().unwrap_err();
    assert_eq!(error.problems().len(), 3);
}

#[test]
fn a_value_that_is_not_utf8_is_refused_by_name() {
    let bad = OsString::from_vec(vec![b'a', 0xff]);
    let vars = [("ROLLCALL_QUEUE".into(), bad.clone()), ("OTHER".into(), bad)];
    let error = Config::load(vars.into_iter()).unwrap_err();
    assert_eq!(error.problems().len(), 1);
    assert_eq!(error.problems()[0].to_string(), "ROLLCALL_QUEUE must be UTF-8");
}

#[test]
fn a_value_may_come_from_a_file() {
    let file = TempFile::holding("good", b"amqp://u:p@rabbit:5672/%2f\r\n");
    let config = load(&[("AMQP_URL_FILE", file.path())]).unwrap();
    assert_eq!(config.broker().unwrap().url.at_start(), "amqp://u:p@rabbit:5672/%2f");
    let line = "AMQP_URL=amqp://***@rabbit:5672/%2f (from its file)".to_owned();
    assert!(config.redacted().contains(&line), "{:?}", config.redacted());
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let empty = TempFile::holding("empty", b"\n");
    let binary = TempFile::holding("binary", &[0xff, 0xfe]);
    let large = TempFile::holding("large", &vec![b'1'; 70_000]);
    let found = problems(&[
        ("ROLLCALL_LANES_FILE", "/nowhere/at/all"),
        ("ROLLCALL_SETS_FILE", empty.path()),
        ("ROLLCALL_QUEUE_FILE", binary.path()),
        ("ROLLCALL_EXCHANGE_FILE", large.path()),
        ("REDIS_URL_FILE", "/"),
    ]);
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found.iter().all(|p| p.contains("_FILE must be the path of a readable text file")));
}

#[test]
fn a_value_and_its_file_exclude_each_other() {
    let file = TempFile::holding("both", b"3");
    let vars = [("ROLLCALL_LANES", "4"), ("ROLLCALL_LANES_FILE", file.path())];
    assert_eq!(problems(&vars), ["ROLLCALL_LANES and ROLLCALL_LANES_FILE must not both be set"]);
}

#[test]
fn the_example_file_is_the_table() {
    let root = env!("CARGO_MANIFEST_DIR");
    let file = std::fs::read_to_string(format!("{root}/.env.example")).unwrap_or_default();
    if file != env_example() {
        std::fs::write(format!("{root}/target/.env.example"), env_example()).unwrap();
        panic!(".env.example is not the table: cp target/.env.example .env.example");
    }
    for setting in SETTINGS {
        assert!(file.contains(&format!("\n#{}=", setting.name)), "{}", setting.name);
        assert!(describe().contains(&format!("\n{}\n", setting.name)), "{}", setting.name);
    }
}

#[test]
fn a_url_is_shown_as_where_it_points() {
    for (url, shown) in [
        ("amqps://u:p@h.example/v", "amqps://***@h.example/v"),
        ("amqp://[::1]:5672", "amqp://[::1]:5672"),
    ] {
        assert_eq!(redact::endpoint(url, &["amqp", "amqps"]).unwrap(), shown);
    }
    let postgres = |url| redact::endpoint(url, &["postgres"]);
    assert_eq!(postgres("postgres://u@h/db?sslmode=require").unwrap(), "postgres://***@h/db");
    assert_eq!(postgres("postgres:///db?host=/run/pg").unwrap(), "postgres:///run/pg/db");
    assert_eq!(postgres("postgres:///db").unwrap_err(), "it names no host");
    let cluster = "redis-cluster://:p@a:7000?node=b:7001&node=c:7002";
    assert_eq!(
        redact::endpoint(cluster, &["redis-cluster"]).unwrap(),
        "redis-cluster://***@a:7000"
    );
}

#[test]
fn no_output_ever_holds_a_password() {
    // Well-formed, and broken in each way that moves the password to where a host, a port, a path
    // or a query is expected.
    let shapes = [
        "S://user:c4n4ry@host:1234/db",
        "S://:c4n4ry@host/0",
        "S://user:c4n4ry@host:99999/db",
        "S://user:c4n4ry@/db",
        "S://user:12/c4n4ry@host/db",
        "S://user:12#c4n4ry@host/db",
        "S://user:12?c4n4ry@host/db",
        "S://user:c4n4ry/x@host/db",
        "S://user:c4n4ry@x@host/db",
        "S://user:c4n4ry @host/db",
        "S://host/db?password=c4n4ry",
        "S://host/db?sentinelPassword=c4n4ry&x=@",
        "nope://user:c4n4ry@host",
        "user:c4n4ry@host",
        "c4n4ry",
    ];
    let urls = [
        ("AMQP_URL", "amqp"),
        ("DATABASE_URL", "postgres"),
        ("DATABASE_REPLICA_URL", "postgresql"),
        ("REDIS_URL", "redis-sentinel"),
    ];
    let (mut good, mut bad) = (0, 0);
    for shape in shapes {
        for (name, scheme) in urls {
            let url = shape.replacen('S', scheme, 1);
            let output = match load(&[(name, url.as_str())]) {
                Ok(config) => {
                    good += 1;
                    format!("{config:?} {config:#?} {:?}", config.redacted())
                }
                Err(errors) => {
                    bad += 1;
                    format!("{errors} {errors:?} {errors:#?}")
                }
            };
            assert!(!output.contains(CANARY), "{name}={url}: {output}");
        }
        // Put into a variable that is no secret.
        if shape != CANARY {
            let errors = load(&[("ROLLCALL_OPS_ADDR", shape)]).unwrap_err();
            assert!(!format!("{errors} {errors:?}").contains(CANARY), "{shape}");
        }
    }
    assert!(good >= 8 && bad >= 36, "{good} {bad}");
    // And out of the words of a client.
    for text in ["cannot reach amqp://u:c4n4ry@h:1 (refused)", "x redis://:c4n4ry@x@h"] {
        assert!(!redact::scrub(text, 200).contains(CANARY), "{text}");
    }
}

#[test]
fn what_is_shown_of_a_bad_value_is_bounded() {
    let long = "x".repeat(100_000);
    let found = problems(&[("ROLLCALL_LANES", &long), ("ROLLCALL_QUEUE", "a\nb")]);
    assert!(found.iter().all(|p| p.len() < 400 && !p.contains('\n')), "{found:#?}");
}

/// Misspelt, `sslmode` would be ignored, and with it TLS.
#[test]
fn a_parameter_that_no_client_would_understand_is_refused() {
    for (variable, url) in [
        ("DATABASE_URL", "postgres://u:p@h/d?sslmod=verify-full"),
        ("DATABASE_URL", "postgres://u:p@h/d?sslcert=/c.pem"),
        ("AMQP_URL", "amqps://u:p@h/v?sslkey=/k.pem"),
        ("AMQP_URL", "amqps://u:p@h/v?cacertfile=/ca.pem"),
        ("AMQP_URL", "amqp://u:p@h/v?sslrootcert=/ca.pem"),
        ("REDIS_URL", "redis://h/0?sslrootcert=/ca.pem"),
        ("REDIS_URL", "rediss://h/0?sslrootcert=/a.pem&sslrootcert=/b.pem"),
        ("REDIS_URL", "redis://h/0?c4n4ry=c4n4ry"),
    ] {
        let found = problems(&[(variable, url)]);
        assert_eq!(found.len(), 1, "{url}: {found:?}");
        assert!(found[0].starts_with(variable) && !found[0].contains("c4n4ry"), "{found:?}");
    }
    let files = "sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem";
    for (variable, url) in [
        ("DATABASE_URL", format!("postgres://u:p@h/d?sslmode=verify-full&{files}")),
        ("DATABASE_URL", "postgres://u:p@h/d?host=/run/pg&options[jit]=off".to_owned()),
        ("AMQP_URL", format!("amqps://u:p@h/v?heartbeat=30&{files}")),
        ("REDIS_URL", format!("rediss-cluster://a:1?node=b:2&{files}")),
    ] {
        load(&[(variable, url.as_str())]).unwrap();
    }
}

/// A secret that is replaced is mounted anew, while we run.
#[test]
fn a_url_in_a_file_is_read_anew() {
    let file = TempFile::holding("renewed", b"redis://:first@h/0");
    let config = load(&[("REDIS_URL_FILE", file.path())]).unwrap();
    let url = &config.projection().unwrap().url;
    assert_eq!(url.now().unwrap(), "redis://:first@h/0");
    std::fs::write(file.path(), "redis://:second@h/0\n").unwrap();
    assert_eq!(url.now().unwrap(), "redis://:second@h/0");
    std::fs::write(file.path(), "redis://:12/c4n4ry@h/0").unwrap();
    let why = url.now().unwrap_err();
    assert!(why.contains("is of no use") && !why.contains("c4n4ry"), "{why}");
    std::fs::remove_file(file.path()).unwrap();
    assert!(url.now().unwrap_err().contains("No such file"));
}

#[test]
fn what_the_driver_would_add_to_every_url_is_refused() {
    for name in ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY"] {
        let told = problems(&[(name, CANARY)]).join("\n");
        assert!(told.contains(name) && !told.contains(CANARY), "{told}");
    }
    load(&[("PGHOST", "h"), ("PGPASSWORD", CANARY)]).unwrap();
}

#[test]
fn a_url_is_no_name() {
    let url = format!("amqp://u:{CANARY}@host/");
    let told = problems(&[("ROLLCALL_QUEUE", &url)]).join("\n");
    assert!(told.contains("ROLLCALL_QUEUE") && !told.contains(CANARY), "{told}");
}

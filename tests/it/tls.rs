//! TLS to RabbitMQ, Postgres and Redis: what is right works, and whatever is wrong with a
//! certificate is refused, told once, and no reason to end. Certificates and passwords are read
//! anew for each connection.

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;

use crate::harness::{
    Authority, DEFAULT_SETS, Flaw, Identity, LONG, Oracle, Producer, Rig, Server, Verb, Worker,
    eventually, seed,
};

/// Of the user that Postgres takes with TLS alone.
const PASSWORD: &str = "c4n4ry-tls-only";

/// Servers with TLS, the CA that signed them, and what a client needs.
struct Secure {
    rig: Rig,
    authority: Authority,
    folder: PathBuf,
    ca: PathBuf,
    client: Identity,
}

impl Secure {
    /// `demanding`: the servers want a certificate of the client.
    async fn new(name: &str, demanding: bool) -> Secure {
        let folder =
            std::env::temp_dir().join(format!("rollcall-tls-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let authority = Authority::new("the CA of this test");
        let ca = authority.ca(&folder);
        authority.server(&folder, Flaw::None);
        let client = authority.client(&folder, "client");
        if demanding {
            fs::write(folder.join("client-certificates-demanded"), "").expect("it can be written");
        }
        let rig = Rig::with_tls(DEFAULT_SETS, &folder).await;
        let role = format!("CREATE ROLE tls_only SUPERUSER LOGIN PASSWORD '{PASSWORD}'");
        rig.pg().await.run(&role).await;
        Secure { rig, authority, folder, ca, client }
    }

    /// Where a server takes TLS; `None`: where nothing else is taken, asked without TLS.
    fn url(&self, server: Server, tls: Option<&str>) -> String {
        let (amqps, rediss) = self.rig.servers().tls_urls.as_ref().expect("they have TLS");
        let (_, place) = self.rig.admin_url.rsplit_once('@').expect("a url with a login");
        let (place, _) = place.split_once('?').expect("a url with parameters");
        let postgres = format!("postgres://tls_only:{PASSWORD}@{place}");
        match (server, tls) {
            (Server::RabbitMq, Some(files)) => format!("{amqps}?{files}"),
            (Server::RabbitMq, None) => amqps.replace("amqps://", "amqp://"),
            (Server::Postgres, Some(files)) => format!("{postgres}?sslmode=verify-full&{files}"),
            (Server::Postgres, None) => format!("{postgres}?sslmode=disable"),
            (_, Some(files)) => format!("{rediss}?{files}"),
            (_, None) => rediss.replace("rediss://", "redis://"),
        }
    }

    /// All that is right.
    fn files(&self) -> String {
        files(&self.ca, Some(&self.client))
    }

    fn all_by_tls(&mut self, files: &str) {
        for server in Server::ALL {
            let url = self.url(server, Some(files));
            self.rig.worker_env.insert(variable(server).to_owned(), url);
        }
    }

    /// Events by TLS from a producer to a reader.
    async fn works(&self, worker: &Worker, oracle: &mut Oracle, files: &str) {
        let events = Producer::new(seed()).events(50);
        oracle.all_good(&events);
        let lines: Vec<String> = events.iter().map(ToString::to_string).collect();
        let file = self.rig.file("events.ndjson", lines.join("\n").as_bytes());
        let amqp = self.url(Server::RabbitMq, Some(files));
        let publish = ["publish", "--file", &file];
        self.rig.cli_with_env(&publish, &[("AMQP_URL", &amqp)]).await.expect(0);
        self.rig.wait_arrived(oracle).await;
        worker.assert_books_balance().await;
        let redis = self.url(Server::Redis, Some(files));
        let count = ["read", "count", "users"];
        self.rig.cli_with_env(&count, &[("REDIS_URL", &redis)]).await.expect(0);
    }

    /// One worker for each server, to which its URL is the given one, and the other two are well:
    /// it is not ready, says why, and lives.
    async fn refused(&self, what: &str, url: impl Fn(Server) -> String, reasons: [&str; 3]) {
        let tried = Server::ALL.iter().zip(reasons).map(async |(server, reason)| {
            let mut env = self.rig.env.clone();
            env.insert(variable(*server).to_owned(), url(*server));
            let mut worker = Worker::start(&self.rig.dir, &env).await;
            eventually(LONG, &format!("{what} at {server:?} to be told"), async || {
                let complaints = worker.complaints(&["no session"]);
                let ready = worker.get("/readyz").await?;
                assert_eq!(ready.status, 503, "{what} at {server:?}: {}", ready.body);
                let told = complaints.iter().any(|line| line.contains(reason));
                match told && ready.body.contains(reason) {
                    true => Ok(()),
                    false => Err(format!("it says {complaints:?} and {}", ready.body)),
                }
            })
            .await;
            assert_eq!(worker.status("/livez").await, Ok(200));
            worker.assert_alive();
            assert!(!worker.log().contains(PASSWORD), "{}", worker.log());
            assert!(!worker.log().contains("PRIVATE KEY"), "{}", worker.log());
            worker.terminate().await;
        });
        join_all(tried).await;
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn variable(server: Server) -> &'static str {
    match server {
        Server::RabbitMq => "AMQP_URL",
        Server::Postgres => "DATABASE_URL",
        _ => "REDIS_URL",
    }
}

fn files(ca: &Path, client: Option<&Identity>) -> String {
    let ca = format!("sslrootcert={}", ca.display());
    match client {
        None => ca,
        Some(Identity { cert, key }) => {
            format!("{ca}&sslcert={}&sslkey={}", cert.display(), key.display())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_flow_by_tls_alone() {
    let mut secure = Secure::new("plain", false).await;
    let files = files(&secure.ca, None);
    secure.all_by_tls(&files);
    let mut oracle = secure.rig.oracle();
    let worker = secure.rig.worker().await;
    secure.works(&worker, &mut oracle, &files).await;
    secure.rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_certificate_is_refused_and_told() {
    let mut secure = Secure::new("mutual", true).await;
    let good = secure.files();
    secure.all_by_tls(&good);
    let mut oracle = secure.rig.oracle();
    let worker = secure.rig.worker().await;
    secure.works(&worker, &mut oracle, &good).await;

    let elsewhere = secure.folder.join("another");
    fs::create_dir_all(&elsewhere).unwrap();
    let another = Authority::new("another CA");
    let (other_ca, other_client) = (another.ca(&elsewhere), another.client(&elsewhere, "client"));
    let by = |files: String| {
        let secure = &secure;
        move |server| secure.url(server, Some(&files))
    };
    let wrong_ca = files(&other_ca, Some(&secure.client));
    let of_no_ca = "the server's certificate is of no CA that is trusted here";
    secure.refused("a wrong CA", by(wrong_ca), [of_no_ca; 3]).await;
    let wanted = "the server wants another certificate of the client";
    let nobody = files(&secure.ca, None);
    let reasons = [wanted, "requires a valid client certificate", wanted];
    secure.refused("no client certificate", by(nobody), reasons).await;
    let stranger = files(&secure.ca, Some(&other_client));
    secure.refused("a stranger's certificate", by(stranger), [wanted; 3]).await;
    secure.refused("no such file", by(format!("{good}.gone")), ["key of the client"; 3]).await;
    // RabbitMQ and Redis hang up without a word.
    let plain = ["without TLS", "no encryption", "without TLS"];
    secure.refused("plain text", |server| secure.url(server, None), plain).await;
    for (flaw, reason) in [
        (Flaw::Expired, "the server's certificate has expired"),
        (Flaw::OtherHost, "the server's certificate is for another host"),
    ] {
        secure.authority.server(&secure.folder, flaw);
        tokio::task::block_in_place(|| secure.rig.servers().renew_tls());
        secure.refused(&format!("{flaw:?}"), by(good.clone()), [reason; 3]).await;
    }
    secure.rig.finish(&oracle, vec![worker]).await;
}

/// A CA that is replaced whole, with all that it signed, while the servers are away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_was_renewed_counts_from_the_next_connection() {
    let mut secure = Secure::new("renewed", true).await;
    let files = secure.files();
    secure.all_by_tls(&files);
    let mut oracle = secure.rig.oracle();
    let worker = secure.rig.worker().await;
    secure.works(&worker, &mut oracle, &files).await;

    for server in Server::ALL {
        secure.rig.control(Verb::Stop, server);
    }
    worker.wait_not_ready().await;
    let next = Authority::new("the next CA");
    next.ca(&secure.folder);
    next.server(&secure.folder, Flaw::None);
    next.client(&secure.folder, "client");
    for server in Server::ALL {
        secure.rig.control(Verb::Start, server);
    }
    worker.wait_ready().await;
    secure.works(&worker, &mut oracle, &files).await;
    secure.rig.finish(&oracle, vec![worker]).await;
}

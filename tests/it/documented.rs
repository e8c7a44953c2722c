//! The commands of README.md, run by a shell in the order in which they stand there.
//!
//! What differs from the text is what a reader would put in: an id that was listed, a port, the key
//! prefix of this test. Those that cannot be run here are named, with the reason. The first steps are
//! one script, and the programs beside them are run as well.

mod shell;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::{Value, json};

pub use shell::{Shell, blocks};
use shell::{commands, section};

use crate::harness::{
    DEFAULT_SETS, LONG, Language, Producer, Rig, Running, SHORT, eventually, names, seed,
};

/// As it is now: who changes it need not build the tests anew.
fn readme() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    std::fs::read_to_string(path).expect("the project has a README")
}

/// Whole commands, by how they begin.
const NOT_RUN: [(&str, &str); 4] = [
    ("docker compose", "wants a Docker daemon"),
    ("scripts/compose-env", "writes .env into the project"),
    ("make demo", "takes minutes; its parts are the commands below"),
    ("make test", "is what runs this"),
];

/// Ends with the test.
struct Background(std::process::Child);

impl Drop for Background {
    fn drop(&mut self) {
        // The shell and the command it waits for.
        let _ = Command::new("pkill").args(["-TERM", "-P", &self.0.id().to_string()]).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A world in which what the README asks has an answer.
async fn world() -> Rig {
    let mut rig = Rig::new(
        "cities=state+city users=username users_by_city=username@state+city \
         users_daily=username/day about=username~ states=state",
    )
    .await;
    serve_somewhere(&mut rig);
    rig
}

fn serve_somewhere(rig: &mut Rig) {
    // Below those that the kernel hands out: nobody else is given it meanwhile.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = |_| 14_000 + (std::process::id() + NEXT.fetch_add(1, Relaxed)) as u16 % 1_000;
    let mut ports = (0..1_000).map(next);
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = ports.find(free).expect("a free port");
    rig.set("ROLLCALL_SERVE_ADDR", &format!("127.0.0.1:{port}"));
}

async fn publish(rig: &Rig) {
    let mut producer = Producer::new(seed());
    let ann = json!({"state": "CA", "city": "Fresno", "username": "ann"});
    let bob = json!({"username": {"first": "bob"}});
    let events = [ann, bob].map(|fields| producer.event_with(fields));
    rig.publish_events(&events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_readme_runs() {
    let rig = world().await;
    let worker = rig.worker().await;
    publish(&rig).await;
    let letter = letter(&rig).await;

    let shell = Shell::new(&rig);
    let mut background = Vec::new();
    let mut ran = 0;
    let readme = readme();
    // Those of the first steps are one script: see below.
    for text in commands(&readme.replace(section(&readme, FIRST_STEPS), "")) {
        if let Some((_, why)) = NOT_RUN.iter().find(|(begin, _)| text.starts_with(begin)) {
            println!("not run, {why}: {text}");
            continue;
        }
        let command = text
            .replace("db5222a8", &letter)
            .replace("rollcall:", &format!("{}:", rig.prefix()))
            .replace("redis://localhost", &rig.env["REDIS_URL"])
            .replace("127.0.0.1:9465", &rig.env["ROLLCALL_SERVE_ADDR"])
            // A reader would wait for what was just started.
            .replace("curl ", "curl -sS --fail-with-body --retry 20 --retry-connrefused ");
        ran += 1;
        if let Some(command) = command.trim_end().strip_suffix('&') {
            let mut command = shell.command(command);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            background.push(Background(command.spawn().expect("bash is there")));
            continue;
        }
        let output = shell.run(&command).await;
        let (out, err) = (&output.stdout, &output.stderr);
        let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
        assert!(output.status.success(), "{command}\n{}\n{out}{err}", output.status);
        println!("$ {command}\n{out}");
        expect(&text, &out);
    }
    assert!(ran >= 19, "{ran} commands were found");
    // The event that it mends and publishes again.
    eventually(LONG, "what was published to be counted", async || {
        let found = rig.cli(&["read", "contains", "users", "bob"]).await.expect(0).stdout;
        if found.contains("yes") { Ok(()) } else { Err(found) }
    })
    .await;
    let letters = rig.dead_letters().await;
    let bodies = letters.iter().map(|letter| String::from_utf8_lossy(&letter.body).into_owned());
    let bodies: Vec<String> = bodies.collect();
    assert!(bodies.len() > 1, "of the sample's bad events: {bodies:?}");
    let bob = bodies.iter().find(|body| body.contains("\"first\":\"bob\""));
    assert_eq!(bob, None, "the mended letter is still there");
    drop(background);
    worker.terminate().await;
}

/// The beginning of the id of the one dead letter.
async fn letter(rig: &Rig) -> String {
    eventually(LONG, "bob among the dead letters", async || {
        let run = rig.cli(&["dead-letters", "list", "--json"]).await.expect(0);
        let line = run.stdout.lines().next().ok_or("no letter yet")?;
        let letter: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        letter["id"].as_str().map(|id| id[..8].to_owned()).ok_or("no id".to_owned())
    })
    .await
}

/// P1: whatever part of the recipe fails, the letter that it would have mended is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_stays_where_its_mending_fails() {
    let rig = world().await;
    let worker = rig.worker().await;
    publish(&rig).await;
    let id = letter(&rig).await;
    let readme = readme();
    let mends = |command: &String| command.contains("jq") && command.contains("purge");
    let recipes: Vec<String> = commands(&readme).into_iter().filter(mends).collect();
    let [recipe] = &recipes[..] else { panic!("not one recipe: {recipes:?}") };
    let recipe = recipe.replace("db5222a8", &id);
    let mut bare = Shell::new(&rig);
    let folder = rig.dir.join("without-jq");
    std::fs::create_dir(&folder).expect("the test's folder can be written");
    for (name, file) in [("rollcall", env!("CARGO_BIN_EXE_rollcall")), ("sed", "/usr/bin/sed")] {
        std::os::unix::fs::symlink(file, folder.join(name)).expect("a link");
    }
    bare.env.insert("PATH".to_owned(), folder.display().to_string());
    let shell = Shell::new(&rig);
    let wrong_id = recipe.replacen(&id, "00000000", 1);
    let cases = [
        ("no jq", &bare, recipe.clone()),
        ("no such letter", &shell, wrong_id),
        ("nothing found", &shell, recipe.replace(".username = \"bob\"", "empty")),
        ("half of it is wrong", &shell, recipe.replace(".username = \"bob\"", "error")),
        ("blank", &shell, recipe.replace("jq -c", "head -c 0 | jq -c")),
    ];
    for (what, shell, command) in cases {
        let output = shell.run(&command).await;
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{what}: {}: {said}", output.status);
        assert_eq!(rig.dead_letters().await.len(), 1, "{what}: the letter is gone: {said}");
        assert!(!output.status.success() && !said.is_empty(), "{what}: nobody was told: {said}");
    }
    worker.terminate().await;
}

const FIRST_STEPS: &str = "### First steps";

/// Ends what the script leaves running, and with it whatever is left if it never ends.
const ONE_SHELL: [&str; 4] = ["timeout", "80", "/bin/bash", "--noprofile"];

/// As one text, read by one shell, in a world that has nothing yet but servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_steps_can_be_pasted_into_one_shell() {
    let mut rig = Rig::bare(DEFAULT_SETS).await;
    serve_somewhere(&mut rig);
    let readme = readme();
    let steps = blocks(section(&readme, FIRST_STEPS), "sh");
    let [steps] = steps[..] else { panic!("not one block: {steps:?}") };
    let script = format!(
        "set -e\ntrap 'kill $(jobs -p); wait' EXIT\n{steps}\n\
         curl -sS --fail-with-body --retry 20 --retry-connrefused -o page.html \
         http://{}/\necho \"running: $(jobs -r | wc -l)\"\n",
        rig.env["ROLLCALL_SERVE_ADDR"]
    );
    let mut command = Command::new(ONE_SHELL[0]);
    command.args(&ONE_SHELL[1..]).current_dir(&rig.dir).env_clear().envs(Shell::new(&rig).env);
    let run = Running::of(command, &rig.dir, script.as_bytes()).end().await;
    println!("{}\n{}", run.stdout, run.stderr);
    let run = run.expect(0);
    let page = std::fs::read_to_string(rig.dir.join("page.html")).expect("the page was asked for");
    assert!(page.contains("Rollcall"), "{page:.300}");
    // zoe is counted; kim is no name; a set is filled from what was there; worker and page run.
    for wanted in ["\nyes\n1\n", "field_type", "\nCA\n", "running: 2\n"] {
        assert!(run.stdout.contains(wanted), "{wanted:?} is missing: {}", run.stdout);
    }
    let letters = rig.dead_letters().await;
    let bodies: Vec<_> = letters.iter().map(|l| String::from_utf8_lossy(&l.body)).collect();
    assert!(bodies.len() == 1 && bodies[0].contains("kim"), "{bodies:?}");
}

/// Its connection is lost, and made again.
const CUT: &str = "
const again = new Promise((done) => redis.once('ready', done))
const id = await redis.sendCommand(['CLIENT', 'ID'])
await redis.sendCommand(['CLIENT', 'KILL', 'ID', String(id), 'SKIPME', 'no'])
await again
console.log(await ask('SCARD', 'rollcall:cities'))
";

/// The producer and the readers that stand in the README, in their languages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_programs_of_the_readme_do_what_they_say() {
    let mut rig =
        Rig::new("cities=state+city users=username users_by_city=username@state+city").await;
    let worker = rig.worker().await;
    let readme = readme();
    let (python, js) = (blocks(&readme, "python"), blocks(&readme, "js"));
    let ([producer, reader], [js]) = (&python[..], &js[..]) else {
        panic!("{} blocks of Python and {} of JavaScript", python.len(), js.len());
    };
    let proxy = rig.proxy("AMQP_URL").await;
    proxy.lose_replies_to(["Fresno".to_owned()]);
    let exchange = format!("\"{}\", \"app\"", rig.exchange());
    let producer = producer.replace("\"rollcall\", \"app\"", &exchange);
    let run = rig.begin_program(Language::Python, &["-c", &producer], b"").end().await.expect(0);
    assert!(run.stderr.contains("not confirmed"), "a retry is told: {}", run.stderr);
    assert_eq!(proxy.replies_lost(), 1);
    eventually(LONG, "ann to be counted, once for each of two", async || {
        let found = rig.cli(&["read", "contains", "users", "ann"]).await.expect(0).stdout;
        let duplicates = worker.metrics().await?.sum(names::DUPLICATES);
        if found.contains("yes") && duplicates == 1.0 { Ok(()) } else { Err(found) }
    })
    .await;

    let keys = |text: &str| text.replace("rollcall:", &format!("{}:", rig.prefix()));
    let reader = keys(reader);
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/.rollcall/examples/node/node_modules");
    std::os::unix::fs::symlink(packages, rig.dir.join("node_modules")).expect("a link");
    let js = keys(&js.replace("await redis.close()", &format!("{CUT}await redis.close()")));
    let js = rig.file("reader.mjs", js.as_bytes());
    let ask = async |language, args: &[&str]| {
        rig.begin_program(language, args, b"").end().await.expect(0).stdout
    };
    assert_eq!(ask(Language::Python, &["-c", &reader]).await, "1\n1\n{'ann'}\n");
    assert_eq!(ask(Language::Node, &[&js]).await, "1\n1\n1\n");
    worker.terminate().await;
    let mut redis = rig.redis().await;
    for key in redis.texts(&["KEYS", &format!("{}:*", rig.prefix())]).await.unwrap() {
        redis.int(&["DEL", &key]).await;
    }
    assert_eq!(ask(Language::Python, &["-c", &reader]).await, "None\nNone\nNone\n");
    assert_eq!(ask(Language::Node, &[&js]).await, "null\nnull\nnull\n");
}

/// What stays wrong is told with each try, and leaves no connection behind with each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_is_refused_says_so_and_keeps_one_connection() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    let readme = readme();
    let producer =
        blocks(&readme, "python")[0].replace("\"rollcall\", \"app\"", "\"nowhere\", \"app\"");
    rig.set("ROLLCALL_EXCHANGE", "nowhere");
    let example = "examples/producers/python/publish.py";
    for args in [&["-u", "-c", &producer][..], &["-u", example]] {
        let running = rig.begin_program(Language::Python, args, b"{}\n");
        eventually(LONG, "four tries to be told", async || {
            let (_, told) = running.said();
            match told.matches("no exchange 'nowhere'").count() {
                4.. => Ok(()),
                n => Err(format!("{n} were: {told}")),
            }
        })
        .await;
        // Each that it had made before would be open still.
        eventually(SHORT, "one connection at most", async || {
            let args = ["-q", "list_connections", "client_properties", "--no-table-headers"];
            match rig.rabbitmqctl(&args).matches("Pika").count() {
                0 | 1 => Ok(()),
                n => Err(format!("{n} are open")),
            }
        })
        .await;
        assert!(running.kill(), "it gave up");
    }
}

/// What the answer to some must hold, as far as the README says.
fn expect(command: &str, out: &str) {
    let wanted = match command {
        _ if command.starts_with("redis-cli") => rig_generation(out),
        "rollcall check" => out.matches(" ok ").count() == 3,
        "rollcall read contains users ann bob" => out.contains("ann\tyes") && out.contains("bob\t"),
        "rollcall read members users_by_city --group CA Fresno" => out.contains("ann"),
        _ if command.contains("/api/sets/users/contains?member=ann") => out.contains("true"),
        _ if command.starts_with("rollcall dead-letters show") && !command.contains('|') => {
            out.contains("field_type") && out.contains("bob")
        }
        "rollcall manage verify" => out.contains("0 missing, 0 phantom"),
        _ => true,
    };
    assert!(wanted, "{command}\n{out}");
}

/// The second answer of the transaction is a UUID.
fn rig_generation(out: &str) -> bool {
    out.lines().last().is_some_and(|line| uuid::Uuid::try_parse(line.trim()).is_ok())
}

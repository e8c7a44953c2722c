//! A real browser without a window: Chromium, driven through chromedriver by the few commands of
//! the WebDriver protocol that the tests need. Must never outlive the test, however that ends.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::wait::{Patience, SHORT};

/// A command of the protocol, the start of the browser among them.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The group of processes that it leads ends when our end of its standard input closes: that is
/// when it is dropped, and also when the test's process is killed. chromedriver alone would leave
/// its browser behind.
const DRIVER: &str = "chromedriver --port=0 2>&1 & cat; kill -KILL 0";

pub struct Browser {
    driver: Child,
    session: String,
    agent: ureq::Agent,
    dir: PathBuf,
}

/// What the console of a page said.
pub struct Line {
    pub serious: bool,
    pub text: String,
}

impl Browser {
    /// A browser with a profile of its own.
    pub fn start() -> Browser {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rollcall-browser-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("the temporary folder can be written");
        let log = dir.join("chromedriver.log");
        let driver = Command::new("sh")
            .args(["-c", DRIVER])
            .env("TMPDIR", &dir)
            .env("HOME", &dir)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&log).expect("the test's folder can be written"))
            .process_group(0)
            .spawn()
            .expect("sh runs");
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_MAX))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        let mut browser = Browser { driver, session: String::new(), agent, dir };
        let port = browser.port(&log);
        let arguments = json!([
            "--headless=new",
            // Chromium's sandbox wants what a container may not give; the page is our own.
            "--no-sandbox",
            // /dev/shm is small in a container.
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-breakpad",
            "--no-first-run",
            // It asks no host of its own.
            "--disable-background-networking",
            "--disable-component-update",
            format!("--user-data-dir={}", browser.dir.join("profile").display()),
        ]);
        browser.session = format!("http://127.0.0.1:{port}/session");
        let session = browser.call(
            "",
            json!({"capabilities": {"alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": {"args": arguments},
                "goog:loggingPrefs": {"browser": "ALL"},
            }}}),
        );
        let id = session["sessionId"].as_str().expect("a session has an id");
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    /// Where the driver listens, from its log.
    fn port(&mut self, log: &std::path::Path) -> u16 {
        let patience = Patience::new(SHORT, "chromedriver to listen");
        loop {
            let mut text = String::new();
            fs::File::open(log).and_then(|mut file| file.read_to_string(&mut text)).expect("a log");
            let told = text
                .split_once("successfully on port ")
                .and_then(|(_, rest)| rest.split_once('.').and_then(|(port, _)| port.parse().ok()));
            if let Some(port) = told {
                return port;
            }
            let ended = self.driver.try_wait().expect("a child can be asked");
            let why = format!("{ended:?} (scripts/install tests brings it) {text}");
            assert!(ended.is_none(), "chromedriver does not start: {why}");
            patience.wait_blocking(&why);
        }
    }

    pub fn open(&self, url: &str) {
        self.call("/url", json!({"url": url}));
    }

    /// What a function with this body returns in the page.
    pub fn run(&self, body: &str) -> Value {
        self.call("/execute/sync", json!({"script": body, "args": []}))
    }

    /// What the elements that match show, hidden ones left out.
    pub fn texts(&self, selector: &str) -> Vec<String> {
        let texts = self.run(&format!(
            "return [...document.querySelectorAll({})].filter((one) => one.checkVisibility())
                .map((one) => one.innerText)",
            json!(selector)
        ));
        serde_json::from_value(texts).expect("a list of texts")
    }

    /// What the first of them shows; nothing where there is none.
    pub fn text(&self, selector: &str) -> String {
        self.texts(selector).into_iter().next().unwrap_or_default()
    }

    /// Presses and releases one key, as a person would: U+E004 is Tab, U+E007 Enter.
    pub fn press(&self, key: char) {
        let key = key.to_string();
        self.call(
            "/actions",
            json!({"actions": [{"type": "key", "id": "keyboard", "actions": [
                {"type": "keyDown", "value": key}, {"type": "keyUp", "value": key},
            ]}]}),
        );
    }

    /// A window of this many CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({
                "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
            }),
        );
    }

    /// What the person has asked of the system, for instance `prefers-color-scheme: dark`.
    pub fn prefer(&self, feature: &str, value: &str) {
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({
                "features": [{"name": feature, "value": value}],
            }),
        );
    }

    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.call("/goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    /// What the console said since it was asked last.
    pub fn console(&self) -> Vec<Line> {
        let lines = self.call("/se/log", json!({"type": "browser"}));
        let lines = lines.as_array().expect("a list of lines");
        let line = |line: &Value| Line {
            serious: line["level"] == "SEVERE" || line["level"] == "WARNING",
            text: line["message"].as_str().unwrap_or_default().to_owned(),
        };
        lines.iter().map(line).collect()
    }

    fn call(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.session);
        let answer = tokio::task::block_in_place(|| {
            let answer = self.agent.post(&url).send(body.to_string())?;
            answer.into_body().read_to_string()
        });
        let answer = answer.unwrap_or_else(|error| panic!("{url} {body}: {error}"));
        let mut answer: Value = serde_json::from_str(&answer).expect("the driver answers in JSON");
        assert!(answer["value"]["error"].is_null(), "{url} {body}: {answer}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.driver.stdin.take());
        let _ = self.driver.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

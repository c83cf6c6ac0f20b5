//! A chromedriver process of a test's own, and what it can do beyond what every driver can.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs the driver in a process group of its own, and ends the whole group, browser included, as soon as our end of
/// its standard input is closed: also when the test is killed and nothing of it is dropped.
const UNTIL_LET_GO: &str = r#""$0" "$@" & read -r _; kill -KILL 0"#;

/// Why each is there: no window, no sandbox as root, no GPU, and nothing that asks the network for anything.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// The process, and the address of the session that is open in it.
pub(super) struct Driver {
    process: Child,
    _held: ChildStdin,
    _says: BufReader<ChildStdout>,
    http: reqwest::Client,
    base: String,
    session: String,
    profile: TempDir,
}

impl Driver {
    /// Starts the driver on a free port of its own choosing, and a browser with a fresh profile.
    pub(super) async fn start() -> (Self, Client) {
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("sh")
            .args([
                "-c",
                UNTIL_LET_GO,
                &named("CHROMEDRIVER").unwrap_or("chromedriver".into()),
            ])
            .args(["--port=0", "--log-level=SEVERE"])
            // Whatever it keeps goes with the profile.
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .env("XDG_CONFIG_HOME", profile.path())
            .env("XDG_CACHE_HOME", profile.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let held = process.stdin.take().unwrap();
        let mut says = BufReader::new(process.stdout.take().unwrap());
        let base = format!("http://127.0.0.1:{}", port(&mut says));
        let mut driver = Self {
            process,
            _held: held,
            _says: says,
            http: reqwest::Client::new(),
            base,
            session: String::new(),
            profile,
        };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities(driver.profile.path()))
            .connect(&driver.base)
            .await
            .unwrap();
        driver.session = client.session_id().await.unwrap().unwrap();
        (driver, client)
    }

    /// A command that only this driver has, and the value of its answer.
    async fn ask(&self, command: &str, body: &Value) -> Value {
        let url = format!("{}/session/{}/{command}", self.base, self.session);
        let answer = self.http.post(url).json(body).send().await.unwrap();
        let status = answer.status();
        let mut answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{command}: {answer}");
        answer["value"].take()
    }

    /// A command of the protocol that Chrome's own developer tools speak.
    pub(super) async fn devtools(&self, command: &str, params: &Value) -> Value {
        self.ask(
            "goog/cdp/execute",
            &json!({"cmd": command, "params": params}),
        )
        .await
    }

    /// The entries of a log, `browser` or `performance`, since it was last asked for.
    pub(super) async fn log(&self, name: &str) -> Vec<Value> {
        match self.ask("se/log", &json!({"type": name})).await {
            Value::Array(entries) => entries,
            other => panic!("{other}"),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.process.wait();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a developer's choice of a browser, not a setting of the product"
)]
fn named(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|name| !name.is_empty())
}

/// The port that the driver says it has taken; from then on it answers.
fn port(says: &mut impl BufRead) -> u16 {
    let mut line = String::new();
    while says.read_line(&mut line).unwrap() > 0 {
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            return port.trim().trim_end_matches('.').parse().unwrap();
        }
        line.clear();
    }
    panic!("chromedriver does not start: .ci/install-browser.sh installs it");
}

fn capabilities(profile: &Path) -> fantoccini::wd::Capabilities {
    let mut flags: Vec<String> = FLAGS.map(str::to_owned).into();
    flags.push(format!("--user-data-dir={}", profile.display()));
    // Without these it begins with its own start page, which is larger than ours and asks for advertisements.
    let blank = json!({"session": {"restore_on_startup": 4, "startup_urls": ["about:blank"]}});
    let mut options = json!({"args": flags, "prefs": blank});
    if let Some(binary) = named("CHROMIUM") {
        options["binary"] = binary.into();
    }
    let all = json!({
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    });
    all.as_object().unwrap().clone()
}

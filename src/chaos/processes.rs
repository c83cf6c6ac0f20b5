//! The product's processes: this very program, started over and over, each behind a proxy of its own.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{
    ChaosError,
    proxy::{Mode, Proxy},
    server::Server,
};

/// Where packages put the library that fakes a process's clock.
const FAKETIME: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];
/// How long a process may take from SIGTERM to its end, its grace of three seconds included.
const END_WITHIN: Duration = Duration::from_secs(15);

/// What one process is there for, over all its restarts.
#[derive(Debug)]
pub(super) struct Post {
    role: &'static str,
    proxy: Proxy,
    child: Option<Child>,
    /// What its worker names hold while it lives, and afterwards until the next one starts.
    pid: Option<i32>,
    frozen: bool,
    /// What the next one is told of the time: `+40d`.
    clock: Option<String>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Fleet {
    program: PathBuf,
    logs: PathBuf,
    database: String,
    settings: Vec<(String, String)>,
    posts: Vec<Post>,
    /// Every process there ever was: its name in the journal, and its process id.
    pub(super) started: Vec<(String, i32)>,
    /// How many ended although nobody told them to.
    pub(super) ended_on_their_own: u32,
    told_to_end: Vec<i32>,
}

impl Fleet {
    pub(super) async fn start(
        server: &Server,
        database: &str,
        logs: &Path,
        roles: &[&'static str],
        settings: Vec<(String, String)>,
    ) -> Result<Self, ChaosError> {
        std::fs::create_dir_all(logs)?;
        let mut fleet = Self {
            program: std::env::current_exe()?,
            logs: logs.to_owned(),
            database: database.to_owned(),
            settings,
            posts: Vec::new(),
            started: Vec::new(),
            ended_on_their_own: 0,
            told_to_end: Vec::new(),
        };
        for role in roles {
            let proxy = Proxy::start(server.port()).await?;
            fleet.posts.push(Post {
                role,
                proxy,
                child: None,
                pid: None,
                frozen: false,
                clock: None,
            });
        }
        fleet.revive(server)?;
        Ok(fleet)
    }

    /// The command line replays what failed, as an operator does; returns what it said where it failed itself.
    pub(super) async fn replay_failed(&self, url: &str) -> Result<Option<String>, ChaosError> {
        let done = Command::new(&self.program)
            .env_clear()
            .args(["runs", "replay", "--failed", "--reason", "chaos", "--json"])
            .env("DATABASE_URL", url)
            .kill_on_drop(true)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        Ok((!done.status.success()).then_some(said))
    }

    /// Which of them is this process.
    pub(super) fn find(&self, pid: i32) -> Option<usize> {
        self.posts.iter().position(|post| post.pid == Some(pid))
    }

    /// Those that do this and nothing else.
    pub(super) fn in_role(&self, role: &str) -> Vec<usize> {
        let posts = self.posts.iter().enumerate();
        posts
            .filter_map(|(at, post)| (post.role == role).then_some(at))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.posts.len()
    }

    /// Starts again whatever has ended, as a service manager does.
    pub(super) fn revive(&mut self, server: &Server) -> Result<(), ChaosError> {
        for at in 0..self.posts.len() {
            if self.is_alive(at)? {
                continue;
            }
            let name = format!("{}-{at}-{}", self.posts[at].role, self.started.len());
            let post = &self.posts[at];
            let url = server.product_url(&self.database, post.proxy.port(), &name);
            let log = File::create(self.logs.join(format!("{name}.log")))?;
            let mut command = Command::new(&self.program);
            command
                .env_clear()
                .args(["serve", "--roles", post.role])
                .env("DATABASE_URL", url)
                .env("RUST_LOG", "info,drift_retention=debug")
                .env("DRIFT_RETENTION_HTTP__LISTEN", "127.0.0.1:0")
                .envs(self.settings.iter().cloned())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .kill_on_drop(true)
                // Ctrl-C is for the lab, which then ends them itself.
                .process_group(0);
            if let (Some(library), Some(clock)) = (faketime(), &post.clock) {
                command
                    .env("LD_PRELOAD", library)
                    .env("FAKETIME", clock)
                    .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                    .env("DONT_FAKE_MONOTONIC", "1");
            }
            let child = command.spawn()?;
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
            self.started.extend(pid.map(|pid| (name, pid)));
            let post = &mut self.posts[at];
            (post.pid, post.child, post.frozen) = (pid, Some(child), false);
        }
        Ok(())
    }

    fn is_alive(&mut self, at: usize) -> Result<bool, ChaosError> {
        let post = &mut self.posts[at];
        let Some(child) = &mut post.child else {
            return Ok(false);
        };
        if child.try_wait()?.is_none() {
            return Ok(true);
        }
        let told = post.pid.is_some_and(|pid| self.told_to_end.contains(&pid));
        self.ended_on_their_own += u32::from(!told);
        Ok(false)
    }

    /// SIGKILL, SIGTERM, SIGSTOP or SIGCONT. Returns the process id where there was a process.
    pub(super) fn signal(&mut self, at: usize, signal: Signal) -> Option<i32> {
        let post = &mut self.posts[at];
        let pid = post.child.as_ref()?.id().and(post.pid)?;
        match signal {
            Signal::SIGSTOP => post.frozen = true,
            Signal::SIGCONT => post.frozen = false,
            _ => self.told_to_end.push(pid),
        }
        // It may have ended by itself just now: then it is found and started again.
        kill(Pid::from_raw(pid), signal).ok().map(|()| pid)
    }

    /// The next process here believes that the time is another one; returns whether that can be done at all.
    pub(super) fn set_clock(&mut self, at: usize, clock: Option<String>) -> bool {
        self.posts[at].clock = clock;
        faketime().is_some()
    }

    pub(super) fn set_network(&self, at: usize, mode: Mode) {
        self.posts[at].proxy.set(mode);
    }

    /// Every network passes, nothing is frozen, everything runs, by the right clock from the next start on.
    pub(super) fn heal(&mut self, server: &Server) -> Result<(), ChaosError> {
        for at in 0..self.posts.len() {
            self.set_network(at, Mode::Pass);
            self.set_clock(at, None);
            if self.posts[at].frozen {
                self.signal(at, Signal::SIGCONT);
            }
        }
        self.revive(server)
    }

    /// SIGTERM to all of `role`, or to everything; returns those that had to be killed in the end.
    pub(super) async fn end(&mut self, role: Option<&str>) -> Result<Vec<String>, ChaosError> {
        let mut late = Vec::new();
        for at in 0..self.posts.len() {
            if role.is_none_or(|role| self.posts[at].role == role) {
                self.signal(at, Signal::SIGTERM);
            }
        }
        for at in (0..self.posts.len()).rev() {
            if role.is_some_and(|role| self.posts[at].role != role) {
                continue;
            }
            let mut post = self.posts.remove(at);
            if let Some(child) = &mut post.child
                && timeout(END_WITHIN, child.wait()).await.is_err()
            {
                late.push(format!("{} (process {:?})", post.role, post.pid));
                child.kill().await?;
            }
        }
        Ok(late)
    }
}

/// The library that fakes a process's clock, where it is installed.
pub(super) fn faketime() -> Option<&'static str> {
    FAKETIME
        .iter()
        .copied()
        .find(|path| Path::new(path).exists())
}

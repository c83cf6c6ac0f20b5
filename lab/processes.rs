//! The product's processes. The lab starts each one again when it ends, and puts it behind a proxy of its own.

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

use crate::{
    proxy::{Mode, Proxy},
    rounds::LabError,
    server::Server,
};

/// The places where packages install libfaketime, which fakes a process's clock.
const FAKETIME_PATHS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];
/// How long a process may take to end after SIGTERM. Its grace of three seconds is included.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// The place of one process. It keeps its role and its proxy over all restarts.
#[derive(Debug)]
pub(crate) struct Post {
    role: &'static str,
    proxy: Proxy,
    child: Option<Child>,
    /// The process id, which is part of its workers' names. It stays until the next process starts.
    pid: Option<i32>,
    frozen: bool,
    /// How far the next process's clock is off: `+40d`.
    clock: Option<String>,
}

/// All processes of the product.
#[derive(Debug)]
pub(crate) struct Fleet {
    program: PathBuf,
    logs: PathBuf,
    database: String,
    settings: Vec<(String, String)>,
    posts: Vec<Post>,
    /// Every process that was started: its name in the journal, and its process id.
    pub(crate) started: Vec<(String, i32)>,
    /// The number of processes that ended although the lab had not stopped them.
    pub(crate) ended_by_themselves: u32,
    stopped: Vec<i32>,
}

impl Fleet {
    pub(crate) async fn start(
        program: &Path,
        server: &Server,
        database: &str,
        logs: &Path,
        roles: &[&'static str],
        settings: Vec<(String, String)>,
    ) -> Result<Self, LabError> {
        std::fs::create_dir_all(logs)?;
        let mut fleet = Self {
            program: program.to_owned(),
            logs: logs.to_owned(),
            database: database.to_owned(),
            settings,
            posts: Vec::new(),
            started: Vec::new(),
            ended_by_themselves: 0,
            stopped: Vec::new(),
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
        fleet.restart_ended(server)?;
        Ok(fleet)
    }

    /// Replays the failed runs on the command line, as an operator does. Returns the command's message if it fails.
    pub(crate) async fn replay_failed(&self, url: &str) -> Result<Option<String>, LabError> {
        let done = Command::new(&self.program)
            .env_clear()
            .args(["runs", "replay", "--failed", "--reason", "chaos", "--json"])
            .env("DATABASE_URL", url)
            .kill_on_drop(true)
            .output()
            .await?;
        let message = String::from_utf8_lossy(&done.stderr).into_owned();
        Ok((!done.status.success()).then_some(message))
    }

    /// The place of the process with this id.
    pub(crate) fn find(&self, pid: i32) -> Option<usize> {
        self.posts.iter().position(|post| post.pid == Some(pid))
    }

    /// The places with exactly this role.
    pub(crate) fn in_role(&self, role: &str) -> Vec<usize> {
        let posts = self.posts.iter().enumerate();
        posts
            .filter_map(|(at, post)| (post.role == role).then_some(at))
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.posts.len()
    }

    /// Starts every process again that has ended, as a service manager does.
    pub(crate) fn restart_ended(&mut self, server: &Server) -> Result<(), LabError> {
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
                // Ctrl-C must reach the lab only. The lab then stops the processes in order.
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

    fn is_alive(&mut self, at: usize) -> Result<bool, LabError> {
        let post = &mut self.posts[at];
        let Some(child) = &mut post.child else {
            return Ok(false);
        };
        if child.try_wait()?.is_none() {
            return Ok(true);
        }
        let is_stopped = post.pid.is_some_and(|pid| self.stopped.contains(&pid));
        self.ended_by_themselves += u32::from(!is_stopped);
        Ok(false)
    }

    /// Sends SIGKILL, SIGTERM, SIGSTOP or SIGCONT. Returns the process id if the process was alive.
    pub(crate) fn signal(&mut self, at: usize, signal: Signal) -> Option<i32> {
        let post = &mut self.posts[at];
        let pid = post.child.as_ref()?.id().and(post.pid)?;
        match signal {
            Signal::SIGSTOP => post.frozen = true,
            Signal::SIGCONT => post.frozen = false,
            _ => self.stopped.push(pid),
        }
        // The process may have ended in this moment. Then `restart_ended` finds it.
        kill(Pid::from_raw(pid), signal).ok().map(|()| pid)
    }

    /// Gives the next process at this place a wrong clock, or the right one. Returns whether this machine can do that.
    pub(crate) fn set_clock(&mut self, at: usize, clock: Option<String>) -> bool {
        self.posts[at].clock = clock;
        faketime().is_some()
    }

    pub(crate) fn set_network(&self, at: usize, mode: Mode) {
        self.posts[at].proxy.set(mode);
    }

    /// Repairs every network, continues frozen processes and starts ended ones. Wrong clocks last until the next start.
    pub(crate) fn heal(&mut self, server: &Server) -> Result<(), LabError> {
        for at in 0..self.posts.len() {
            self.set_network(at, Mode::Pass);
            self.set_clock(at, None);
            if self.posts[at].frozen {
                self.signal(at, Signal::SIGCONT);
            }
        }
        self.restart_ended(server)
    }

    /// Sends SIGTERM to every process, or to those of `role`. Returns the processes that did not end in time.
    pub(crate) async fn end(&mut self, role: Option<&str>) -> Result<Vec<String>, LabError> {
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
                && timeout(STOP_DEADLINE, child.wait()).await.is_err()
            {
                late.push(format!("{} (process {:?})", post.role, post.pid));
                child.kill().await?;
            }
        }
        Ok(late)
    }
}

/// The path of libfaketime, if it is installed.
pub(crate) fn faketime() -> Option<&'static str> {
    FAKETIME_PATHS
        .iter()
        .copied()
        .find(|path| Path::new(path).exists())
}

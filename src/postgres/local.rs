//! A local Postgres server for the quick start and for tests. It needs no configuration and shares nothing with other
//! servers of the machine. It listens only on 127.0.0.1, with a random password and a new port at every start.
//!
//! The server outlives a killed program. The next start on the same directory adopts it.

mod binaries;
mod directory;
mod error;

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor, PgConnection, Row,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    process::Child,
    time::{Instant, sleep},
};

use self::directory::{DataDirectory, Postmaster, SUPERUSER};
pub use self::{binaries::ServerBinaries, error::LocalServerError};

/// How long a start may take, including the wait for another program's start.
const START_DEADLINE: Duration = Duration::from_mins(1);
/// How long a stop may take. A fast stop writes a checkpoint first.
const STOP_DEADLINE: Duration = Duration::from_mins(1);
/// How long a live process may refuse connections before we conclude that it is not our server. After a reboot, another
/// program may have its process id.
const ADOPTION_GRACE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Ports that a start tries. Another program may take a free port before the server does.
const PORT_ATTEMPTS: usize = 3;

/// A running Postgres with its data in a directory of ours.
///
/// Dropping it without [`LocalServer::stop`] leaves the server running on purpose: the next [`LocalServer::start`] on
/// the directory adopts the server of a program that died. Two programs on one directory share one server, and a stop
/// by one of them stops it for both.
#[derive(Debug)]
pub struct LocalServer {
    directory: DataDirectory,
    postmaster: Postmaster,
    password: String,
    /// The child process. `None` if the server was adopted and so is not our child.
    child: Option<Child>,
}

/// The way in which [`LocalServer::stop`] stops the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Rolls open transactions back, writes all data, then exits.
    Fast,
    /// Exits at once, as in a crash. The next start recovers from the write-ahead log.
    Immediate,
}

impl LocalServer {
    /// Starts the server with its data in `dir`, or adopts it if it already runs. The first start creates the directory
    /// and its contents. `options` are settings (`("fsync", "off")`). An adopted server keeps the settings of its
    /// start.
    ///
    /// Postgres refuses to run as root, so a program that runs as root starts the server as the user `postgres`. That
    /// user must be able to reach `dir`.
    ///
    /// # Errors
    /// When the directory cannot be used, or the server does not answer within a minute. The message contains the end
    /// of its log.
    pub async fn start(
        binaries: &ServerBinaries,
        dir: &Path,
        options: &[(&str, &str)],
    ) -> Result<Self, LocalServerError> {
        let deadline = Instant::now() + START_DEADLINE;
        let directory = DataDirectory::open(dir)?;
        // The lock is held until this function returns, so that the second of two simultaneous starts adopts the server
        // of the first.
        let _lock = directory.lock(deadline).await?;
        let password = directory.password()?;
        if let Some(postmaster) = find_live(&directory, &password, deadline).await? {
            return Ok(Self {
                directory,
                postmaster,
                password,
                child: None,
            });
        }
        directory.initialize(binaries, options).await?;
        for _ in 1..PORT_ATTEMPTS {
            let port = free_port()?;
            match launch(binaries, &directory, &password, port, options, deadline).await {
                Err(LocalServerError::Exited { .. }) if is_taken(port) => {}
                outcome => return outcome,
            }
        }
        launch(
            binaries,
            &directory,
            &password,
            free_port()?,
            options,
            deadline,
        )
        .await
    }

    /// The connection string for `database`. The name must not need escaping (letters, digits, `_` and `-` do not). The
    /// string contains the password, so do not log it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let (password, port) = (&self.password, self.postmaster.port);
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/{database}")
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.postmaster.pid
    }

    /// The port the server listens on, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.postmaster.port
    }

    /// Creates the database if it does not exist. Returns whether this call created it.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn create_database(&self, name: &str) -> Result<bool, LocalServerError> {
        let quoted = name.replace('"', "\"\"");
        // The statement itself reports an existing database, so that only one of two simultaneous callers creates it.
        let created = async {
            let mut connection = connect(self.postmaster.port, &self.password).await?;
            connection
                .execute(AssertSqlSafe(format!("CREATE DATABASE \"{quoted}\"")))
                .await
        };
        match created.await {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(e)) if is_duplicate_database(e.code().as_deref()) => {
                Ok(false)
            }
            Err(source) => Err(LocalServerError::CreateDatabase {
                name: name.to_owned(),
                source,
            }),
        }
    }

    /// Stops the server and waits until it has exited. A server that has already exited is not an error.
    ///
    /// # Errors
    /// When the server cannot be signalled or is still running after a minute.
    pub async fn stop(mut self, mode: StopMode) -> Result<(), LocalServerError> {
        let pid = self.postmaster.pid;
        let signal = match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        };
        // If the server has already exited, another program may have its process id.
        if self.is_running() {
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(source) => return Err(LocalServerError::Signal { pid, source }),
            }
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.is_running() {
            if Instant::now() >= deadline {
                return Err(LocalServerError::StillRunning {
                    pid,
                    log: self.directory.log_tail(),
                });
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            // A server removes its pid file last. A crashed server leaves it behind.
            None => {
                is_alive(self.postmaster.pid)
                    && self
                        .directory
                        .postmaster()
                        .is_some_and(|p| p.pid == self.postmaster.pid)
            }
        }
    }
}

/// The server that already runs on this directory, if there is one. Waits while it starts up or shuts down.
async fn find_live(
    directory: &DataDirectory,
    password: &str,
    deadline: Instant,
) -> Result<Option<Postmaster>, LocalServerError> {
    let mut patience = Instant::now() + ADOPTION_GRACE;
    loop {
        let Some(postmaster) = directory.postmaster().filter(|p| is_alive(p.pid)) else {
            return Ok(None);
        };
        match probe(directory, postmaster.port, password).await {
            Answer::Ready => return Ok(Some(postmaster)),
            Answer::Stranger => return Ok(None),
            Answer::NotYet => patience = deadline,
            Answer::Silence => {}
        }
        if Instant::now() >= deadline {
            return Err(LocalServerError::NotReady {
                log: directory.log_tail(),
            });
        }
        // If it is ours after all, Postgres's own check of the pid file refuses the second start.
        if Instant::now() >= patience {
            return Ok(None);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Starts the server's process and waits until it accepts connections.
async fn launch(
    binaries: &ServerBinaries,
    directory: &DataDirectory,
    password: &str,
    port: u16,
    options: &[(&str, &str)],
    deadline: Instant,
) -> Result<LocalServer, LocalServerError> {
    let log = directory.new_log()?;
    let errors = log
        .try_clone()
        .map_err(|e| LocalServerError::file("write", directory.log(), e))?;
    let mut command = directory.command(&binaries.postgres());
    command
        .arg("-D")
        .arg(directory.data())
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "unix_socket_directories="])
        .args(
            options
                .iter()
                .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]),
        )
        .stdout(log)
        .stderr(errors)
        .stdin(Stdio::null())
        // Ctrl-C must reach only the program, which drains first and then stops its server.
        .process_group(0);
    let mut child = command
        .spawn()
        .map_err(|e| LocalServerError::file("run", binaries.postgres(), e))?;
    loop {
        let status = child
            .try_wait()
            .map_err(|e| LocalServerError::file("wait for", binaries.postgres(), e))?;
        if let Some(status) = status {
            return Err(LocalServerError::Exited {
                status,
                log: directory.log_tail(),
            });
        }
        // Only if the pid file names our child, the answer came from our child.
        if let Some(postmaster) = directory.postmaster()
            && child.id().and_then(|id| i32::try_from(id).ok()) == Some(postmaster.pid)
            && matches!(probe(directory, port, password).await, Answer::Ready)
        {
            let (directory, password) = (directory.clone(), password.to_owned());
            return Ok(LocalServer {
                directory,
                postmaster,
                password,
                child: Some(child),
            });
        }
        if Instant::now() >= deadline {
            // A server that never came up holds no work to keep.
            child.kill().await.ok();
            return Err(LocalServerError::NotReady {
                log: directory.log_tail(),
            });
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The answer on a port.
enum Answer {
    /// Our server accepts connections.
    Ready,
    /// A server is starting up or shutting down.
    NotYet,
    /// Another server answers.
    Stranger,
    /// No Postgres server answers.
    Silence,
}

async fn probe(directory: &DataDirectory, port: u16, password: &str) -> Answer {
    let reported = async {
        connect(port, password)
            .await?
            .fetch_one("SHOW data_directory")
            .await?
            .try_get::<String, _>(0)
    };
    match tokio::time::timeout(ADOPTION_GRACE, reported).await {
        Ok(Ok(path)) if Path::new(&path) == directory.data() => Answer::Ready,
        // cannot_connect_now
        Ok(Err(sqlx::Error::Database(e))) if e.code().as_deref() == Some("57P03") => Answer::NotYet,
        Ok(Ok(_) | Err(sqlx::Error::Database(_))) => Answer::Stranger,
        Ok(Err(_)) | Err(_) => Answer::Silence,
    }
}

async fn connect(port: u16, password: &str) -> Result<PgConnection, sqlx::Error> {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(SUPERUSER)
        .password(password)
        .database("postgres")
        .ssl_mode(PgSslMode::Disable)
        .connect()
        .await
}

/// `duplicate_database`, or the unique violation that the loser of a race gets instead.
fn is_duplicate_database(code: Option<&str>) -> bool {
    matches!(code, Some("42P04" | "23505"))
}

fn is_alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

fn free_port() -> Result<u16, LocalServerError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(LocalServerError::NoPort)
}

fn is_taken(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_err()
}

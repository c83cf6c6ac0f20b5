//! Runs a command with a throwaway Postgres: `cargo run --example with_postgres -- COMMAND ARGS…`.
//!
//! The command finds an empty database in `DATABASE_URL`; when it ends the server and its directory are gone.
//! `PG_BIN_DIR` names the server's programs, if the newest installed ones are not wanted.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::PathBuf,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::{Context, bail};
use drift_retention::postgres::local::{LocalServer, ServerBinaries, StopMode};
use nix::{
    sys::signal::{Signal::SIGTERM, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

const DATABASE: &str = "drift_retention_test";
/// Data that nobody keeps needs no care; many tests at once need many connections.
const OPTIONS: [(&str, &str); 4] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("max_connections", "400"),
    ("shared_preload_libraries", ""),
];
/// How long the command may take to end after a signal.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments
        .next()
        .context("no command given: cargo run --example with_postgres -- COMMAND ARGS…")?;

    let mut signals = Signals::listen()?;
    let dir = tempfile::Builder::new()
        .prefix("drift-retention-")
        .tempdir()?;
    // As root the server runs as another user, who has to get in.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    let binaries = ServerBinaries::find(bin_dir().as_deref())?;
    let server = LocalServer::start(&binaries, dir.path(), &OPTIONS).await?;
    let status = run(
        &server,
        Command::new(&program).args(arguments),
        &mut signals,
    )
    .await;
    // Stopped and removed whether or not the command could be run; its outcome counts.
    let stopped = server.stop(StopMode::Immediate).await;
    dir.close()?;
    let status = status.with_context(|| format!("running {} failed", program.display()))?;
    stopped?;
    Ok(exit_code(status))
}

/// Signals to us. Listened for before there is a server: from then on no signal may end us and leave it behind.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            interrupt,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        }
    }
}

/// Runs the command to its end, or past a signal to us.
async fn run(
    server: &LocalServer,
    command: &mut Command,
    signals: &mut Signals,
) -> anyhow::Result<ExitStatus> {
    server.create_database(DATABASE).await?;
    if timeout(Duration::ZERO, signals.next()).await.is_ok() {
        bail!("interrupted before the command began");
    }
    let mut child = command.env("DATABASE_URL", server.url(DATABASE)).spawn()?;
    tokio::select! {
        status = child.wait() => return Ok(status?),
        signal = signals.next() => {
            // Ctrl-C reaches the command by itself, being in our process group.
            if signal == SignalKind::terminate() {
                pass_on_termination(&child)?;
            }
        }
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        child.start_kill()?;
    }
    Ok(child.wait().await?)
}

fn pass_on_termination(child: &Child) -> anyhow::Result<()> {
    if let Some(id) = child.id() {
        kill(Pid::from_raw(i32::try_from(id)?), SIGTERM)?;
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "an example has no settings but this one"
)]
fn bin_dir() -> Option<PathBuf> {
    std::env::var_os("PG_BIN_DIR").map(PathBuf::from)
}

/// The child's own, or a shell's 128 + signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

//! Errors of a local server, with remedies.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use nix::errno::Errno;

/// Why a local server could not be found, started, used or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LocalServerError {
    /// No usable server is installed.
    #[error(
        "no PostgreSQL {minimum} or newer is installed here. Do one of:\n\
         \x20 Debian, Ubuntu   apt-get install postgresql\n\
         \x20 Fedora, RHEL     dnf install postgresql-server postgresql-contrib\n\
         \x20 Arch             pacman -S postgresql\n\
         \x20 Alpine           apk add postgresql postgresql-contrib\n\
         \x20 macOS            brew install postgresql@17, or Postgres.app\n\
         \x20 elsewhere        set PG_BIN_DIR to the directory that holds `initdb` and `postgres`\n\
         or set DATABASE_URL to use a server that runs already"
    )]
    NotInstalled {
        /// The oldest supported major version.
        minimum: u32,
    },
    /// The directory named by `PG_BIN_DIR` has no usable server in it.
    #[error(
        "{dir} does not hold a PostgreSQL {minimum} or newer (`initdb` and `postgres` that run here): set PG_BIN_DIR \
         to one that does, such as /usr/lib/postgresql/17/bin, or unset it to use the newest that is installed",
        dir = .dir.display()
    )]
    BadBinDir {
        /// The directory that was named.
        dir: PathBuf,
        /// The oldest supported major version.
        minimum: u32,
    },
    /// A file or program could not be used.
    #[error("cannot {action} {path}", path = .path.display())]
    File {
        /// The failed action, as a verb.
        action: &'static str,
        /// The file or program.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The program runs as root, and there is no user to run the server as.
    #[error(
        "PostgreSQL does not run as root, and there is no user `postgres` to run it as: run this as an ordinary user, \
         or create that user (`useradd --system postgres`)"
    )]
    NoServerUser,
    /// The program runs as root, and the user `postgres` cannot reach the directory.
    #[error(
        "the server runs as user `postgres`, who cannot get through {blocked}: `chmod o+x` it, or keep the data \
         elsewhere, such as under /var/lib",
        blocked = .blocked.display()
    )]
    Unreachable {
        /// The directory that this user may not enter.
        blocked: PathBuf,
    },
    /// The directory contains data but not the password.
    #[error(
        "{path} is missing or empty, and with it the password to the data beside it: put it back, or remove the whole \
         directory to start afresh",
        path = .path.display()
    )]
    NoPassword {
        /// The missing password file.
        path: PathBuf,
    },
    /// Another major version created the data.
    #[error(
        "{data} was made by PostgreSQL {made_by} and the server found is PostgreSQL {found}: set PG_BIN_DIR to the \
         programs of {made_by}, or remove the directory to start afresh",
        data = .data.display()
    )]
    OtherVersion {
        /// The data directory.
        data: PathBuf,
        /// The major version that created the data.
        made_by: String,
        /// The installed major version.
        found: u32,
    },
    /// Another program has been starting a server on the same directory for too long.
    #[error(
        "another program has been starting the server in {dir} for a minute: end that program, or use another directory",
        dir = .dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The data directory could not be created.
    #[error(
        "initdb failed ({status}); the end of its output:
{output}"
    )]
    Initdb {
        /// Its exit status.
        status: ExitStatus,
        /// The end of its output.
        output: String,
    },
    /// No port was free.
    #[error("no free port on 127.0.0.1")]
    NoPort(#[source] io::Error),
    /// The server ended instead of starting.
    #[error("the server ended at once ({status}); the end of its log says why:\n{log}")]
    Exited {
        /// Its exit status.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The server runs but does not accept connections.
    #[error("the server did not accept connections within a minute; the end of its log:\n{log}")]
    NotReady {
        /// The end of its log.
        log: String,
    },
    /// The database does not exist and could not be created.
    #[error("cannot create the database `{name}`")]
    CreateDatabase {
        /// The database.
        name: String,
        /// The cause.
        source: sqlx::Error,
    },
    /// The server could not be told to stop.
    #[error("cannot signal the server (process {pid})")]
    Signal {
        /// The server's process.
        pid: i32,
        /// The cause.
        source: Errno,
    },
    /// The server was told to stop but did not within a minute.
    #[error(
        "the server (process {pid}) is still stopping after a minute; the end of its log:\n{log}"
    )]
    StillRunning {
        /// The server's process.
        pid: i32,
        /// The end of its log.
        log: String,
    },
}

impl LocalServerError {
    /// `action` (a verb) failed on `path`.
    pub(super) fn file(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::File {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }
}

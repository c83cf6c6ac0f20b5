//! What can go wrong with a server of our own, and what to do about it.

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
        /// The oldest major version that would do.
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
        /// The oldest major version that would do.
        minimum: u32,
    },
    /// A file or program could not be used.
    #[error("cannot {action} {path}", path = .path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Running as root, and nobody to run the server as.
    #[error(
        "PostgreSQL does not run as root, and there is no user `postgres` to run it as: run this as an ordinary user, \
         or create that user (`useradd --system postgres`)"
    )]
    NoServerUser,
    /// Running as root, and the user `postgres` cannot get at the directory.
    #[error(
        "the server runs as user `postgres`, who cannot get through {blocked}: `chmod o+x` it, or keep the data \
         elsewhere, such as under /var/lib",
        blocked = .blocked.display()
    )]
    Unreachable {
        /// The directory that stands in the way.
        blocked: PathBuf,
    },
    /// The directory holds data, but not the password to it.
    #[error(
        "{path} is missing or empty, and with it the password to the data beside it: put it back, or remove the whole \
         directory to start afresh",
        path = .path.display()
    )]
    NoPassword {
        /// Where the password should be.
        path: PathBuf,
    },
    /// The data was made by another major version.
    #[error(
        "{data} was made by PostgreSQL {made_by} and the server found is PostgreSQL {found}: set PG_BIN_DIR to the \
         programs of {made_by}, or remove the directory to start afresh",
        data = .data.display()
    )]
    OtherVersion {
        /// The data directory.
        data: PathBuf,
        /// The major version that made it.
        made_by: String,
        /// The major version that was found.
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
    /// The data directory could not be made.
    #[error("initdb failed ({status}); its last words:\n{output}")]
    Initdb {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// No port was free.
    #[error("no free port on 127.0.0.1")]
    NoPort(#[source] io::Error),
    /// The server ended instead of starting.
    #[error("the server ended at once ({status}); the end of its log says why:\n{log}")]
    Exited {
        /// How it ended.
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
    /// The database is not there and could not be made.
    #[error("cannot create the database `{name}`")]
    CreateDatabase {
        /// The database.
        name: String,
        /// Why not.
        source: sqlx::Error,
    },
    /// The server could not be told to stop.
    #[error("cannot signal the server (process {pid})")]
    Signal {
        /// The server's process.
        pid: i32,
        /// Why not.
        source: Errno,
    },
    /// The server was told to stop, and did not within a minute.
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

//! The directory of a local server: its data, its password, its log, and the lock that guards a start.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::{Uid, User};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{LocalServerError, POLL_INTERVAL, ServerBinaries};

/// The database superuser, and the system user of the server if the program runs as root.
pub(super) const SUPERUSER: &str = "postgres";
/// Lines of the log that an error quotes.
const TAIL_LINES: usize = 12;

/// The paths of a local server, and the user that it runs as.
#[derive(Debug, Clone)]
pub(super) struct DataDirectory {
    root: PathBuf,
    data: PathBuf,
    /// The user that the server runs as. `None` if the program does not run as root.
    server_user: Option<(u32, u32)>,
}

/// The server's main process, as its pid file describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    pub(super) port: u16,
}

impl DataDirectory {
    /// Creates the directory if it does not exist, and checks that the server can reach it.
    pub(super) fn open(dir: &Path) -> Result<Self, LocalServerError> {
        let server_user = server_user()?;
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(|e| LocalServerError::file("create", dir, e))?;
            // Its secret files have their own private permissions.
            fs::set_permissions(dir, Permissions::from_mode(0o755))
                .map_err(|e| LocalServerError::file("set the permissions of", dir, e))?;
        }
        let root = dir
            .canonicalize()
            .map_err(|e| LocalServerError::file("open", dir, e))?;
        if server_user.is_some()
            && let Some(blocked) = root.ancestors().find(|dir| !is_open_to_others(dir))
        {
            return Err(LocalServerError::Unreachable {
                blocked: blocked.to_owned(),
            });
        }
        Ok(Self {
            data: root.join("data"),
            root,
            server_user,
        })
    }

    /// Where the server keeps its data.
    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Where the server logs.
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// Waits for the lock that guards a start. The lock ends with the returned file or with the program.
    pub(super) async fn lock(&self, deadline: Instant) -> Result<File, LocalServerError> {
        let path = self.root.join("lock");
        let file = private_file()
            .open(&path)
            .map_err(|e| LocalServerError::file("open", &path, e))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(POLL_INTERVAL).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LocalServerError::Locked {
                        dir: self.root.clone(),
                    });
                }
                Err(TryLockError::Error(e)) => {
                    return Err(LocalServerError::file("lock", &path, e));
                }
            }
        }
    }

    /// The superuser's password. It is generated before the first start and kept.
    pub(super) fn password(&self) -> Result<String, LocalServerError> {
        let path = self.password_file();
        match fs::read_to_string(&path) {
            Ok(kept) if !kept.trim().is_empty() => return Ok(kept.trim().to_owned()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(LocalServerError::file("read", &path, e)),
        }
        if self.data.exists() {
            return Err(LocalServerError::NoPassword { path });
        }
        let password = format!("{:032x}", rand::random::<u128>());
        private_file()
            .open(&path)
            .and_then(|mut file| {
                writeln!(file, "{password}")?;
                file.sync_all()
            })
            .and_then(|()| self.give_to_server(&path))
            .map_err(|e| LocalServerError::file("write", &path, e))?;
        Ok(password)
    }

    /// Creates the data directory if it does not exist. It gets its final name only when it is complete, so that a
    /// killed first start leaves no incomplete directory behind.
    pub(super) async fn initialize(
        &self,
        binaries: &ServerBinaries,
        options: &[(&str, &str)],
    ) -> Result<(), LocalServerError> {
        if self.data.exists() {
            return self.check_version(binaries);
        }
        let unfinished = self.root.join("data.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)
                .map_err(|e| LocalServerError::file("remove", &unfinished, e))?;
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&unfinished)
            .and_then(|()| self.give_to_server(&unfinished))
            .map_err(|e| LocalServerError::file("create", &unfinished, e))?;
        let mut command = self.command(&binaries.initdb());
        command
            .args([
                "--username",
                SUPERUSER,
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
            ])
            .arg("--pwfile")
            .arg(self.password_file())
            .arg("--pgdata")
            .arg(&unfinished)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        if options.contains(&("fsync", "off")) {
            command.arg("--no-sync");
        }
        let output = command
            .output()
            .await
            .map_err(|e| LocalServerError::file("run", binaries.initdb(), e))?;
        if !output.status.success() {
            let output_tail = tail(&String::from_utf8_lossy(&output.stderr));
            return Err(LocalServerError::Initdb {
                status: output.status,
                output: output_tail,
            });
        }
        fs::rename(&unfinished, &self.data)
            .map_err(|e| LocalServerError::file("create", &self.data, e))
    }

    fn check_version(&self, binaries: &ServerBinaries) -> Result<(), LocalServerError> {
        let path = self.data.join("PG_VERSION");
        let made_by =
            fs::read_to_string(&path).map_err(|e| LocalServerError::file("read", &path, e))?;
        let made_by = made_by.trim().to_owned();
        let found = binaries.major();
        if made_by == found.to_string() {
            return Ok(());
        }
        Err(LocalServerError::OtherVersion {
            data: self.data.clone(),
            made_by,
            found,
        })
    }

    /// A command that runs one of the server's programs as the server's user.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Messages are in English whatever the caller's locale, and on macOS the server needs a locale.
        command.current_dir(&self.root).env("LC_ALL", "C");
        if let Some((uid, gid)) = self.server_user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// The server's main process, if its pid file exists and is complete. The process may be dead.
    pub(super) fn postmaster(&self) -> Option<Postmaster> {
        parse_pid_file(&fs::read_to_string(self.data.join("postmaster.pid")).ok()?)
    }

    /// An empty log for a new start.
    pub(super) fn new_log(&self) -> Result<File, LocalServerError> {
        let path = self.log();
        private_file()
            .open(&path)
            .and_then(|file| file.set_len(0).map(|()| file))
            .map_err(|e| LocalServerError::file("write", &path, e))
    }

    /// The last lines of the log, for an error message.
    pub(super) fn log_tail(&self) -> String {
        let path = self.log();
        match fs::read(&path) {
            Ok(log) => tail(&String::from_utf8_lossy(&log)),
            Err(e) => format!("({} cannot be read: {e})", path.display()),
        }
    }

    fn password_file(&self) -> PathBuf {
        self.root.join("password")
    }

    fn give_to_server(&self, path: &Path) -> io::Result<()> {
        self.server_user
            .map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
    }
}

/// The system user `postgres`, if the program runs as root, which Postgres refuses. Every package of Postgres creates
/// this user.
fn server_user() -> Result<Option<(u32, u32)>, LocalServerError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    match User::from_name(SUPERUSER) {
        Ok(Some(user)) => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        Ok(None) | Err(_) => Err(LocalServerError::NoServerUser),
    }
}

/// Whether others may reach the directory. The server's user is not root and normally not in root's groups, so only the
/// permissions of others count.
fn is_open_to_others(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options
}

/// Parses the pid file: the first line is the process id, the fourth the port. The server writes it line by line, so it
/// may be incomplete.
fn parse_pid_file(text: &str) -> Option<Postmaster> {
    let lines: Vec<&str> = text.lines().collect();
    let pid = lines.first()?.trim().parse().ok().filter(|pid| *pid > 0)?;
    let port = lines.get(3)?.trim().parse().ok()?;
    Some(Postmaster { pid, port })
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file_names_process_and_port() {
        let text = "4711\n/srv/pg/data\n1753000000\n54321\n\n127.0.0.1\n  1 2\nready   \n";
        assert_eq!(
            parse_pid_file(text),
            Some(Postmaster {
                pid: 4711,
                port: 54321
            })
        );
    }

    #[test]
    fn half_written_pid_file_names_nobody() {
        assert_eq!(parse_pid_file("4711\n/srv/pg/data\n"), None);
        assert_eq!(parse_pid_file(""), None);
    }

    #[test]
    fn pid_file_of_a_single_user_session_names_nobody() {
        assert_eq!(parse_pid_file("-4711\n/srv/pg/data\n1753000000\n0\n"), None);
    }

    #[test]
    fn tail_is_the_last_lines() {
        let lines: Vec<String> = (1..=20).map(|line| format!("line {line}")).collect();
        let text = lines.join(
            "
",
        );
        assert!(tail(&text).starts_with("line 9\n") && tail(&text).ends_with("line 20"));
        assert_eq!(tail("one\ntwo"), "one\ntwo");
    }
}

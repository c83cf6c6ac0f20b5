//! Finds the programs of an installed Postgres server. Packages rarely put them on the PATH, so this module searches
//! the directories of each packager and uses the newest version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::LocalServerError;

/// The oldest version that the product's SQL supports.
const OLDEST_MAJOR: u32 = 15;

/// Packagers with one directory per major version: the parent, the prefix before the version, and the subdirectory of
/// the programs.
const VERSIONED_DIRECTORIES: &[(&str, &str, &str)] = &[
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                   // PGDG's RPMs
    ("/usr/libexec", "postgresql", ""),          // Alpine
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew, Apple silicon
    ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew, Intel
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"), // Homebrew, Linux
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// The programs of an installed server, version 15 or newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerBinaries {
    dir: PathBuf,
    major: u32,
}

impl ServerBinaries {
    /// Finds the programs: in `bin_dir` (the variable `PG_BIN_DIR`) if it is given, otherwise the newest version in the
    /// usual directories or on the PATH.
    ///
    /// # Errors
    /// When there are none. The message says what to install on each platform.
    pub fn find(bin_dir: Option<&Path>) -> Result<Self, LocalServerError> {
        if let Some(dir) = bin_dir {
            return Self::inspect(dir.to_owned()).ok_or_else(|| LocalServerError::BadBinDir {
                dir: dir.to_owned(),
                minimum: OLDEST_MAJOR,
            });
        }
        VERSIONED_DIRECTORIES
            .iter()
            .flat_map(|(parent, prefix, below)| versions_in(Path::new(parent), prefix, below))
            .chain(path_directories())
            .filter_map(Self::inspect)
            // Of equal versions take the first: a packager's own directory rather than links to it on the PATH.
            .reduce(|best, next| if next.major > best.major { next } else { best })
            .ok_or(LocalServerError::NotInstalled {
                minimum: OLDEST_MAJOR,
            })
    }

    /// The server's major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    /// The programs in this directory, if all exist and are new enough. The program itself reports its version, because
    /// a directory's name is only the packager's choice.
    fn inspect(dir: PathBuf) -> Option<Self> {
        if !dir.join("initdb").is_file() || !dir.join("postgres").is_file() {
            return None;
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let major = major_version(&String::from_utf8_lossy(&output.stdout))?;
        (major >= OLDEST_MAJOR).then_some(Self { dir, major })
    }
}

/// The directories `parent/<prefix><number>/<below>`.
fn versions_in(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.to_str()
                .and_then(|name| name.strip_prefix(prefix))
                .is_some_and(|version| version.parse::<f32>().is_ok())
        })
        .map(|entry| entry.path().join(below))
        .collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "PATH belongs to the machine and is not a setting of ours"
)]
fn path_directories() -> Vec<PathBuf> {
    std::env::var_os("PATH")
        .map(|path| {
            std::env::split_paths(&path)
                .filter(|dir| dir.is_absolute())
                .collect()
        })
        .unwrap_or_default()
}

/// The major version: 15 for `postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)`, 18 for `postgres (PostgreSQL)
/// 18beta1`.
fn major_version(output: &str) -> Option<u32> {
    let version = output.split("(PostgreSQL) ").nth(1)?;
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_is_read_from_every_packagers_wording() {
        assert_eq!(
            major_version("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(
            major_version("postgres (PostgreSQL) 17.2 (Homebrew)\n"),
            Some(17)
        );
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_version("postgres (PostgreSQL) 16\n"), Some(16));
        assert_eq!(major_version("something else 16\n"), None);
    }

    #[test]
    fn only_directories_named_after_a_version_are_looked_at() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["pgsql-15", "pgsql-17", "pgsql-next", "share"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let mut found = versions_in(parent.path(), "pgsql-", "bin");
        found.sort();
        let expected = ["pgsql-15/bin", "pgsql-17/bin"].map(|dir| parent.path().join(dir));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_named_directory_without_a_server_is_refused_and_nothing_else_is_tried() {
        let empty = tempfile::tempdir().unwrap();
        let error = ServerBinaries::find(Some(empty.path())).unwrap_err();
        assert!(
            matches!(error, LocalServerError::BadBinDir { .. }),
            "{error}"
        );
    }
}

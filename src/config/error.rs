//! Why settings cannot be used.

use std::path::PathBuf;

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key is unknown, or a value has the wrong type.
    #[error("the settings cannot be read; docs/configuration.md lists every key")]
    Read(#[from] config::ConfigError),
    /// A file that a setting names cannot be read.
    #[error("{key} cannot be read from {}", path.display())]
    File {
        /// The key, as in TOML.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A value and its file are both set.
    #[error("{0} and {0}_file are both set: leave one out")]
    Twice(&'static str),
    /// A value is out of bounds.
    #[error("{key} must be {must}, not {is}")]
    OutOfBounds {
        /// The key, as in TOML.
        key: &'static str,
        /// The allowed values.
        must: &'static str,
        /// The value.
        is: String,
    },
    /// Kubernetes has set a variable that looks like a setting.
    #[error(
        "{0} is no setting: Kubernetes sets it for a Service whose name begins with drift-retention; \
         set `enableServiceLinks: false` in the pod's spec"
    )]
    ServiceLink(String),
    /// No database is named.
    #[error(
        "no database is named: set DATABASE_URL, `database.url` in the --config file, or pass --database-url"
    )]
    NoDatabase,
}

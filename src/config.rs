//! Settings from flags, then the environment, then a TOML file. Unknown keys are refused everywhere.

mod attach;
mod duration;
mod environment;
mod error;
mod hours;
mod http;
mod purge;
mod reference;
mod secret;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono_tz::Tz;
use config::{Config as Sources, File, FileFormat};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::{
    attach::AttachConfig,
    error::ConfigError,
    hours::Hours,
    http::{HttpConfig, TrustedProxies},
    purge::PurgeConfig,
    reference::{Setting, settings},
    secret::Secret,
};

/// With fewer connections, a process could block itself.
pub const MIN_CONNECTIONS: u32 = 4;

/// All settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A read replica of `database.url`, for expensive reads: previews, gauges and the overview.
    pub replica_url: Option<String>,
    /// A file that holds the URL, in place of `replica_url`.
    #[schema(value_type = Option<String>)]
    pub replica_url_file: Option<PathBuf>,
    /// `database.*`
    pub database: DatabaseConfig,
    /// `http.*`
    pub http: HttpConfig,
    /// `auth.*`
    pub auth: AuthConfig,
    /// `worker.*`
    pub worker: WorkerConfig,
    /// `purge.*`
    pub purge: PurgeConfig,
    /// `schedule.*`
    pub schedule: ScheduleConfig,
    /// `attach.*`
    pub attach: AttachConfig,
}

/// `database.*`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// Where Postgres is: `postgres://user:password@host/database`. Also `DATABASE_URL` and `--database-url`.
    pub url: Option<String>,
    /// A file that holds the URL, in place of `database.url`.
    #[schema(value_type = Option<String>)]
    pub url_file: Option<PathBuf>,
    /// The URL of Postgres itself, if `database.url` leads to a pooler in transaction mode. The queue and `migrate`
    /// need sessions.
    pub direct_url: Option<String>,
    /// A file that holds the URL, in place of `database.direct_url`.
    #[schema(value_type = Option<String>)]
    pub direct_url_file: Option<PathBuf>,
    /// The most connections that a process opens to each URL. If absent: two per concurrent run plus eight, and ten
    /// more with the role `api`.
    pub connections: Option<u32>,
}

/// `auth.*`: how the API's bearer tokens are verified. If nothing is set, the API refuses everything except health and
/// metrics.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The secret shared with the issuer of HS256 tokens: at least 32 bytes.
    #[schema(value_type = Option<String>)]
    pub hs256_secret: Option<Secret>,
    /// A file that holds the secret, in place of `auth.hs256_secret`.
    #[schema(value_type = Option<String>)]
    pub hs256_secret_file: Option<PathBuf>,
    /// A set of public keys (RS256, ES256, EdDSA): a file, or a URL.
    pub jwks: Option<String>,
    /// Tokens must be from this issuer.
    pub issuer: Option<String>,
    /// Tokens must be for this audience.
    pub audience: Option<String>,
}

/// `worker.*`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Runs that purge at once. If absent: the number of cores. A worker holds twice as many runs, because some are
    /// starting or ending.
    pub concurrency: Option<usize>,
    /// How often a worker sends a heartbeat. A worker that misses four in a row is considered dead.
    #[serde(with = "duration")]
    #[schema(value_type = String)]
    pub heartbeat: Duration,
    /// Attempts before a run fails.
    pub max_attempts: i32,
    /// The longest wait after the first failed attempt.
    #[serde(with = "duration")]
    #[schema(value_type = String)]
    pub backoff_base: Duration,
    /// The longest wait after any failed attempt.
    #[serde(with = "duration")]
    #[schema(value_type = String)]
    pub backoff_max: Duration,
    /// How long a stop may take.
    #[serde(with = "duration")]
    #[schema(value_type = String)]
    pub shutdown_grace: Duration,
    /// How long the records of final runs are kept.
    #[serde(with = "duration")]
    #[schema(value_type = String)]
    pub keep_runs: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: None,
            heartbeat: Duration::from_secs(5),
            max_attempts: 8,
            backoff_base: Duration::from_secs(10),
            backoff_max: Duration::from_hours(1),
            shutdown_grace: Duration::from_secs(10),
            keep_runs: Duration::from_hours(9600),
        }
    }
}

impl WorkerConfig {
    /// The number of runs that purge at once.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.concurrency
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }
}

/// `schedule.*`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// The times of the slots: a cron expression with six fields, seconds first.
    pub cron: String,
    /// The time zone of the cron expression: an IANA name.
    #[schema(value_type = String)]
    pub timezone: Tz,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            cron: "0 0 2 * * *".into(),
            timezone: Tz::UTC,
        }
    }
}

impl Config {
    /// Reads `file` and the environment, which overrides it.
    ///
    /// # Errors
    /// When the file cannot be read, a key is unknown, or a value is out of bounds.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut sources = Sources::builder();
        if let Some(file) = file {
            sources = sources.add_source(File::from(file).format(FileFormat::Toml));
        }
        if let Some(url) = environment::database_url() {
            let url = Sources::builder().set_override("database.url", url)?;
            sources = sources.add_source(url.build()?);
        }
        let sources = sources.add_source(environment::settings()?);
        let mut config: Self = sources.build()?.try_deserialize()?;
        config.read_secrets()?;
        config.validate()?;
        Ok(config)
    }

    /// Reads each value that is set by a file (`…_file`) from that file.
    fn read_secrets(&mut self) -> Result<(), ConfigError> {
        let Self { database, auth, .. } = self;
        for (key, url, file) in [
            ("replica_url", &mut self.replica_url, &self.replica_url_file),
            ("database.url", &mut database.url, &database.url_file),
            (
                "database.direct_url",
                &mut database.direct_url,
                &database.direct_url_file,
            ),
        ] {
            secret::read_in_place_of(key, url, file.as_deref(), |url| url)?;
        }
        secret::read_in_place_of(
            "auth.hs256_secret",
            &mut auth.hs256_secret,
            auth.hs256_secret_file.as_deref(),
            Secret::new,
        )
    }

    /// The database's URL.
    ///
    /// # Errors
    /// When none is set.
    pub fn database_url(&self) -> Result<&str, ConfigError> {
        self.database.url.as_deref().ok_or(ConfigError::NoDatabase)
    }

    /// The URL of Postgres itself, not of a pooler in front of it.
    ///
    /// # Errors
    /// When none is set.
    pub fn direct_database_url(&self) -> Result<&str, ConfigError> {
        let direct = self.database.direct_url.as_deref();
        direct.map_or_else(|| self.database_url(), Ok)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let worker = &self.worker;
        let secret = self
            .auth
            .hs256_secret
            .as_ref()
            .map(|secret| secret.reveal().len());
        bound(
            "auth.hs256_secret",
            secret.is_none_or(|length| length >= 32),
            "at least 32 bytes long",
            || format!("{} bytes", secret.unwrap_or_default()),
        )?;
        // An empty value would refuse every token or check nothing.
        for (key, value) in [
            ("auth.jwks", &self.auth.jwks),
            ("auth.issuer", &self.auth.issuer),
            ("auth.audience", &self.auth.audience),
        ] {
            let is_empty = value.as_deref().is_some_and(str::is_empty);
            bound(key, !is_empty, "absent or set to a value", || {
                "empty".to_owned()
            })?;
        }
        for (key, length) in [
            ("worker.heartbeat", worker.heartbeat),
            ("worker.backoff_base", worker.backoff_base),
            ("worker.backoff_max", worker.backoff_max),
            ("worker.shutdown_grace", worker.shutdown_grace),
            ("worker.keep_runs", worker.keep_runs),
            ("purge.max_replica_lag", self.purge.max_replica_lag),
        ] {
            bound(
                key,
                length <= duration::MAX_DURATION,
                "at most 36500d",
                || duration::to_text(length),
            )?;
        }
        // apalis registers workers and measures their silence in whole seconds.
        bound(
            "worker.heartbeat",
            worker.heartbeat >= Duration::from_millis(500),
            "at least 500ms",
            || humantime::format_duration(worker.heartbeat).to_string(),
        )?;
        bound(
            "database.connections",
            self.database
                .connections
                .is_none_or(|n| (MIN_CONNECTIONS..=10_000).contains(&n)),
            "from 4 to 10000",
            || self.database.connections.unwrap_or_default().to_string(),
        )?;
        bound(
            "worker.concurrency",
            worker.concurrency.is_none_or(|n| (1..=256).contains(&n)),
            "from 1 to 256",
            || worker.concurrency.unwrap_or_default().to_string(),
        )?;
        bound(
            "worker.max_attempts",
            (1..=1000).contains(&worker.max_attempts),
            "from 1 to 1000",
            || worker.max_attempts.to_string(),
        )?;
        bound(
            "worker.backoff_max",
            worker.backoff_max >= worker.backoff_base,
            "at least worker.backoff_base",
            || humantime::format_duration(worker.backoff_max).to_string(),
        )?;
        bound(
            "purge.batch_size",
            self.purge
                .batch_size
                .is_none_or(|n| (1..=100_000).contains(&n)),
            "from 1 to 100000",
            || self.purge.batch_size.unwrap_or_default().to_string(),
        )
    }
}

fn bound(
    key: &'static str,
    holds: bool,
    must: &'static str,
    is: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::OutOfBounds {
            key,
            must,
            is: is(),
        })
    }
}

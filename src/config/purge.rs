//! `purge.*`: how gently, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Hours, attach::several, duration};

/// `purge.*`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeConfig {
    /// Rows per batch; absent: the worker follows the time that batches take.
    pub batch_size: Option<u32>,
    /// When scheduled runs may purge, in `schedule.timezone`: `22:00-06:00`. A purge now may at any time. Absent: always.
    #[schema(value_type = Option<String>)]
    pub between: Option<Hours>,
    /// Whether to slow down for the main app, replicas, lock waits, autovacuum and write-ahead log.
    pub throttle: bool,
    /// Whose sessions count as the main app at work: database users and application names. None: everybody's but ours. Name the
    /// main app's where others have sessions on the database who should not slow the purge down. In the environment separated by commas.
    #[serde(deserialize_with = "several")]
    pub foreground: Vec<String>,
    /// How far a replica may be behind before nothing more is deleted until it has caught up.
    #[serde(with = "duration")]
    #[schema(value_type = String)]
    pub max_replica_lag: Duration,
    /// How many megabytes of write-ahead log a second the whole server may write before the purge slows down.
    pub max_wal_mb_per_second: u32,
}

impl Default for PurgeConfig {
    fn default() -> Self {
        Self {
            batch_size: None,
            between: None,
            throttle: true,
            foreground: Vec::new(),
            max_replica_lag: Duration::from_secs(10),
            max_wal_mb_per_second: 1_000,
        }
    }
}

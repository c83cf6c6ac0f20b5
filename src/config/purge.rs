//! `purge.*`: how fast scheduled runs may purge, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Hours, attach::list_or_text, duration};

/// `purge.*`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeConfig {
    /// Rows per batch. If absent, the worker adapts the size to the duration of batches.
    pub batch_size: Option<u32>,
    /// The hours in which scheduled runs may purge, in `schedule.timezone`: `22:00-06:00`. If absent: always. A purge
    /// now may run at any time.
    #[schema(value_type = Option<String>)]
    pub between: Option<Hours>,
    /// Whether to slow down for the main app, replicas, lock waits, autovacuum and write-ahead log.
    pub throttle: bool,
    /// Database users and application names whose sessions count as the main app. If empty, all sessions except ours
    /// count. Name the main app's if other sessions should not slow the purge down. In the environment, separated by
    /// commas.
    #[serde(deserialize_with = "list_or_text")]
    pub foreground: Vec<String>,
    /// The replica lag above which the purge stops deleting until the replica has caught up.
    #[serde(with = "duration")]
    #[schema(value_type = String)]
    pub max_replica_lag: Duration,
    /// Megabytes of write-ahead log per second, of the whole server, above which the purge slows down.
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

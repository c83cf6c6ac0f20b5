//! The load of the database: reasons against purging at full speed.

use crate::postgres::Database;

/// One sample of the database's load: `retention.pressure`.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// Sessions of others that were at work within the last second.
    pub(super) others_awake: i64,
    /// Sessions that wait for a lock of one of ours.
    pub(super) waiting_for_us: i64,
    /// How far the slowest replica is behind, in seconds.
    pub(super) replica_lag: f64,
    /// Whether autovacuum is at work on a table that is purged.
    pub(super) vacuuming: bool,
    /// Write-ahead log written so far, in bytes.
    pub(super) wal: f64,
    /// How much of it the slowest replica has replayed.
    pub(super) replayed: Option<f64>,
}

impl Pressure {
    /// Takes a sample. `foreground`: users and applications that count as the main app; none: all but ours.
    pub(super) async fn read(database: &Database, foreground: &[String]) -> sqlx::Result<Self> {
        let tables = database
            .mapping()
            .map_or_else(Vec::new, |mapping| mapping.purged.clone());
        sqlx::query_as!(
            Self,
            r#"-- purge.pressure
        SELECT others_awake AS "others_awake!", waiting_for_us AS "waiting_for_us!", replica_lag AS "replica_lag!",
               vacuuming AS "vacuuming!", wal AS "wal!", replayed
        FROM retention.pressure($1::oid[], $2::text[])"#,
            &tables,
            foreground
        )
        .fetch_one(database)
        .await
    }
}

//! Decides which pooled connections may be reused. After a failover the old primary may still answer, read-only. After
//! a migration, sessions may have outdated plans. A pool would reuse such connections forever.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{PgConnection, Row, postgres::PgPoolOptions, raw_sql};

use super::error::is_about_connection;

/// A connection that was idle for less than this is reused without a check. A check costs a round trip.
const MAX_UNCHECKED_IDLE: Duration = Duration::from_secs(1);

/// The access that a pool needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reads only; the server may be a replica.
    Read,
    /// Reads and writes; the server must accept writes.
    Write,
}

/// Decides for all pools of one database whether a connection may be reused.
#[derive(Debug)]
pub(super) struct Trust {
    access: Access,
    /// Connections opened before this time are not reused.
    lost_at: Mutex<Option<Instant>>,
}

impl Trust {
    pub(super) fn new(access: Access) -> Arc<Self> {
        Arc::new(Self {
            access,
            lost_at: Mutex::default(),
        })
    }

    /// Makes the pool close unusable connections instead of handing them out.
    pub(super) fn guard(self: &Arc<Self>, pool: PgPoolOptions) -> PgPoolOptions {
        let trust = self.clone();
        pool.before_acquire(move |connection, known| {
            let is_lost = trust.is_lost(known.age);
            let is_recent = known.idle_for < MAX_UNCHECKED_IDLE;
            let access = trust.access;
            Box::pin(
                async move { Ok(!is_lost && (is_recent || allows(connection, access).await?)) },
            )
        })
    }

    /// Distrusts all open connections after an error about a connection.
    pub(super) fn note(&self, error: &sqlx::Error) {
        if is_about_connection(error) {
            self.lose();
        }
    }

    /// Distrusts all open connections: they are closed instead of reused.
    pub(super) fn lose(&self) {
        *self.lost_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_lost(&self, age: Duration) -> bool {
        let lost_at = *self.lost_at.lock().unwrap_or_else(PoisonError::into_inner);
        lost_at.is_some_and(|at| age >= at.elapsed())
    }
}

/// Whether the server answers and, if needed, accepts writes.
async fn allows(connection: &mut PgConnection, access: Access) -> sqlx::Result<bool> {
    let row = raw_sql("SHOW transaction_read_only")
        .fetch_one(connection)
        .await?;
    Ok(access == Access::Read || row.try_get::<String, _>(0)? == "off")
}

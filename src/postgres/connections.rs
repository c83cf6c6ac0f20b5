//! Which connections may still be used. A failover can leave the old primary answering, and read-only; a migration can leave
//! sessions with plans that no longer fit. A pool would go on with such connections for ever.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{PgConnection, Row, postgres::PgPoolOptions, raw_sql};

use super::error::is_about_connection;

/// A connection that was in use so short a time ago is taken to be good; others are asked, which costs a round trip.
const RECENT: Duration = Duration::from_secs(1);

/// What a server may be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// A replica will do.
    Read,
    /// Only a server that takes writes.
    Write,
}

/// The trust that the pools of one database put in their connections.
#[derive(Debug)]
pub(super) struct Trust {
    access: Access,
    /// Connections opened before this are not used again.
    lost_at: Mutex<Option<Instant>>,
}

impl Trust {
    pub(super) fn new(access: Access) -> Arc<Self> {
        Arc::new(Self {
            access,
            lost_at: Mutex::default(),
        })
    }

    /// Closes connections that are not to be used again before somebody gets them.
    pub(super) fn guard(self: &Arc<Self>, pool: PgPoolOptions) -> PgPoolOptions {
        let trust = self.clone();
        pool.before_acquire(move |connection, known| {
            let is_lost = trust.is_lost(known.age);
            let is_recent = known.idle_for < RECENT;
            let access = trust.access;
            Box::pin(async move {
                Ok(!is_lost && (is_recent || is_good_for(connection, access).await?))
            })
        })
    }

    /// Takes note of an error that speaks against the connections there are.
    pub(super) fn note(&self, error: &sqlx::Error) {
        if is_about_connection(error) {
            self.lose();
        }
    }

    /// Every connection that is open now is closed before it is used again.
    pub(super) fn lose(&self) {
        *self.lost_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_lost(&self, age: Duration) -> bool {
        let lost_at = *self.lost_at.lock().unwrap_or_else(PoisonError::into_inner);
        lost_at.is_some_and(|at| age >= at.elapsed())
    }
}

/// Whether the server answers, and takes writes where it is to.
async fn is_good_for(connection: &mut PgConnection, access: Access) -> sqlx::Result<bool> {
    let row = raw_sql("SHOW transaction_read_only")
        .fetch_one(connection)
        .await?;
    Ok(access == Access::Read || row.try_get::<String, _>(0)? == "off")
}

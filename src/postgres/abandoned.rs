//! Statements that nobody waits for any more. A pool would take their connection back only when they are done, minutes later;
//! meanwhile the server works for nobody, and the connection is missing.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, query};
use tokio::runtime::Handle;

use super::Transaction;

/// Has Postgres cancel what a transaction is at, if it is dropped before the transaction has ended.
#[derive(Debug)]
pub(super) struct Abandoned(Option<Running>);

/// A transaction as the server knows it.
#[derive(Debug)]
struct Running {
    /// Where the order to cancel is given.
    cancels: PgPool,
    pid: i32,
    /// The same server process may be in another transaction by the time that it is cancelled.
    began_at: DateTime<Utc>,
}

impl Abandoned {
    /// Cancels `tx`, by a connection of `cancels`.
    pub(super) async fn of(tx: &mut Transaction<'_>, cancels: PgPool) -> sqlx::Result<Self> {
        let own = query!(
            r#"-- postgres.own_transaction
            SELECT pg_backend_pid() AS "pid!", transaction_timestamp() AS "began_at!""#
        )
        .fetch_one(tx)
        .await?;
        Ok(Self(Some(Running {
            cancels,
            pid: own.pid,
            began_at: own.began_at,
        })))
    }

    /// The transaction comes to its end.
    pub(super) fn is_over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(running) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(running.cancel());
        }
    }
}

impl Running {
    async fn cancel(self) {
        let cancelled = query!(
            "-- postgres.cancel_abandoned
             SELECT pg_cancel_backend(pid) FROM pg_stat_activity
             WHERE pid = $1 AND xact_start = $2 AND state = 'active'",
            self.pid,
            self.began_at
        )
        .fetch_optional(&self.cancels)
        .await;
        if let Err(error) = cancelled {
            tracing::debug!(
                %error,
                "cannot cancel a statement that nobody waits for"
            );
        }
    }
}

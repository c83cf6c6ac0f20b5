//! Cancels statements whose caller has gone. Without this, the server would finish the statement, perhaps minutes
//! later, and the pool would miss its connection until then.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, query};
use tokio::runtime::Handle;

use super::Transaction;

/// Cancels the transaction's statement if this guard is dropped before the transaction has ended.
#[derive(Debug)]
pub(super) struct Abandoned(Option<Running>);

/// A transaction, as the server identifies it.
#[derive(Debug)]
struct Running {
    /// The pool that sends the cancellation.
    cancels: PgPool,
    pid: i32,
    /// Identifies the transaction, because the same server process may be in another one when the cancellation arrives.
    began_at: DateTime<Utc>,
}

impl Abandoned {
    /// A guard that cancels `tx` over a connection of `cancels`.
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

    /// Disarms the guard: the transaction is ending.
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
                "cannot cancel a statement whose caller has gone"
            );
        }
    }
}

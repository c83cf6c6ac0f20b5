//! The lock that allows one migration at a time. Every role that can log in can take it, so a migration does not wait
//! long for it.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::time::sleep;

use super::SchemaError;

/// How long a migration waits for another one.
const LOCK_TIMEOUT: Duration = Duration::from_secs(8);
/// The pause between two attempts to take the lock.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Takes the lock for the lifetime of the session.
///
/// # Errors
/// When another session holds the lock for too long. The error names it.
pub(super) async fn take(session: &mut PgConnection) -> Result<(), SchemaError> {
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        let is_taken = sqlx::query_scalar!(
            r#"-- migrations.take_lock
            SELECT pg_try_advisory_lock(hashtext('drift-retention migrate')) AS "taken!""#
        )
        .fetch_one(&mut *session)
        .await?;
        if is_taken {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(SchemaError::Locked(holder(session).await?));
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn holder(session: &mut PgConnection) -> sqlx::Result<String> {
    let holder = sqlx::query_scalar!(
        "-- migrations.lock_holder
         SELECT format('pid %s, user %s, application %s, since %s', l.pid, a.usename, a.application_name, a.backend_start)
         FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32 | l.objid::bigint) = hashtext('drift-retention migrate')::bigint
         LIMIT 1"
    )
    .fetch_optional(session)
    .await?
    .flatten();
    Ok(holder.unwrap_or_else(|| "it has just gone; try again".into()))
}

//! One migration at a time. Whoever may log in can take the lock, and so no migration waits for it for long.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::time::sleep;

use super::SchemaError;

/// How long to wait for another migration.
const WAIT: Duration = Duration::from_secs(8);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes the lock for as long as the session lives.
///
/// # Errors
/// When somebody else has it for longer than we wait: the error says who.
pub(super) async fn take(session: &mut PgConnection) -> Result<(), SchemaError> {
    let until = Instant::now() + WAIT;
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
        sleep(PAUSE).await;
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

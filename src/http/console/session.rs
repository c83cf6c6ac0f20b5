//! Sessions of the console. A session is a random cookie that is stored as a hash and replaced regularly. It ends with
//! the token that began it, and with that token's key.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    http::{
        Identity, Role,
        auth::{SECRET_FINGERPRINT_PREFIX, Token},
    },
    ids::OrgId,
    postgres::Database,
};

/// The cookie's name.
pub(super) const COOKIE: &str = "drift_retention_session";

/// A signed-in user.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// The user's identity.
    pub identity: Identity,
    /// The CSRF token of the user's forms.
    pub csrf: String,
    /// Postgres's time of this request.
    pub now: DateTime<Utc>,
}

/// The session of a cookie.
#[derive(Debug)]
pub(super) struct Session {
    /// The id that operators see.
    pub id: Uuid,
    /// The user.
    pub visitor: Visitor,
    /// The fingerprint of the key that verified its token.
    pub key: String,
    /// The time since it began.
    pub age: Duration,
    /// Whether the cookie is old enough to be replaced.
    pub is_stale: bool,
    /// Whether the session was unused for a while.
    pub was_idle: bool,
}

/// 244 random bits as text.
pub(super) fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}

/// Begins a session for the token's bearer, and returns its cookie. The session ends with the token, after at most
/// twelve hours.
pub(super) async fn begin(database: &Database, token: &Token) -> sqlx::Result<String> {
    let cookie = secret();
    sqlx::query!(
        "-- console.begin_session
         WITH ended AS (DELETE FROM retention.console_sessions WHERE expires_at < now()),
              forgotten AS (DELETE FROM retention.spent_signin_links WHERE expires_at < now())
         INSERT INTO retention.console_sessions (id_hash, subject, role, org_id, csrf, key_fingerprint, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, least($7, now() + interval '12 hours'))",
        hash(&cookie),
        token.identity.subject,
        token.identity.role.name(),
        token.identity.org.map(|org| org.0),
        secret(),
        token.key,
        token.session_ends_at
    )
    .execute(database)
    .await?;
    Ok(cookie)
}

/// Marks a sign-in link as used. Returns false if it was already used. The key is the signed part of the token, because
/// an ES256 signature can be written in two ways.
pub(super) async fn spend_link(
    database: &Database,
    text: &str,
    token: &Token,
) -> sqlx::Result<bool> {
    let (says, _) = text.rsplit_once('.').unwrap_or((text, ""));
    let spent = sqlx::query!(
        "-- console.spend_link
         INSERT INTO retention.spent_signin_links (token_hash, expires_at)
         VALUES ($1, $2::timestamptz + interval '5 minutes') ON CONFLICT DO NOTHING",
        hash(says),
        token.expires_at
    )
    .execute(database)
    .await?;
    Ok(spent.rows_affected() == 1)
}

/// The session of this cookie. A replaced cookie stays valid for another minute, for requests that are already on their
/// way.
pub(super) async fn find(database: &Database, cookie: &str) -> sqlx::Result<Option<Session>> {
    let found = sqlx::query!(
        r#"-- console.find_session
        SELECT id, subject, role, org_id, csrf, key_fingerprint, now() AS "now!",
               extract(epoch FROM now() - created_at)::float8 AS "age!",
               id_hash = $1 AND rotated_at < now() - interval '15 minutes' AS "is_stale!",
               last_seen_at < now() - interval '1 minute' AS "was_idle!"
        FROM retention.console_sessions
        WHERE expires_at > now()
          AND (id_hash = $1 OR previous_hash = $1 AND rotated_at > now() - interval '1 minute')"#,
        hash(cookie)
    )
    .fetch_optional(database)
    .await?;
    Ok(found.and_then(|row| {
        let identity = Identity {
            subject: row.subject,
            role: Role::from_name(&row.role)?,
            org: row.org_id.map(OrgId),
        };
        let visitor = Visitor {
            identity,
            csrf: row.csrf,
            now: row.now,
        };
        Some(Session {
            id: row.id,
            visitor,
            key: row.key_fingerprint,
            age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
            is_stale: row.is_stale,
            was_idle: row.was_idle,
        })
    }))
}

/// Records that the session is in use.
pub(super) async fn note_use(database: &Database, session: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        "-- console.note_use
         UPDATE retention.console_sessions SET last_seen_at = now() WHERE id = $1",
        session
    )
    .execute(database)
    .await?;
    Ok(())
}

/// Replaces a session's cookie. Returns `None` if another request has just done so.
pub(super) async fn rotate(database: &Database, cookie: &str) -> sqlx::Result<Option<String>> {
    let next = secret();
    let rotated = sqlx::query!(
        "-- console.rotate_session
         UPDATE retention.console_sessions SET previous_hash = id_hash, id_hash = $2, rotated_at = now()
         WHERE id_hash = $1",
        hash(cookie),
        hash(&next)
    )
    .execute(database)
    .await?;
    Ok((rotated.rows_affected() == 1).then_some(next))
}

/// Ends the sessions whose tokens were signed with a shared secret other than that of `fingerprint`. `None` means that
/// there is no secret any more. Returns the number of ended sessions.
pub(in crate::http) async fn delete_sessions_of_other_secrets(
    database: &Database,
    fingerprint: Option<&str>,
) -> sqlx::Result<u64> {
    let ended = sqlx::query!(
        "-- console.end_sessions_of_other_secrets
         DELETE FROM retention.console_sessions
         WHERE starts_with(key_fingerprint, $1) AND key_fingerprint IS DISTINCT FROM $2",
        SECRET_FINGERPRINT_PREFIX,
        fingerprint
    )
    .execute(database)
    .await?;
    Ok(ended.rows_affected())
}

/// Ends the session of this cookie.
pub(super) async fn end(database: &Database, cookie: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "-- console.end_session
         DELETE FROM retention.console_sessions WHERE $1 IN (id_hash, previous_hash)",
        hash(cookie)
    )
    .execute(database)
    .await?;
    Ok(())
}

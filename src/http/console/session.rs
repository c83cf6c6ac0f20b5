//! Sessions of the console: a random cookie, kept as a hash, that is exchanged now and then and ends with the token
//! that it was signed in with.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    http::{Identity, Role},
    ids::OrgId,
    postgres::Database,
};

/// The cookie's name.
pub(super) const COOKIE: &str = "drift_retention_session";

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// Who, and what they may do.
    pub identity: Identity,
    /// What every form of theirs carries.
    pub csrf: String,
    /// Postgres's clock at this request.
    pub now: DateTime<Utc>,
}

/// A session that a cookie names.
#[derive(Debug)]
pub(super) struct Session {
    /// Whose it is.
    pub visitor: Visitor,
    /// Whether the cookie is old enough to be exchanged.
    pub is_stale: bool,
}

/// 244 random bits as text.
pub(super) fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}

/// Begins a session for `identity`, and returns its cookie. It ends with the token, after twelve hours at the latest.
pub(super) async fn begin(
    database: &Database,
    identity: &Identity,
    token_expires_at: DateTime<Utc>,
) -> sqlx::Result<String> {
    let cookie = secret();
    sqlx::query!(
        "-- console.begin_session
         WITH ended AS (DELETE FROM retention.console_sessions WHERE expires_at < now()),
              forgotten AS (DELETE FROM retention.spent_signin_links WHERE expires_at < now())
         INSERT INTO retention.console_sessions (id_hash, subject, role, org_id, csrf, expires_at)
         VALUES ($1, $2, $3, $4, $5, least($6, now() + interval '12 hours'))",
        hash(&cookie),
        identity.subject,
        identity.role.name(),
        identity.org.map(|org| org.0),
        secret(),
        token_expires_at
    )
    .execute(database)
    .await?;
    Ok(cookie)
}

/// Marks a sign-in link's token as spent; false when it was already.
pub(super) async fn spend_link(
    database: &Database,
    token: &str,
    expires_at: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let spent = sqlx::query!(
        "-- console.spend_link
         INSERT INTO retention.spent_signin_links (token_hash, expires_at)
         VALUES ($1, $2::timestamptz + interval '5 minutes') ON CONFLICT DO NOTHING",
        hash(token),
        expires_at
    )
    .execute(database)
    .await?;
    Ok(spent.rows_affected() == 1)
}

/// The session of this cookie. The one before an exchange is taken for a minute more: requests cross.
pub(super) async fn find(database: &Database, cookie: &str) -> sqlx::Result<Option<Session>> {
    let found = sqlx::query!(
        r#"-- console.find_session
        SELECT subject, role, org_id, csrf, now() AS "now!",
               id_hash = $1 AND rotated_at < now() - interval '15 minutes' AS "is_stale!"
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
            role: Role::named(&row.role)?,
            org: row.org_id.map(OrgId),
        };
        let visitor = Visitor {
            identity,
            csrf: row.csrf,
            now: row.now,
        };
        Some(Session {
            visitor,
            is_stale: row.is_stale,
        })
    }))
}

/// Exchanges a session's cookie for a new one; none when another request has just done so.
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

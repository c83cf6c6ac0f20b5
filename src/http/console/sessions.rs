//! The sessions of the console as operators see them: who is signed in, and how that is ended.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    ids::OrgId,
    postgres::Database,
    runs::{Cursor, Operator},
};

/// The fewest characters of an id that name a session.
const SHORTEST_PREFIX: usize = 8;

/// Somebody who is signed in.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// What it is known by; nobody can sign in with it.
    pub id: Uuid,
    /// Who.
    pub subject: String,
    /// Their role.
    pub role: String,
    /// Whose; operators have none.
    pub org_id: Option<OrgId>,
    /// When they signed in.
    pub since: DateTime<Utc>,
    /// When it ends by itself.
    pub until: DateTime<Utc>,
    /// When it was used last, to the minute.
    pub last_seen_at: DateTime<Utc>,
}

/// A page of sessions.
#[derive(Debug, Clone, Serialize)]
pub struct Page {
    /// Newest first.
    pub items: Vec<Session>,
    /// Where to go on; none: this was the last page.
    pub next_cursor: Option<Cursor>,
}

/// At most `limit` sessions that have not ended, of `subject` or of everybody, newest first, after `cursor`.
///
/// # Errors
/// When the database fails.
pub async fn list(
    database: &Database,
    subject: Option<&str>,
    cursor: Option<Cursor>,
    limit: u32,
) -> sqlx::Result<Page> {
    let (at, id) = cursor.map(Cursor::place).unzip();
    let mut items = sqlx::query_as!(
        Session,
        r#"-- console.sessions
        SELECT id, subject, role, org_id AS "org_id: OrgId", created_at AS since, expires_at AS until, last_seen_at
        FROM retention.console_sessions
        WHERE expires_at > now() AND ($1::text IS NULL OR subject = $1)
          AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))
        ORDER BY created_at DESC, id DESC LIMIT $4"#,
        subject,
        at,
        id,
        // One more than asked for tells whether there is a next page.
        i64::from(limit) + 1
    )
    .fetch_all(database)
    .await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let last = items.last().filter(|_| more);
    let next_cursor = last.map(|session| Cursor::after(session.since, session.id));
    Ok(Page { items, next_cursor })
}

/// A session's id, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId(String);

/// What is no beginning of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a session's id, or its first {SHORTEST_PREFIX} characters or more")]
pub struct BadSessionId;

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim().replace('-', "").to_ascii_lowercase();
        let is_prefix = (SHORTEST_PREFIX..=32).contains(&digits.len())
            && digits.chars().all(|digit| digit.is_ascii_hexdigit());
        is_prefix.then_some(Self(digits)).ok_or(BadSessionId)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which sessions.
#[derive(Debug, Clone)]
pub enum Which {
    /// These.
    Ids(Vec<SessionId>),
    /// All of one person.
    Subject(String),
    /// Everybody's.
    All,
}

/// Why no session was ended.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// No such session.
    #[error("there is no session {0}; `drift-retention sessions list` shows them")]
    NoSession(SessionId),
    /// Its id is too short.
    #[error("several sessions begin with {0}: write more of the id")]
    Ambiguous(SessionId),
    /// The database failed.
    #[error("the database failed; no session was ended")]
    Database(#[from] sqlx::Error),
}

/// Ends sessions, all or none of them, and records each with who did it and why. Returns those that it ended.
///
/// # Errors
/// When one of them is not there.
pub async fn revoke(
    database: &Database,
    which: &Which,
    by: &Operator,
) -> Result<Vec<Session>, RevokeError> {
    let (mut ids, mut subject) = (None, None);
    match which {
        Which::Ids(prefixes) => {
            let mut found = Vec::new();
            for prefix in prefixes {
                found.push(find(database, prefix).await?);
            }
            ids = Some(found);
        }
        Which::Subject(name) => subject = Some(name.as_str()),
        Which::All => {}
    }
    let revoked = sqlx::query_as!(
        Session,
        r#"-- console.revoke_sessions
        WITH revoked AS (
            DELETE FROM retention.console_sessions
            WHERE expires_at > now() AND ($1::uuid[] IS NULL OR id = ANY ($1)) AND ($2::text IS NULL OR subject = $2)
            RETURNING *
        ), recorded AS (
            INSERT INTO retention.operator_actions (actor, action, org_id, reason, details)
            SELECT $3, 'revoke_session', org_id, $4,
                   jsonb_build_object('session_id', id, 'subject', subject, 'role', role)
            FROM revoked ORDER BY created_at, id
        )
        SELECT id AS "id!", subject AS "subject!", role AS "role!", org_id AS "org_id: OrgId", created_at AS "since!",
               expires_at AS "until!", last_seen_at AS "last_seen_at!"
        FROM revoked ORDER BY created_at DESC, id DESC"#,
        ids.as_deref(),
        subject,
        by.name,
        by.reason
    )
    .fetch_all(database)
    .await?;
    Ok(revoked)
}

async fn find(database: &Database, prefix: &SessionId) -> Result<Uuid, RevokeError> {
    let found = sqlx::query_scalar!(
        "-- console.find_session_by_prefix
         SELECT id FROM retention.console_sessions
         WHERE expires_at > now() AND starts_with(replace(id::text, '-', ''), $1) LIMIT 2",
        prefix.0
    )
    .fetch_all(database)
    .await?;
    match found[..] {
        [id] => Ok(id),
        [] => Err(RevokeError::NoSession(prefix.clone())),
        _ => Err(RevokeError::Ambiguous(prefix.clone())),
    }
}

//! Lists the console's sessions for operators, and ends them.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    ids::OrgId,
    postgres::Database,
    runs::{Cursor, Operator},
};

/// The fewest characters of an id that identify a session.
const MIN_PREFIX_CHARS: usize = 8;

/// A session, as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// Identifies the session. Nobody can sign in with it.
    pub id: Uuid,
    /// The user's name.
    pub subject: String,
    /// The user's role.
    pub role: String,
    /// The user's organization. Operators have none.
    pub org_id: Option<OrgId>,
    /// When the user signed in.
    pub since: DateTime<Utc>,
    /// When the session ends by itself.
    pub until: DateTime<Utc>,
    /// When the session was last used, to the minute.
    pub last_seen_at: DateTime<Utc>,
}

/// A page of sessions.
#[derive(Debug, Clone, Serialize)]
pub struct Page {
    /// Newest first.
    pub items: Vec<Session>,
    /// The cursor of the next page, or `None` after the last page.
    pub next_cursor: Option<Cursor>,
}

/// At most `limit` live sessions of `subject` or of all users, newest first, after `cursor`.
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
        // One more session than `limit` shows whether there is a next page.
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

/// The text is not the beginning of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a session's id, or at least its first {MIN_PREFIX_CHARS} characters")]
pub struct BadSessionId;

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim().replace('-', "").to_ascii_lowercase();
        let is_prefix = (MIN_PREFIX_CHARS..=32).contains(&digits.len())
            && digits.chars().all(|digit| digit.is_ascii_hexdigit());
        is_prefix.then_some(Self(digits)).ok_or(BadSessionId)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A selection of sessions.
#[derive(Debug, Clone)]
pub enum Which {
    /// The sessions with these ids.
    Ids(Vec<SessionId>),
    /// All sessions of one person.
    Subject(String),
    /// All sessions.
    All,
}

/// Why no session was ended.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The session does not exist.
    #[error("there is no session {0}; `drift-retention sessions list` shows them")]
    NoSession(SessionId),
    /// Several sessions have ids with this beginning.
    #[error("several session ids begin with {0}: give more characters of the id")]
    Ambiguous(SessionId),
    /// The database failed.
    #[error("the database failed; no session was ended")]
    Database(#[from] sqlx::Error),
}

/// Ends all selected sessions or none, and records the operator and the reason for each. Returns the ended sessions.
///
/// # Errors
/// When one of the sessions does not exist.
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

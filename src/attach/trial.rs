//! What the two functions of the mapping do, tried on a few rows in transactions that are rolled back; and whether the words
//! that decide about rows are written as we take them.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};
use uuid::Uuid;

use super::{Depth, object, report::Object};
use crate::postgres::{self, Database, Transaction};

/// How many organizations and incidents a trial takes.
const FEW: i64 = 3;
/// How many it takes for `attach check`.
const MANY: i64 = 200;
/// How many organizations are looked at: rows are found by theirs, so that no table is read whole.
const SAMPLED: i64 = 50;
/// How many rows of each are looked at for words in another spelling.
const ROWS_OF_EACH: i64 = 20;

/// A trial holds rows only briefly, and gives way.
const BRIEFLY: [&str; 3] = [
    // Of each organization a few rows are read, by index. A plan by statistics may read the whole table for each.
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL lock_timeout = '100ms'",
    "SET LOCAL statement_timeout = '10s'",
];

/// Tries both functions; for `attach check` also a deletion from each purge view.
pub(super) async fn check(
    database: &Database,
    depth: Depth,
    objects: &mut [Object],
) -> sqlx::Result<()> {
    let rows = if depth >= Depth::Values { MANY } else { FEW };
    check_words(database, objects).await?;
    let tried = try_lock_plan(database, rows).await;
    conclude(tried, depth, object(objects, "lock_plan"))?;
    let tried = try_erase_payloads(database, rows).await;
    conclude(tried, depth, object(objects, "erase_payloads"))?;
    if depth >= Depth::Values {
        try_deletions(database, depth, objects).await?;
    }
    Ok(())
}

/// What a trial showed: nothing, or what is wrong.
type Tried = sqlx::Result<Option<String>>;

/// Puts what a trial showed on its object. A trigger of the main app's may refuse a row today and not tomorrow: at the start of
/// a process that is a warning, because the runs that meet it are retried. An error that no retry mends is a refusal, and for
/// `attach check` every error is.
fn conclude(tried: Tried, depth: Depth, object: Option<&mut Object>) -> sqlx::Result<()> {
    let Some(object) = object else {
        return Ok(());
    };
    match tried {
        Ok(None) => {}
        Ok(Some(what)) => object.refuse(what, "correct the function"),
        Err(error) if postgres::is_contention(&error) => object.warn(
            "it could not be tried: other sessions hold the rows, or it takes too long",
            "run `drift-retention attach check` again when the main app is quiet",
        ),
        // The functions have nothing to do with it.
        Err(error) if postgres::is_read_only_error(&error) => return Err(error),
        Err(sqlx::Error::Database(error)) => {
            let (says, remedy) = failure(error.as_ref());
            let code = error.code().unwrap_or_default().into_owned();
            let is_permanent = code.starts_with("42") || code.starts_with("DR");
            if is_permanent || depth >= Depth::Values {
                object.refuse(says, remedy);
            } else {
                object.warn(says, remedy);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// What Postgres says, and in which function it says so: that may be a trigger of the main app's.
fn failure(error: &dyn DatabaseError) -> (String, String) {
    let context = error
        .try_downcast_ref::<PgDatabaseError>()
        .and_then(PgDatabaseError::r#where)
        .and_then(|context| {
            context
                .lines()
                .find(|line| line.starts_with("PL/pgSQL function "))
        });
    let says = format!("it fails: {}", postgres::words_of(error));
    match context {
        Some(context) => (
            format!("{says} (in {context})"),
            "correct the function. A trigger of the main app's runs with this role's rights and search path; if it needs others: \
             ALTER FUNCTION … SECURITY DEFINER SET search_path = …"
                .to_owned(),
        ),
        None => (says, "correct the function".to_owned()),
    }
}

/// It must answer what `main_app.organizations` says, and lock something.
async fn try_lock_plan(database: &Database, organizations: i64) -> Tried {
    let mut tx = database.begin_with(&BRIEFLY).await?;
    let answers = sqlx::query!(
        r#"-- attach.try_lock_plan
        SELECT o.id AS "id!", retention.excerpt(o.plan) AS plan, retention.excerpt(main_app.lock_plan(o.id)) AS locked
        FROM (SELECT id, plan FROM main_app.organizations LIMIT $1) o"#,
        organizations
    )
    .fetch_all(&mut tx)
    .await?;
    let is_locking = sqlx::query_scalar!(
        r#"-- attach.is_locking
        SELECT EXISTS (SELECT FROM pg_locks
                       WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
                         AND mode NOT IN ('AccessShareLock')) AS "locking!""#
    )
    .fetch_one(&mut tx)
    .await?;
    tx.rollback().await?;
    let Some(first) = answers.first() else {
        return Ok(None);
    };
    if !is_locking {
        return Ok(Some(format!(
            "it locks no row: the plan of organization {} could change while a batch deletes",
            first.id
        )));
    }
    let differing = answers.iter().find(|answer| answer.plan != answer.locked);
    let shown = |plan: &Option<String>| {
        plan.as_ref()
            .map_or("NULL".to_owned(), |plan| format!("'{plan}'"))
    };
    Ok(differing.map(|answer| {
        format!(
            "it says {} for organization {}, of which main_app.organizations says {}",
            shown(&answer.locked),
            answer.id,
            shown(&answer.plan)
        )
    }))
}

/// It must leave no payload that a reader can see, say how many had one, and delete no incident.
async fn try_erase_payloads(database: &Database, incidents: i64) -> Tried {
    // One snapshot: what others write meanwhile is not the function's doing.
    let one_snapshot = ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"];
    let mut tx = database
        .begin_with(&[one_snapshot.as_slice(), &BRIEFLY].concat())
        .await?;
    let picked = pick_incidents(&mut tx, incidents).await?;
    if picked.is_empty() {
        tx.rollback().await?;
        return Ok(None);
    }
    stamp(&mut tx, &picked).await?;
    let before = witness(&mut tx, &picked).await?;
    let erased = sqlx::query_scalar!(
        r#"-- attach.try_erase_payloads
        SELECT retention.erase_payloads($1) AS "erased!""#,
        &picked
    )
    .fetch_one(&mut tx)
    .await?;
    let after = witness(&mut tx, &picked).await?;
    tx.rollback().await?;
    let count = i64::try_from(picked.len()).unwrap_or(i64::MAX);
    if let Some(wrong) = before.differs(&after) {
        return Ok(Some(wrong));
    }
    Ok((erased != count).then(|| {
        format!("it says that {erased} of {count} incidents had a payload, and all of them had one")
    }))
}

/// What erasing payloads must not touch.
struct Witness {
    incidents: i64,
    /// Every other column of these incidents; `updated_at` aside, which triggers of many apps set.
    columns: Option<String>,
    approvals: i64,
    /// Payloads of other incidents of the same organizations.
    others: i64,
}

impl Witness {
    /// What was touched all the same, in words.
    fn differs(&self, after: &Self) -> Option<String> {
        let what = if after.incidents < self.incidents {
            format!(
                "it deleted {} incidents, which must stay without their payloads",
                self.incidents - after.incidents
            )
        } else if after.columns != self.columns {
            "it changed other columns of incidents: status, closed_at and the like must stay"
                .to_owned()
        } else if after.approvals != self.approvals {
            "it deleted approvals, which go by their own rule".to_owned()
        } else if after.others != self.others {
            "it erased payloads of incidents that it was not asked for".to_owned()
        } else {
            return None;
        };
        Some(what)
    }
}

async fn witness(tx: &mut Transaction<'_>, picked: &[Uuid]) -> sqlx::Result<Witness> {
    sqlx::query_as!(
        Witness,
        r#"-- attach.witness
        SELECT count(*) AS "incidents!",
               md5(string_agg((to_jsonb(i) - 'ctid' - 'updated_at')::text, ' ' ORDER BY i.id)) AS columns,
               (SELECT count(*) FROM main_app.approvals a WHERE a.incident_id = ANY ($1)) AS "approvals!",
               (SELECT count(*)
                FROM (SELECT DISTINCT w.org_id FROM main_app.incidents w WHERE w.id = ANY ($1)) o
                CROSS JOIN LATERAL (
                    SELECT n.id FROM main_app.incidents n
                    WHERE n.org_id = o.org_id AND n.id <> ALL ($1)
                    ORDER BY n.org_id, n.closed_at LIMIT $2) n
                WHERE EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = n.id)) AS "others!"
        FROM main_app.incidents i WHERE i.id = ANY ($1)"#,
        picked,
        ROWS_OF_EACH
    )
    .fetch_one(tx)
    .await
}

/// Stamps them as a purge does: triggers of the main app's run on that with this role's rights.
async fn stamp(tx: &mut Transaction<'_>, picked: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        "-- attach.stamp
         UPDATE main_app.incidents SET payload_purged_at = now() WHERE id = ANY ($1) AND payload_purged_at IS NULL",
        picked
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes one check and one approval, as a purge would if they were expired, each in a transaction that is rolled back.
async fn try_deletions(
    database: &Database,
    depth: Depth,
    objects: &mut [Object],
) -> sqlx::Result<()> {
    let mut tx = database.begin_with(&BRIEFLY).await?;
    let check = sqlx::query!(
        "-- attach.try_check
         DELETE FROM main_app.drift_checks WHERE ctid = ANY (ARRAY (
             SELECT c.ctid FROM (SELECT id FROM main_app.organizations LIMIT $1) o
             CROSS JOIN LATERAL (
                 SELECT c.ctid FROM main_app.drift_checks c WHERE c.org_id = o.id
                 ORDER BY c.checked_at, c.id LIMIT 1 FOR UPDATE SKIP LOCKED) c
             LIMIT 1))",
        SAMPLED
    )
    .execute(&mut tx)
    .await;
    tx.rollback().await?;
    conclude(check.map(|_| None), depth, object(objects, "drift_checks"))?;
    let mut tx = database.begin_with(&BRIEFLY).await?;
    let approval = sqlx::query!(
        "-- attach.try_approval
         DELETE FROM main_app.approvals WHERE ctid = ANY (ARRAY (
             SELECT a.ctid FROM (SELECT id FROM main_app.organizations LIMIT $1) o
             CROSS JOIN LATERAL (
                 SELECT a.ctid FROM main_app.approvals a WHERE a.org_id = o.id
                 ORDER BY a.created_at, a.id LIMIT 1 FOR UPDATE SKIP LOCKED) a
             LIMIT 1))",
        SAMPLED
    )
    .execute(&mut tx)
    .await;
    tx.rollback().await?;
    conclude(approval.map(|_| None), depth, object(objects, "approvals"))
}

async fn pick_incidents(tx: &mut Transaction<'_>, limit: i64) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"-- attach.pick_incidents
        WITH picked AS MATERIALIZED (
            -- One that is listed twice is told of elsewhere: none of its incidents is picked twice.
            SELECT i.id FROM (SELECT DISTINCT l.id FROM (SELECT id FROM main_app.organizations LIMIT $2) l) o
            CROSS JOIN LATERAL (
                SELECT i.id FROM main_app.incidents i
                WHERE i.org_id = o.id AND i.status = 'closed' AND i.payload_purged_at IS NULL
                  AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = i.id)
                LIMIT 10) i
            LIMIT $1
        )
        SELECT i.id AS "id!" FROM picked
        CROSS JOIN LATERAL (
            SELECT i.id FROM main_app.incidents i WHERE i.id = picked.id FOR UPDATE SKIP LOCKED) i"#,
        limit,
        limit.max(SAMPLED)
    )
    .fetch_all(tx)
    .await
}

/// Where `CLOSED` is written and `closed` never, nothing would ever go.
async fn check_words(database: &Database, objects: &mut [Object]) -> sqlx::Result<()> {
    let mut tx = database.begin_with(&BRIEFLY).await?;
    let closed = sqlx::query_scalar!(
        r#"-- attach.closed_spelling
        SELECT retention.excerpt(min(i.status) FILTER (WHERE lower(trim(i.status)) = 'closed'))
        FROM (SELECT id FROM main_app.organizations LIMIT $1) o
        CROSS JOIN LATERAL (SELECT i.status FROM main_app.incidents i WHERE i.org_id = o.id LIMIT $2) i
        HAVING NOT bool_or(i.status = 'closed')"#,
        SAMPLED,
        ROWS_OF_EACH
    )
    .fetch_optional(&mut tx)
    .await?
    .flatten();
    tx.rollback().await?;
    if let (Some(found), Some(object)) = (closed, object(objects, "incidents")) {
        refuse_spelling(object, "closed", &found);
    }
    Ok(())
}

/// A word that decides about rows, in another spelling.
pub(super) fn refuse_spelling(object: &mut Object, word: &str, found: &str) {
    object.refuse(
        format!("status is written {found:?}, and {word:?} is the word that counts"),
        "write lower(trim(status)) AS status in the view",
    );
}

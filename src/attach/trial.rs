//! Tests the two functions of the mapping on a few rows, in transactions that are rolled back. Also checks the spelling
//! of the status values that decide whether a row expires.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};
use uuid::Uuid;

use super::{Depth, object, report::Object};
use crate::postgres::{self, Database, Transaction};

/// Organizations and incidents per trial.
const TRIAL_ROWS: i64 = 3;
/// Organizations and incidents per trial of `attach check`.
const CHECK_TRIAL_ROWS: i64 = 200;
/// Organizations whose rows are sampled. Rows are found by organization, so that no whole table is read.
const SAMPLED_ORGS: i64 = 50;
/// Rows of each organization that are checked for other spellings.
const SAMPLED_ROWS_PER_ORG: i64 = 20;

/// Settings of a trial, so that it holds rows only briefly and does not wait for other sessions.
const TRIAL_SETTINGS: [&str; 3] = [
    // A trial reads a few rows of each organization, by index. Without this setting, Postgres may read the whole table
    // for each.
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL lock_timeout = '100ms'",
    "SET LOCAL statement_timeout = '10s'",
];

/// Tests both functions, and for `attach check` also a deletion from each purge view.
pub(super) async fn check(
    database: &Database,
    depth: Depth,
    objects: &mut [Object],
) -> sqlx::Result<()> {
    let rows = if depth >= Depth::Values {
        CHECK_TRIAL_ROWS
    } else {
        TRIAL_ROWS
    };
    check_closed_spelling(database, objects).await?;
    let tried = test_lock_plan(database, rows).await;
    record_result(tried, depth, object(objects, "lock_plan"))?;
    let tried = test_erase_payloads(database, rows).await;
    record_result(tried, depth, object(objects, "erase_payloads"))?;
    if depth >= Depth::Values {
        test_deletions(database, depth, objects).await?;
    }
    Ok(())
}

/// The result of a trial: the problem, if there is one.
type TrialResult = sqlx::Result<Option<String>>;

/// Adds the result of a trial to its object. A trigger of the main app may reject a row only for a while. So at the
/// start of a process its error is a warning, because the affected runs are retried. A permanent error is a refusal.
/// For `attach check`, every error is a refusal.
fn record_result(
    tried: TrialResult,
    depth: Depth,
    object: Option<&mut Object>,
) -> sqlx::Result<()> {
    let Some(object) = object else {
        return Ok(());
    };
    match tried {
        Ok(None) => {}
        Ok(Some(what)) => object.refuse(what, "correct the function"),
        Err(error) if postgres::is_contention(&error) => object.warn(
            "it could not be tested: other sessions hold locks on the rows, or it takes too long",
            "run `drift-retention attach check` again when the main app is quiet",
        ),
        // The functions did not cause this error.
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

/// Postgres's message and the function that raised it, which may be a trigger of the main app.
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

/// Checks that `lock_plan` returns the plan in `main_app.organizations` and locks a row.
async fn test_lock_plan(database: &Database, organizations: i64) -> TrialResult {
    let mut tx = database.begin_with(&TRIAL_SETTINGS).await?;
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
            "it returns {} for organization {}, but main_app.organizations has {}",
            shown(&answer.locked),
            answer.id,
            shown(&answer.plan)
        )
    }))
}

/// Checks that `erase_payloads` leaves no visible payload, returns the number of incidents that had one, and deletes no
/// incident.
async fn test_erase_payloads(database: &Database, incidents: i64) -> TrialResult {
    // Use one snapshot, so that concurrent writes of other sessions are not attributed to the function.
    let one_snapshot = ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"];
    let mut tx = database
        .begin_with(&[one_snapshot.as_slice(), &TRIAL_SETTINGS].concat())
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
    if let Some(wrong) = before.first_change(&after) {
        return Ok(Some(wrong));
    }
    Ok((erased != count).then(|| {
        format!(
            "it returns that {erased} of {count} incidents had a payload, but all of them had one"
        )
    }))
}

/// Data that `erase_payloads` must not change.
struct Witness {
    incidents: i64,
    /// Every other column of these incidents, except `updated_at`, which many apps set by trigger.
    columns: Option<String>,
    approvals: i64,
    /// Payloads of other incidents of the same organizations.
    others: i64,
}

impl Witness {
    /// A description of the first change, if there is one.
    fn first_change(&self, after: &Self) -> Option<String> {
        let what = if after.incidents < self.incidents {
            format!(
                "it deleted {} incidents, which must stay without their payloads",
                self.incidents - after.incidents
            )
        } else if after.columns != self.columns {
            "it changed other columns of incidents: status, closed_at and the like must stay"
                .to_owned()
        } else if after.approvals != self.approvals {
            "it deleted approvals, which have their own retention rule".to_owned()
        } else if after.others != self.others {
            "it erased payloads of incidents that were not passed to it".to_owned()
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
        SAMPLED_ROWS_PER_ORG
    )
    .fetch_one(tx)
    .await
}

/// Stamps the incidents as a purge does. Triggers of the main app run on this with the rights of this role.
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

/// Deletes one check and one approval as a purge does, each in a transaction that is rolled back.
async fn test_deletions(
    database: &Database,
    depth: Depth,
    objects: &mut [Object],
) -> sqlx::Result<()> {
    let mut tx = database.begin_with(&TRIAL_SETTINGS).await?;
    let check = sqlx::query!(
        "-- attach.try_check
         DELETE FROM main_app.drift_checks WHERE ctid = ANY (ARRAY (
             SELECT c.ctid FROM (SELECT id FROM main_app.organizations LIMIT $1) o
             CROSS JOIN LATERAL (
                 SELECT c.ctid FROM main_app.drift_checks c WHERE c.org_id = o.id
                 ORDER BY c.checked_at, c.id LIMIT 1 FOR UPDATE SKIP LOCKED) c
             LIMIT 1))",
        SAMPLED_ORGS
    )
    .execute(&mut tx)
    .await;
    tx.rollback().await?;
    record_result(check.map(|_| None), depth, object(objects, "drift_checks"))?;
    let mut tx = database.begin_with(&TRIAL_SETTINGS).await?;
    let approval = sqlx::query!(
        "-- attach.try_approval
         DELETE FROM main_app.approvals WHERE ctid = ANY (ARRAY (
             SELECT a.ctid FROM (SELECT id FROM main_app.organizations LIMIT $1) o
             CROSS JOIN LATERAL (
                 SELECT a.ctid FROM main_app.approvals a WHERE a.org_id = o.id
                 ORDER BY a.created_at, a.id LIMIT 1 FOR UPDATE SKIP LOCKED) a
             LIMIT 1))",
        SAMPLED_ORGS
    )
    .execute(&mut tx)
    .await;
    tx.rollback().await?;
    record_result(approval.map(|_| None), depth, object(objects, "approvals"))
}

async fn pick_incidents(tx: &mut Transaction<'_>, limit: i64) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"-- attach.pick_incidents
        WITH picked AS MATERIALIZED (
            -- Another check reports organizations that are listed twice. Here, none of their incidents is picked twice.
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
        limit.max(SAMPLED_ORGS)
    )
    .fetch_all(tx)
    .await
}

/// Refuses a main app that writes `CLOSED` and never `closed`: nothing would be purged.
async fn check_closed_spelling(database: &Database, objects: &mut [Object]) -> sqlx::Result<()> {
    let mut tx = database.begin_with(&TRIAL_SETTINGS).await?;
    let closed = sqlx::query_scalar!(
        r#"-- attach.closed_spelling
        SELECT retention.excerpt(min(i.status) FILTER (WHERE lower(trim(i.status)) = 'closed'))
        FROM (SELECT id FROM main_app.organizations LIMIT $1) o
        CROSS JOIN LATERAL (SELECT i.status FROM main_app.incidents i WHERE i.org_id = o.id LIMIT $2) i
        HAVING NOT bool_or(i.status = 'closed')"#,
        SAMPLED_ORGS,
        SAMPLED_ROWS_PER_ORG
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

/// Refuses another spelling of a status value that decides whether a row expires.
pub(super) fn refuse_spelling(object: &mut Object, word: &str, found: &str) {
    object.refuse(
        format!("status is written {found:?}, but it must be {word:?}"),
        "write lower(trim(status)) AS status in the view",
    );
}

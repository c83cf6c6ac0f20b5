//! Checks the values of all rows: unknown status values, and missing times and ids. This reads whole tables.

use super::{object, report::Object, trial::refuse_spelling};
use crate::{
    postgres::{Database, Transaction},
    retention::Plan,
};

/// The known values of each status. The first one decides whether a row expires.
const CHECK_STATUSES: [&str; 3] = ["in_sync", "drift", "unknown"];
const INCIDENT_STATUSES: [&str; 5] = [
    "closed",
    "detected",
    "acknowledged",
    "stabilized",
    "reconciled",
];
const APPROVAL_STATUSES: [&str; 4] = ["pending", "approved", "rejected", "cancelled"];

/// A status value and the number of rows that have it.
struct StatusCount {
    word: Option<String>,
    count: i64,
}

/// Checks the deciding columns of every row.
pub(super) async fn check(database: &Database, objects: &mut [Object]) -> sqlx::Result<()> {
    let mut tx = database.begin_reading().await?;
    check_organizations(&mut tx, objects).await?;
    check_statuses(&mut tx, objects).await?;
    check_owners(&mut tx, objects).await?;
    check_incidents(&mut tx, objects).await?;
    tx.rollback().await
}

async fn check_organizations(tx: &mut Transaction<'_>, objects: &mut [Object]) -> sqlx::Result<()> {
    let plans = sqlx::query_as!(
        StatusCount,
        r#"-- attach.plans
        SELECT retention.excerpt(plan) AS word, count(*) AS "count!" FROM main_app.organizations GROUP BY 1 ORDER BY 1"#
    )
    .fetch_all(&mut *tx)
    .await?;
    let ids = sqlx::query!(
        r#"-- attach.organization_ids
        SELECT count(*) - count(DISTINCT id) AS "repeated!", count(*) FILTER (WHERE id IS NULL) AS "missing!"
        FROM main_app.organizations"#
    )
    .fetch_one(tx)
    .await?;
    let Some(object) = object(objects, "organizations") else {
        return Ok(());
    };
    if ids.repeated > 0 {
        object.refuse(
            format!(
                "{} rows repeat an organization: with two plans, its plan is ambiguous",
                ids.repeated
            ),
            "return one row per organization: DISTINCT ON (id), with the deciding row first",
        );
    }
    for StatusCount { word, count } in plans {
        if word
            .as_ref()
            .is_none_or(|plan| plan.parse::<Plan>().is_err())
        {
            let plan = word.map_or("NULL".to_owned(), |plan| format!("{plan:?}"));
            object.warn(
                format!(
                    "{count} organizations have the unknown plan {plan}: their data is not purged"
                ),
                "map it to free, pro, agency or enterprise, or leave it: their runs fail closed",
            );
        }
    }
    Ok(())
}

async fn check_statuses(tx: &mut Transaction<'_>, objects: &mut [Object]) -> sqlx::Result<()> {
    let checks = sqlx::query_as!(
        StatusCount,
        r#"-- attach.check_statuses
        SELECT retention.excerpt(status) AS word, count(*) AS "count!" FROM main_app.drift_checks GROUP BY 1 ORDER BY 1"#
    )
    .fetch_all(&mut *tx)
    .await?;
    let incidents = sqlx::query_as!(
        StatusCount,
        r#"-- attach.incident_statuses
        SELECT retention.excerpt(status) AS word, count(*) AS "count!" FROM main_app.incidents GROUP BY 1 ORDER BY 1"#
    )
    .fetch_all(&mut *tx)
    .await?;
    let approvals = sqlx::query_as!(
        StatusCount,
        r#"-- attach.approval_statuses
        SELECT retention.excerpt(status) AS word, count(*) AS "count!" FROM main_app.approvals GROUP BY 1 ORDER BY 1"#
    )
    .fetch_all(tx)
    .await?;
    let known: [(&str, &[&str], Option<&str>, _); 3] = [
        ("drift_checks", &CHECK_STATUSES, None, checks),
        ("incidents", &INCIDENT_STATUSES, Some("closed"), incidents),
        ("approvals", &APPROVAL_STATUSES, None, approvals),
    ];
    for (view, known, decisive, found) in known {
        if let Some(object) = object(objects, view) {
            report_unknown_statuses(object, known, decisive, found);
        }
    }
    Ok(())
}

fn report_unknown_statuses(
    object: &mut Object,
    known: &[&str],
    decisive: Option<&str>,
    found: Vec<StatusCount>,
) {
    let has_decisive = found.iter().any(|found| found.word.as_deref() == decisive);
    for StatusCount { word, count } in found {
        let Some(word) = word else {
            object.warn(
                format!("{count} rows have no status"),
                "give them one in the view",
            );
            continue;
        };
        // Any spelling of pending keeps an approval.
        if known.contains(&word.as_str()) || word.trim().eq_ignore_ascii_case("pending") {
            continue;
        }
        let is_close = |decisive: &&str| word.trim().eq_ignore_ascii_case(decisive);
        // A few incidents with another spelling are only kept.
        if let Some(decisive) = decisive.filter(is_close).filter(|_| !has_decisive) {
            refuse_spelling(object, decisive, &word);
        } else {
            object.warn(
                format!("{count} rows have the status {word:?}, which is unknown"),
                format!(
                    "map it to one of {}, if it means one of them",
                    known.join(", ")
                ),
            );
        }
    }
}

/// Reports rows that no run can find and rows that never expire.
async fn check_owners(tx: &mut Transaction<'_>, objects: &mut [Object]) -> sqlx::Result<()> {
    let found = sqlx::query!(
        r#"-- attach.owners
        SELECT (SELECT count(*) FROM main_app.drift_checks c
                WHERE NOT EXISTS (SELECT FROM main_app.organizations o WHERE o.id = c.org_id)) AS "checks!",
               (SELECT count(*) FROM main_app.drift_checks c WHERE c.env_id IS NULL) AS "without_environment!",
               (SELECT count(*) FROM main_app.incidents i
                WHERE NOT EXISTS (SELECT FROM main_app.organizations o WHERE o.id = i.org_id)) AS "incidents!",
               (SELECT count(*) FROM main_app.approvals a
                WHERE NOT EXISTS (SELECT FROM main_app.organizations o WHERE o.id = a.org_id)) AS "approvals!""#
    )
    .fetch_one(tx)
    .await?;
    for (view, rows) in [
        ("drift_checks", found.checks),
        ("incidents", found.incidents),
        ("approvals", found.approvals),
    ] {
        if let (1.., Some(object)) = (rows, object(objects, view)) {
            object.warn(
                format!("{rows} rows belong to an organization that is not in main_app.organizations: they are never purged"),
                "check the column that is mapped as org_id, and whether the view of organizations omits some",
            );
        }
    }
    if let (1.., Some(object)) = (found.without_environment, object(objects, "drift_checks")) {
        object.warn(
            format!(
                "{} checks have no environment: they are never purged",
                found.without_environment
            ),
            "give them one in the view, such as their organization's id",
        );
    }
    Ok(())
}

async fn check_incidents(tx: &mut Transaction<'_>, objects: &mut [Object]) -> sqlx::Result<()> {
    let found = sqlx::query!(
        r#"-- attach.closed_without_time
        SELECT count(*) FILTER (WHERE status = 'closed' AND closed_at IS NULL) AS "closed_without_time!"
        FROM main_app.incidents"#
    )
    .fetch_one(tx)
    .await?;
    let Some(object) = object(objects, "incidents") else {
        return Ok(());
    };
    if found.closed_without_time > 0 {
        object.warn(
            format!(
                "{} closed incidents have no closed_at: their payloads are never purged",
                found.closed_without_time
            ),
            "write closed_at where it is known",
        );
    }
    Ok(())
}

//! Columns of other types than ours: what can be mapped works after the change that is asked for, and what cannot is
//! refused by name.

use serde_json::json;

use crate::support::{
    TestDatabase,
    app::App,
    attach::{Refusal, accepted, find, object, of, refused, refused_alone, report, with_rows},
    product, runs,
};

/// Changes a column's type under its view, which shows it by `shown`.
async fn retype(db: &TestDatabase, table: &str, column: &str, new: &str, shown: &str) {
    let view: String = db
        .value(&format!(
            "SELECT pg_get_viewdef('main_app.{table}'::regclass)"
        ))
        .await;
    let lines: Vec<_> = view
        .lines()
        .map(|line| {
            let plain = line
                .trim()
                .trim_start_matches("SELECT ")
                .trim_end_matches([',', ';']);
            let name = plain.rsplit('.').next().unwrap();
            let was_shown = format!(" AS {column}");
            if name == column || (line.contains(&was_shown) && !line.contains("FROM")) {
                line.replace(plain, &format!("{shown} AS {column}"))
            } else {
                line.to_owned()
            }
        })
        .collect();
    let view = lines.join("\n");
    assert!(view.contains(shown), "{view}");
    db.execute(&format!(
        "DROP VIEW main_app.{table}; {new}; CREATE VIEW main_app.{table} AS {view}"
    ))
    .await;
}

#[tokio::test]
async fn ids_that_are_no_uuid_are_refused_by_name() {
    for (table, column) in [
        ("organizations", "id"),
        ("environments", "id"),
        ("environments", "org_id"),
        ("incidents", "id"),
        ("incidents", "org_id"),
        ("approvals", "id"),
        ("approvals", "incident_id"),
        ("drift_checks", "org_id"),
        ("drift_checks", "env_id"),
    ] {
        for new in ["text", "bigint"] {
            let (db, _) = with_rows().await;
            let using = if new == "text" {
                format!("{column}::text")
            } else {
                "1".into()
            };
            let alter = format!(
                "ALTER TABLE organizations DROP CONSTRAINT organizations_pkey CASCADE;
                 ALTER TABLE environments DROP CONSTRAINT environments_pkey CASCADE;
                 ALTER TABLE incidents DROP CONSTRAINT incidents_pkey CASCADE;
                 ALTER TABLE {table} ALTER {column} DROP DEFAULT, ALTER {column} TYPE {new} USING {using}"
            );
            retype(&db, table, column, &alter, column).await;
            let no_uuid = Refusal {
                object: table,
                what: &format!("column {column} is {new}, not uuid"),
                remedy: "ids of organizations, environments, incidents and approvals are uuid",
            };
            refused(&db, &db.url, &[], no_uuid).await;
        }
    }
}

#[tokio::test]
async fn check_key_of_another_type_than_the_domain_is_refused() {
    let (db, _) = with_rows().await;
    db.execute("DROP DOMAIN main_app.check_key; CREATE DOMAIN main_app.check_key AS uuid")
        .await;
    let other = Refusal {
        object: "drift_checks",
        what: "column id is bigint, not main_app.check_key",
        remedy: "CREATE DOMAIN main_app.check_key AS bigint",
    };
    let (_, beside) = refused(&db, &db.url, &[], other).await;
    find(
        &beside,
        "workflow_drift_flags",
        "column check_id is bigint, not main_app.check_key",
    );
    for unknown in ["smallint", "numeric", "timestamptz"] {
        db.execute(&format!(
            "DROP DOMAIN main_app.check_key; CREATE DOMAIN main_app.check_key AS {unknown}"
        ))
        .await;
        let no_key = Refusal {
            object: "check_key",
            what: "the key of checks is",
            remedy: "it can be uuid, bigint, integer or text",
        };
        refused(&db, &db.url, &[], no_key).await;
    }
}

#[tokio::test]
async fn plan_that_is_an_enum_works_as_text() {
    let (db, org) = with_rows().await;
    let alter = "CREATE TYPE plan_kind AS ENUM ('free', 'pro', 'agency', 'enterprise');
                 ALTER TABLE organizations ALTER plan TYPE plan_kind USING plan::plan_kind";
    retype(&db, "organizations", "plan", alter, "o.plan").await;
    let uncast = Refusal {
        object: "organizations",
        what: "plan_kind, not text",
        remedy: "write plan::text AS plan",
    };
    refused_alone(&db, uncast).await;
    retype(&db, "organizations", "plan", "SELECT 1", "o.plan::text").await;
    assert_eq!(accepted(&db.url, &[]).await, []);
    purges_everything(&db, org).await;
}

#[tokio::test]
async fn status_that_is_an_enum_works_as_text() {
    let (db, org) = with_rows().await;
    for (table, words) in [
        ("drift_checks", "'in_sync', 'drift', 'unknown'"),
        ("incidents", "'detected', 'closed'"),
        ("approvals", "'pending', 'approved'"),
    ] {
        // An index with the words in its condition goes: the words have another type.
        let alter = format!(
            "ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_status_check;
             DROP INDEX IF EXISTS incidents_payload_due_idx;
             CREATE TYPE {table}_status AS ENUM ({words});
             ALTER TABLE {table} ALTER status TYPE {table}_status USING status::{table}_status;
             CREATE INDEX IF NOT EXISTS incidents_payload_due_idx ON incidents (org_id, closed_at, id) WHERE payload_purged_at IS NULL"
        );
        retype(&db, table, "status", &alter, "status").await;
        let uncast = Refusal {
            object: table,
            what: &format!("{table}_status, not text"),
            remedy: "write status::text AS status",
        };
        refused_alone(&db, uncast).await;
        retype(&db, table, "status", "SELECT 1", "status::text").await;
        assert_eq!(accepted(&db.url, &[]).await, []);
    }
    let app = App::on(&db.pool);
    let env = app.env(org).await;
    let pending: uuid::Uuid = db.value(&format!(
        "INSERT INTO incidents (org_id, env_id, title, status, closed_at) VALUES ('{org}', '{env}', 'x', 'closed', now() - interval '1 year') RETURNING id"
    )).await;
    db.execute(&format!(
        "INSERT INTO approvals (org_id, incident_id, action, status, requested_by, created_at)
         VALUES ('{org}', '{pending}', 'x', 'pending', 'x', now() - interval '1 year')"
    ))
    .await;
    purges_everything(&db, org).await;
    assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 1]);
}

#[tokio::test]
async fn enum_without_closed_is_mapped_by_the_view() {
    let (db, org) = with_rows().await;
    db.execute("UPDATE incidents SET status = 'resolved'").await;
    let warnings = accepted(&db.url, &[]).await;
    find(
        &warnings,
        "incidents",
        "1 rows have the status \"resolved\", which is unknown",
    );
    retype(
        &db,
        "incidents",
        "status",
        "SELECT 1",
        "CASE status WHEN 'resolved' THEN 'closed' ELSE status END",
    )
    .await;
    assert_eq!(
        of(&accepted(&db.url, &[]).await, "incidents"),
        Vec::<&crate::support::attach::Problem>::new()
    );
    purges_everything(&db, org).await;
}

#[tokio::test]
async fn timestamps_without_time_zone_are_taken_as_utc_and_reported() {
    let (db, org) = with_rows().await;
    let app = App::on(&db.pool);
    let env = app.env(org).await;
    // Hours before and after the cutoff: whoever takes them in another zone goes wrong by them.
    for age in ["30 days 2 hours", "29 days 22 hours", "1 hour"] {
        app.check(org, env, age, &["w"]).await;
    }
    db.execute("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''America/New_York''', current_database()); END $$")
        .await;
    let alter = "ALTER TABLE drift_checks ALTER checked_at TYPE timestamp USING checked_at AT TIME ZONE 'UTC'";
    retype(&db, "drift_checks", "checked_at", alter, "checked_at").await;
    let without = Refusal {
        object: "drift_checks",
        what: "column checked_at is timestamp without time zone, not timestamptz",
        remedy: "write (checked_at AT TIME ZONE 'UTC') AS checked_at, and index that expression",
    };
    let (_, _) = refused(&db, &db.url, &[], without).await;
    retype(
        &db,
        "drift_checks",
        "checked_at",
        "SELECT 1",
        "(checked_at AT TIME ZONE 'UTC')",
    )
    .await;
    let warnings = accepted(&db.url, &[]).await;
    find(
        &warnings,
        "drift_checks",
        "checked_at has no time zone: it is read as UTC",
    );
    let (_, report) = report(&db.url, &[]).await;
    assert_eq!(object(&report, "drift_checks")["clock"], "checked_at");
    // The indexes are on the column, and serve no more: the statements that are told do.
    for columns in ["org_id, ", "env_id, "] {
        let index = find(
            &warnings,
            "drift_checks",
            &format!("no index on public.drift_checks ({columns}"),
        );
        db.execute(&index.remedy).await;
    }
    assert_eq!(of(&accepted(&db.url, &[]).await, "drift_checks").len(), 1);

    let preview = product::json(&db.url, &["preview", "--org", &org.to_string(), "--json"]).await;
    let tables = json!({"drift_checks": 5, "workflow_drift_flags": 9, "incident_payloads": 1, "approvals": 1});
    assert_eq!(preview["organizations"][0]["tables"], tables);
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(&db, run).await, [5, 9, 1, 1]);
    let kept = "SELECT count(*) FROM drift_checks WHERE checked_at > now() AT TIME ZONE 'UTC' - interval '30 days'";
    assert_eq!(db.value::<i64>(kept).await, 2);
}

/// A preview, a run and its record tell the same, and nothing that is expired stays.
async fn purges_everything(db: &TestDatabase, org: uuid::Uuid) {
    let before = runs::counts(db, org).await;
    let preview = product::json(&db.url, &["preview", "--org", &org.to_string(), "--json"]).await;
    let run = product::purge(&db.url, org).await;
    let purged = runs::purged(db, run).await;
    for (n, table) in runs::TABLES.iter().enumerate() {
        assert_eq!(
            preview["organizations"][0]["tables"][table], purged[n],
            "{table}"
        );
        assert_eq!(
            before[n] - runs::counts(db, org).await[n],
            purged[n],
            "{table}"
        );
    }
    assert_eq!(purged, [4, 8, 1, 1]);
}

//! A main app with other tables than ours, through its mapping: what goes, and what is recorded, is what the rules say of
//! its own tables.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase, product, runs,
    text::stderr,
    workflowops::{self, AS_IT_IS, CASCADES, Shape},
};

/// Previews and purges every tenant.
async fn purge_by_the_rules(shape: Shape) {
    let db = workflowops::database_of(shape).await;
    workflowops::apply_the_rules(&db).await;
    let previewed = workflowops::previewed(&db.url).await;
    assert_eq!(previewed, workflowops::expected(&db).await);

    workflowops::purge_all(&db.url).await;

    workflowops::assert_purged_by_the_rules(&db).await;
    assert_eq!(previewed, workflowops::recorded(&db).await);
}

#[tokio::test]
async fn preview_purge_and_record_are_what_the_rules_say() {
    purge_by_the_rules(AS_IT_IS).await;
}

#[tokio::test]
async fn checks_keyed_by_bigint_are_purged_by_the_rules() {
    let check_key = "bigint";
    purge_by_the_rules(Shape {
        check_key,
        ..AS_IT_IS
    })
    .await;
}

#[tokio::test]
async fn checks_keyed_by_integer_are_purged_by_the_rules() {
    let check_key = "integer";
    purge_by_the_rules(Shape {
        check_key,
        ..AS_IT_IS
    })
    .await;
}

#[tokio::test]
async fn checks_keyed_by_text_are_purged_by_the_rules() {
    let check_key = "text";
    purge_by_the_rules(Shape {
        check_key,
        ..AS_IT_IS
    })
    .await;
}

#[tokio::test]
async fn incidents_whose_status_is_an_enum_are_purged_by_the_rules() {
    let has_enum = true;
    purge_by_the_rules(Shape {
        has_enum,
        ..AS_IT_IS
    })
    .await;
}

/// Every row of every table that retention meets, as one text.
async fn everything(db: &TestDatabase) -> String {
    let tables = [
        "drift_check_history",
        "drift_check_workflow_flags",
        "drift_incidents",
        "incident_payloads",
        "drift_approvals",
        "approval_audit",
    ];
    let rows = tables.map(|table| format!("SELECT to_jsonb(t)::text AS row FROM {table} t"));
    let all = rows.join(" UNION ALL ");
    db.value(&format!(
        "SELECT string_agg(row, ' ' ORDER BY row) FROM ({all}) rows"
    ))
    .await
}

#[tokio::test]
async fn second_purge_finds_nothing_more() {
    let db = workflowops::database().await;
    workflowops::purge_all(&db.url).await;
    let first = workflowops::recorded(&db).await;
    let left = everything(&db).await;

    workflowops::purge_all(&db.url).await;

    assert_eq!(workflowops::recorded(&db).await, first);
    assert_eq!(everything(&db).await, left);
}

#[tokio::test]
async fn payloads_of_expired_incidents_stand_nowhere_and_every_incident_is_there() {
    let db = workflowops::database().await;
    workflowops::apply_the_rules(&db).await;

    workflowops::purge_all(&db.url).await;

    let facts: Vec<i64> = db
        .value(
            "SELECT ARRAY[
                 (SELECT count(*) FROM expected.due d JOIN drift_incidents i USING (id)
                  WHERE i.drift_snapshot IS NULL AND i.summary IS NULL AND i.resolution_details IS NULL
                    AND i.affected_workflows = '[]' AND i.payload_purged_at IS NOT NULL),
                 (SELECT count(*) FROM expected.due d JOIN incident_payloads p ON p.incident_id = d.id),
                 (SELECT count(*) FROM expected.due),
                 (SELECT count(*) FROM drift_incidents) - (SELECT count(*) FROM before.incidents),
                 (SELECT count(*) FROM retention.rewritten_payloads w JOIN expected.due d ON d.id = w.incident_id)]",
        )
        .await;
    let [emptied, in_table, due, fewer, notes] = facts.try_into().unwrap();
    assert!(due > 100, "{due} incidents are due");
    assert_eq!((emptied, in_table, fewer, notes), (due, 0, 0, 0));
}

#[tokio::test]
async fn newest_check_of_every_environment_stays_however_old() {
    let db = workflowops::database().await;
    let newest = "SELECT array_agg(id ORDER BY id) FROM (
                      SELECT DISTINCT ON (environment_id) id FROM drift_check_history WHERE checked_at <= now()
                      ORDER BY environment_id, checked_at DESC, id DESC) newest";
    let before: Vec<Uuid> = db.value(newest).await;

    workflowops::purge_all(&db.url).await;

    assert_eq!(db.value::<Vec<Uuid>>(newest).await, before);
}

/// Every row of one tenant that retention could take, by how far it is past the cutoff of `pro`.
const AT_THE_CUTOFFS: &str = "
    WITH env AS (INSERT INTO environments (tenant_id, n8n_name) VALUES ('TENANT', 'exact') RETURNING id),
    newest AS (INSERT INTO drift_check_history (tenant_id, environment_id, checked_at, drift_status)
               SELECT 'TENANT', id, 'STARTED', 'IN_SYNC' FROM env),
    checks AS (INSERT INTO drift_check_history (tenant_id, environment_id, checked_at, drift_status, drifted_workflows)
               SELECT 'TENANT', id, timestamptz 'STARTED' - interval '720 hours' - n * interval '1 microsecond', 'NEW', n
               FROM env, generate_series(-1, 1) n),
    incidents AS (INSERT INTO drift_incidents (tenant_id, environment_id, status, closed_at, title, summary)
                  SELECT 'TENANT', id, 'closed',
                         timestamptz 'STARTED' - interval '4320 hours' - n * interval '1 microsecond', n, '{}'
                  FROM env, generate_series(-1, 1) n RETURNING id, title)
    INSERT INTO drift_approvals (tenant_id, incident_id, status, approval_type, created_at)
    SELECT 'TENANT', id, 'approved', n, timestamptz 'STARTED' - interval '4320 hours' - n * interval '1 microsecond'
    FROM incidents, generate_series(-1, 1) n WHERE title = '0'";

#[tokio::test]
async fn rows_at_the_cutoff_stay_and_those_a_microsecond_older_go() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro without any rows").await;
    let started: String = db.value("SELECT (now() - interval '1 minute')::text").await;
    let rows = AT_THE_CUTOFFS.replace("TENANT", &tenant.to_string());
    db.execute(&rows.replace("STARTED", &started)).await;
    runs::enqueue_as_of(&db, tenant, &started).await;

    workflowops::purge(&db, tenant).await;

    let left: Vec<String> = db
        .value(&format!(
            "SELECT ARRAY[
                 (SELECT string_agg(drifted_workflows::text, ' ' ORDER BY drifted_workflows) FROM drift_check_history
                  WHERE tenant_id = '{tenant}' AND drift_status = 'NEW'),
                 (SELECT string_agg(title, ' ' ORDER BY title::int) FROM drift_incidents
                  WHERE tenant_id = '{tenant}' AND summary IS NOT NULL),
                 (SELECT string_agg(approval_type, ' ' ORDER BY approval_type::int) FROM drift_approvals
                  WHERE tenant_id = '{tenant}')]"
        ))
        .await;
    assert_eq!(left, ["-1 0", "-1 0", "-1 0"]);
}

#[tokio::test]
async fn plan_of_every_tenant_is_read_as_a_person_reads_it_and_locked_the_same() {
    let db = workflowops::database().await;
    let plans: Value = db
        .value(
            "SELECT jsonb_object_agg(t.name, jsonb_build_array(o.plan, main_app.lock_plan(t.id), p.plan))
             FROM tenants t JOIN main_app.organizations o USING (id) JOIN expected.plans p ON p.tenant_id = t.id",
        )
        .await;
    let plans = plans.as_object().unwrap();
    let tenants: i64 = db.value("SELECT count(*) FROM tenants").await;
    assert_eq!(i64::try_from(plans.len()).unwrap(), tenants, "one row each");
    for (name, plan) in plans {
        assert_eq!(plan[0], plan[1], "{name}");
        let word = plan[0].as_str().unwrap().to_lowercase();
        let known = match word.trim_end_matches("_plus") {
            "legacy" | "bespoke" => Value::Null,
            word => json!(word),
        };
        assert_eq!(known, plan[2], "{name}");
    }
}

#[tokio::test]
async fn audit_rows_that_a_cascade_would_take_are_refused_until_the_table_is_named() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro").await;
    workflowops::apply_the_rules(&db).await;

    let refused = product::run(&db.url, &["purge", "--org", &tenant.to_string(), "--work"]).await;

    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("public.approval_audit"), "{said}");
    assert!(said.contains("attach check"), "{said}");
    let gone = "SELECT (SELECT count(*) FROM before.audit) - (SELECT count(*) FROM approval_audit)
                     + (SELECT count(*) FROM before.checks) - (SELECT count(*) FROM drift_check_history)";
    assert_eq!(db.value::<i64>(gone).await, 0);
}

#[tokio::test]
async fn mapping_is_proven_without_a_refusal_or_a_missing_index() {
    let db = workflowops::database().await;
    let check = product::command(&db.url)
        .args(["attach", "check", "--json"])
        .envs([CASCADES])
        .output()
        .await
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let report: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(report["ok"], true);
    let objects = report["objects"].as_array().unwrap().iter();
    let problems = objects.flat_map(|object| object["problems"].as_array().unwrap());
    let what: Vec<_> = problems
        .map(|problem| problem["what"].as_str().unwrap())
        .collect();
    let is_of_the_rows = |what: &&&str| !what.contains("index") && !what.contains("trigger on");
    assert_eq!(
        what.iter().filter(is_of_the_rows).count(),
        what.len(),
        "{what:#?}"
    );
}

#[tokio::test]
async fn migrating_changes_no_table_of_the_main_app() {
    let db = TestDatabase::empty().await;
    db.execute(workflowops::SCHEMA).await;
    let public = "SELECT md5(string_agg(concat_ws(' ', c.relname, c.relkind, a.attname, a.atttypid, a.attnotnull), '/'
                             ORDER BY c.relname, a.attnum))
                  FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid
                  WHERE c.relnamespace = 'public'::regnamespace";
    let before: String = db.value(public).await;
    for args in [
        &["migrate", "up"][..],
        &["migrate", "down", "--to", "0"],
        &["migrate", "up"],
    ] {
        let migrated = product::run(&db.url, args).await;
        assert!(migrated.status.success(), "{args:?}: {}", stderr(&migrated));
        assert_eq!(db.value::<String>(public).await, before, "{args:?}");
    }
}

//! The schema, up and down: the main app loses nothing on any way, and no command works on a schema that it does
//! not know.

use drift_retention::demo::sample_data;

use crate::support::{
    MAIN_APP, TestDatabase, product,
    text::{shown, stderr, stdout},
};

/// The main app's tables with all their rows, each as one digest.
async fn main_app(db: &TestDatabase) -> Vec<String> {
    let mut digests = Vec::new();
    for table in MAIN_APP {
        let digest = format!(
            "SELECT '{table}: ' || count(*) || ' ' || coalesce(md5(string_agg(row, E'\\n' ORDER BY row)), '')
             FROM (SELECT row_to_json(t)::text AS row FROM public.{table} t) AS rows"
        );
        digests.push(db.value(&digest).await);
    }
    digests
}

async fn migrate(db: &TestDatabase, args: &[&str]) -> String {
    let output = product::run(&db.url, &[&["migrate"], args].concat()).await;
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

async fn applied(db: &TestDatabase) -> Vec<i64> {
    db.value("SELECT coalesce(array_agg(version ORDER BY version), '{}') FROM retention.migrations")
        .await
}

async fn applied_to_main_app(db: &TestDatabase) -> Vec<i64> {
    db.value(
        "SELECT coalesce(array_agg(version ORDER BY version), '{}') FROM retention.main_app_migrations",
    )
    .await
}

/// A database that retention has worked on: payloads purged, one of them written again, one that is JSON's null.
async fn lived_in() -> TestDatabase {
    let db = TestDatabase::empty().await;
    migrate(&db, &["up", "--main-app"]).await;
    sample_data::load(&db.pool).await.unwrap();
    db.execute(
        "WITH gone AS (DELETE FROM incident_payloads WHERE incident_id IN (
             SELECT id FROM incidents WHERE status = 'closed' ORDER BY closed_at LIMIT 50) RETURNING incident_id)
         UPDATE incidents SET payload_purged_at = now() - interval '1 day' FROM gone WHERE id = incident_id;
         INSERT INTO incident_payloads (incident_id, payload_json, created_at)
         SELECT id, '{\"again\": true}', now() - interval '1 hour'
         FROM incidents WHERE payload_purged_at IS NOT NULL ORDER BY id LIMIT 1;
         UPDATE incident_payloads SET payload_json = 'null'
         WHERE incident_id = (SELECT incident_id FROM incident_payloads ORDER BY incident_id DESC LIMIT 1);",
    )
    .await;
    db
}

#[tokio::test]
async fn up_down_up_loses_nothing_of_the_main_apps() {
    let db = lived_in().await;
    let before = main_app(&db).await;
    let rewritten = "SELECT array_agg(incident_id) FROM retention.rewritten_payloads";
    let noted: Vec<uuid::Uuid> = db.value(rewritten).await;
    assert_eq!(noted.len(), 1);

    migrate(&db, &["down", "--to", "0"]).await;
    assert!(applied(&db).await.is_empty());
    migrate(&db, &["up", "--main-app"]).await;

    assert_eq!(main_app(&db).await, before);
    assert_eq!(db.value::<Vec<uuid::Uuid>>(rewritten).await, noted);
    // And it works: only the one organization on an unknown plan fails.
    product::run(&db.url, &["purge", "--all", "--work"]).await;
    let verified = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
    assert_eq!(db.value::<i64>(verified).await, 39);
}

#[tokio::test]
async fn down_puts_every_payload_back_on_its_incident() {
    let db = lived_in().await;
    db.execute("CREATE TABLE before AS SELECT * FROM incident_payloads")
        .await;

    migrate(&db, &["down", "--to", "1002"]).await;

    let differing = "SELECT count(*) FROM incidents i FULL JOIN before b ON b.incident_id = i.id
                     WHERE i.drift_summary IS DISTINCT FROM b.payload_json";
    assert_eq!(db.value::<i64>(differing).await, 0);
    let gone = "SELECT to_regclass('public.incident_payloads') IS NULL";
    assert!(db.value::<bool>(gone).await);
    assert_eq!(applied_to_main_app(&db).await, [1001, 1002]);
}

#[tokio::test]
async fn down_takes_one_step_and_status_tells_where_it_stands() {
    let db = TestDatabase::new().await;
    migrate(&db, &["down"]).await;
    insta::assert_snapshot!(migrate(&db, &["status"]).await, @r"
     version  migration           applied  
    ───────────────────────────────────────
     1        runs                yes      
     2        history             yes      
     3        enqueue             yes      
     4        main app            yes      
     5        pressure            yes      
     6        serving             yes      
     1001     main app            yes      
     1002     incident lifecycle  yes      
     1003     incident payloads   yes      
     1004     indexes             yes      
     1005     vacuum              yes      
     1006     mapping             no
    ");
    migrate(&db, &["down"]).await;
    assert_eq!(applied_to_main_app(&db).await, [1001, 1002, 1003, 1004]);
    for _ in 1..=20 {
        migrate(&db, &["down"]).await;
    }
    assert!(applied_to_main_app(&db).await.is_empty());
    assert!(applied(&db).await.is_empty(), "and no further than all");
}

#[tokio::test]
async fn up_is_safe_twice_and_from_two_places_at_once() {
    let db = TestDatabase::empty().await;
    let up = ["migrate", "up", "--main-app"];
    let (one, other, third) = tokio::join!(
        product::run(&db.url, &up),
        product::run(&db.url, &up),
        product::run(&db.url, &up)
    );
    for output in [one, other, third, product::run(&db.url, &up).await] {
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(applied(&db).await, every_version());
}

#[tokio::test]
async fn down_to_an_unknown_version_is_refused_and_changes_nothing() {
    let db = lived_in().await;
    let before = main_app(&db).await;
    let output = product::run(&db.url, &["migrate", "down", "--to", "99"]).await;
    insta::assert_snapshot!(shown(&output), @r"
    exit 1
    error: there is no migration 99; `drift-retention migrate status` lists them
    ");
    assert_eq!(applied(&db).await, every_version());
    assert_eq!(main_app(&db).await, before);
}

#[tokio::test]
async fn inline_payloads_of_an_app_that_was_there_first_are_moved() {
    let db = TestDatabase::empty().await;
    // The main app's own tables, with a column that we know nothing of.
    db.execute(include_str!(
        "../../../migrations/main_app/1001_main_app.up.sql"
    ))
    .await;
    db.execute(
        "ALTER TABLE incidents ADD COLUMN labels text[] DEFAULT '{drift}';
         INSERT INTO organizations (name, plan) VALUES ('Brightkiln', 'pro');
         INSERT INTO environments (org_id, name) SELECT id, 'production' FROM organizations;
         INSERT INTO incidents (org_id, env_id, title, status, drift_summary, created_at)
         SELECT org_id, id, 'Incident ' || n, 'closed',
                CASE WHEN n > 2 THEN jsonb_build_object('n', n) END, now() - make_interval(days => n)
         FROM environments, generate_series(1, 20) n;
         CREATE TABLE before AS SELECT * FROM incidents;",
    )
    .await;

    migrate(&db, &["up", "--main-app"]).await;

    let moved = "SELECT count(*) FROM incident_payloads p JOIN before b ON b.id = p.incident_id
                 WHERE p.payload_json = b.drift_summary AND p.created_at = b.created_at";
    assert_eq!(db.value::<i64>(moved).await, 18);
    let unchanged = "SELECT count(*) FROM before b JOIN incidents i USING (id)
                     WHERE to_jsonb(b) - 'drift_summary'
                         = to_jsonb(i) - '{closed_at,is_deleted,deleted_at,payload_purged_at}'::text[]";
    assert_eq!(db.value::<i64>(unchanged).await, 20);
    // When they were closed is not known: nothing of theirs goes.
    let org: uuid::Uuid = db.value("SELECT id FROM organizations").await;
    product::purge(&db.url, org).await;
    let left = "SELECT count(*) FROM incident_payloads";
    assert_eq!(db.value::<i64>(left).await, 18);
}

async fn every_command_refuses(db: &TestDatabase, says: &str) {
    for args in [
        ["serve", "--roles", "worker"].as_slice(),
        &["purge", "--all"],
        &["preview", "--all"],
        &["runs", "list"],
    ] {
        let output = product::command(&db.url)
            .args(args)
            .env("DRIFT_RETENTION_HTTP__LISTEN", "127.0.0.1:0")
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            stderr(&output).contains(says),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn nothing_runs_on_a_database_that_was_never_migrated() {
    let db = TestDatabase::empty().await;
    every_command_refuses(&db, "run `drift-retention migrate up`").await;
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('retention', 'apalis')";
    assert_eq!(db.value::<i64>(made).await, 0, "and it is left untouched");
}

#[tokio::test]
async fn nothing_runs_on_a_half_migrated_schema() {
    let db = TestDatabase::new().await;
    migrate(&db, &["down"]).await;
    every_command_refuses(&db, "run `drift-retention migrate up --main-app`").await;
}

#[tokio::test]
async fn nothing_runs_on_a_newer_schema() {
    let db = TestDatabase::new().await;
    db.execute(
        "INSERT INTO retention.migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', true, '', 0)",
    )
    .await;
    every_command_refuses(&db, "(migration 9999); upgrade drift-retention").await;
}

#[tokio::test]
async fn nothing_runs_when_the_queues_settings_are_missing() {
    let db = TestDatabase::new().await;
    db.execute("ALTER FUNCTION apalis.get_jobs(text, text, int) RESET ALL")
        .await;
    every_command_refuses(&db, "run `drift-retention migrate up`").await;
    migrate(&db, &["up", "--main-app"]).await;
    let output = product::run(&db.url, &["runs", "list"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The versions of all migrations, in order.
fn every_version() -> Vec<i64> {
    let mut versions: Vec<i64> = sqlx::migrate!()
        .iter()
        .map(|migration| migration.version)
        .collect();
    versions.dedup();
    versions
}

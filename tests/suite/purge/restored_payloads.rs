//! Payloads that come back past the trigger that notes them, as a restore brings them: the next run takes them, whatever the
//! stamps say, and no run claims success while they are there.

use tokio::process::Command;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    product::{self, Service, eventually},
    runs,
};

const PAYLOADS: &str = "SELECT count(*) FROM incident_payloads";

/// An organization whose ten payloads were purged; a copy of them stands in the table `saved`.
async fn purged() -> (TestDatabase, Uuid) {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    for _ in 0..10 {
        let incident = app.incident(org, env, "closed", Some("181 days")).await;
        app.payload(incident).await;
    }
    db.execute("CREATE TABLE saved AS SELECT * FROM incident_payloads")
        .await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(&db, run).await, [0, 0, 10, 0]);
    search_has_ended(&db).await;
    (db, org)
}

/// Lets a worker search all incidents once: from then on the trigger is trusted.
async fn search_has_ended(db: &TestDatabase) {
    let worker = Service::start(&db.url, "worker", &[]);
    eventually("the search has come to its end", async || {
        !db.value::<bool>(
            "SELECT retention.payloads_in_doubt(ARRAY['public.incident_payloads'::regclass::oid])",
        )
        .await
    })
    .await;
    worker.kill().await;
}

/// The next run takes all ten, and then there is nothing more to take.
async fn assert_taken(db: &TestDatabase, org: Uuid) {
    assert_eq!(db.value::<i64>(PAYLOADS).await, 10, "they are back");
    let preview = product::json(&db.url, &["preview", "--org", &org.to_string(), "--json"]).await;
    let tables = &preview["organizations"][0]["tables"];
    assert_eq!(tables["incident_payloads"], 10, "{preview:#}");
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(db, run).await, [0, 0, 10, 0]);
    assert_eq!(db.value::<i64>(PAYLOADS).await, 0);
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(db, run).await, [0, 0, 0, 0]);
}

async fn done(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().await.unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
}

#[tokio::test]
async fn payloads_that_pg_restore_brings_back_with_triggers_disabled_go_with_the_next_run() {
    let (db, org) = purged().await;
    db.execute("INSERT INTO incident_payloads SELECT * FROM saved")
        .await;
    let dump = tempfile::NamedTempFile::new().unwrap();
    let file = dump.path().to_str().unwrap();
    done(
        "pg_dump",
        &["-Fc", "-t", "public.incident_payloads", "-f", file, &db.url],
    )
    .await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(
        runs::purged(&db, run).await,
        [0, 0, 10, 0],
        "the trigger had noted them"
    );
    search_has_ended(&db).await;
    db.execute("TRUNCATE incident_payloads").await;
    done(
        "pg_restore",
        &["--data-only", "--disable-triggers", "-d", &db.url, file],
    )
    .await;
    assert_taken(&db, org).await;

    // The restore has left the trigger enabled, but not ALWAYS.
    let (service, log) = Service::logged(&db.url, "worker", &[]);
    service.ready().await;
    let ready = service.get("/readyz").await.unwrap().text().await.unwrap();
    assert!(ready.contains("note_rewritten_payload"), "{ready}");
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.contains("public.incident_payloads"), "{log}");
}

#[tokio::test]
async fn payloads_that_come_back_while_the_trigger_is_away_go_with_the_next_run() {
    const RESTORE: &str = "INSERT INTO incident_payloads SELECT * FROM saved";
    const CREATE: &str =
        "CREATE TRIGGER note_rewritten_payload AFTER INSERT OR UPDATE ON incident_payloads
        FOR EACH ROW EXECUTE FUNCTION retention.note_rewritten_payload('incident_id');
        ALTER TABLE incident_payloads ENABLE ALWAYS TRIGGER note_rewritten_payload";
    const DISABLE: &str = "ALTER TABLE incident_payloads DISABLE TRIGGER note_rewritten_payload";
    const ALWAYS: &str =
        "ALTER TABLE incident_payloads ENABLE ALWAYS TRIGGER note_rewritten_payload";
    for statements in [
        format!("{DISABLE}; {RESTORE}; {ALWAYS}"),
        format!("DROP TRIGGER note_rewritten_payload ON incident_payloads; {RESTORE}; {CREATE}"),
        format!("DROP TRIGGER note_rewritten_payload ON incident_payloads; {RESTORE}"),
        format!("TRUNCATE incident_payloads; {DISABLE}; {RESTORE}"),
        // Replicated rows pass a trigger that is not ALWAYS.
        format!(
            "ALTER TABLE incident_payloads ENABLE TRIGGER note_rewritten_payload;
             SET session_replication_role = replica; {RESTORE}; RESET session_replication_role"
        ),
    ] {
        let (db, org) = purged().await;
        db.execute(&statements).await;
        assert_taken(&db, org).await;
    }
}

#[tokio::test]
async fn slot_takes_them_too_and_another_organization_s_payloads_stay() {
    let (db, org) = purged().await;
    let app = App::on(&db.pool);
    let other = app.org("agency").await;
    let env = app.env(other).await;
    let incident = app.incident(other, env, "closed", Some("181 days")).await;
    app.payload(incident).await;
    db.execute(&format!(
        "UPDATE incidents SET payload_purged_at = now() WHERE id = '{incident}';
         ALTER TABLE incident_payloads DISABLE TRIGGER note_rewritten_payload;
         INSERT INTO incident_payloads SELECT * FROM saved"
    ))
    .await;
    let _worker = Service::start(&db.url, "worker", &[]);
    runs::enqueue_slot(&db).await;
    runs::all_are_final(&db).await;
    assert_eq!(runs::counts(&db, org).await, [0, 0, 0, 0]);
    assert_eq!(runs::counts(&db, other).await, [0, 0, 1, 0]);
    let failed = "SELECT count(*) FROM retention.purge_runs WHERE status <> 'succeeded'";
    assert_eq!(db.value::<i64>(failed).await, 0);
}

/// A run finds them though nothing of the table or its trigger has changed.
#[tokio::test]
async fn payloads_that_the_trigger_could_not_note_go_with_the_next_run() {
    const RESTORE: &str = "INSERT INTO incident_payloads SELECT * FROM saved";
    for statements in [
        // Written while the mapping was away.
        format!(
            "ALTER VIEW main_app.incidents RENAME TO away; {RESTORE}; ALTER VIEW main_app.away RENAME TO incidents"
        ),
        // In a table that inherits from theirs.
        "CREATE TABLE older (LIKE incident_payloads INCLUDING ALL); INSERT INTO older SELECT * FROM saved;
         ALTER TABLE older INHERIT incident_payloads"
            .to_owned(),
    ] {
        let (db, org) = purged().await;
        db.execute(&statements).await;
        assert_taken(&db, org).await;
    }
}

#[tokio::test]
async fn noted_payload_goes_with_the_runs_of_the_organization_that_has_the_incident_now() {
    let (db, org) = purged().await;
    let other = App::on(&db.pool).org("pro").await;
    db.execute(&format!(
        "INSERT INTO incident_payloads SELECT * FROM saved; UPDATE incidents SET org_id = '{other}'"
    ))
    .await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(product::status(&db.pool, run).await, "succeeded");
    // A worker readdresses the notes within a minute, beginning with its start.
    let worker = Service::start(&db.url, "worker", &[]);
    eventually("the notes are the other's", async || {
        let notes =
            format!("SELECT count(*) FROM retention.rewritten_payloads WHERE org_id = '{other}'");
        db.value::<i64>(&notes).await == 10
    })
    .await;
    worker.kill().await;
    let run = product::purge(&db.url, other).await;
    assert_eq!(runs::purged(&db, run).await, [0, 0, 10, 0]);
    assert_eq!(db.value::<i64>(PAYLOADS).await, 0);
}

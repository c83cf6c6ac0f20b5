//! What counts as a changed mapping, and what every transaction sees of it.

use drift_retention::postgres::Database;

use crate::support::TestDatabase;

async fn fingerprint(db: &TestDatabase) -> String {
    db.value("SELECT retention.mapping_fingerprint()").await
}

#[tokio::test]
async fn body_of_a_function_counts_in_the_standards_form_too() {
    let db = TestDatabase::new().await;
    let atomic = |body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION main_app.lock_plan(org_id uuid) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT {body}; END"
        )
    };
    db.execute(&atomic("'free'::text")).await;
    let before = fingerprint(&db).await;
    db.execute(&atomic("'pro'::text")).await;
    assert_ne!(fingerprint(&db).await, before);
}

#[tokio::test]
async fn foreign_key_that_cascades_and_trigger_that_could_keep_rows_count() {
    let db = TestDatabase::new().await;
    let mut before = fingerprint(&db).await;
    for change in [
        "CREATE TABLE audit (approval_id uuid REFERENCES approvals (id) ON DELETE CASCADE)",
        "ALTER TABLE drift_checks DISABLE TRIGGER ALL",
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER keep BEFORE DELETE ON approvals FOR EACH ROW EXECUTE FUNCTION keep()",
        "ALTER VIEW main_app.incidents RENAME owner TO somebody",
    ] {
        db.execute(change).await;
        let after = fingerprint(&db).await;
        assert_ne!(after, before, "{change}");
        before = after;
    }
}

#[tokio::test]
async fn transactions_see_what_is_committed_whatever_the_databases_default_is() {
    let db = TestDatabase::new().await;
    let name: String = db.value("SELECT current_database()::text").await;
    db.execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    ))
    .await;
    let database = Database::new(&db.url, 1).unwrap();
    let mut tx = database.begin().await.unwrap();
    let isolation = sqlx::Row::get::<String, _>(
        &sqlx::Executor::fetch_one(&mut tx, "SHOW transaction_isolation")
            .await
            .unwrap(),
        0,
    );
    assert_eq!(isolation, "read committed");
    tx.rollback().await.unwrap();
    database.close().await;
}

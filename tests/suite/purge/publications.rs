//! Logical replication of the whole database: rows can be deleted and updated only where a table has a key.

use crate::support::{TestDatabase, app::App, ledger, product, runs};

#[tokio::test]
async fn every_table_of_ours_has_a_primary_key() {
    let db = TestDatabase::new().await;
    let without: Vec<String> = db
        .value(
            "SELECT ARRAY (
                 SELECT c.oid::regclass::text FROM pg_class c
                 WHERE c.relkind = 'r' AND c.relnamespace IN ('retention'::regnamespace, 'apalis'::regnamespace, 'public'::regnamespace)
                   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))",
        )
        .await;
    assert_eq!(without, [""; 0]);
}

#[tokio::test]
async fn everything_is_purged_where_all_tables_are_published() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_all_kinds_expired(20).await;
    let before = ledger::rows(&db.pool).await;
    db.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        .await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(&db, run).await, [19, 38, 1, 1]);
    ledger::assert_exact(&db.pool, &before).await;
}

/// Sessions that skip triggers, as a restore leaves them, would skip the foreign key that takes the flags along.
#[tokio::test]
async fn nothing_is_purged_by_sessions_that_skip_foreign_keys() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_all_kinds_expired(20).await;
    db.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$",
    )
    .await;
    for command in [
        &["purge", "--org", &org.to_string(), "--work"][..],
        &["attach", "check"],
    ] {
        let refused = product::run(&db.url, command).await;
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            said.contains("session_replication_role is replica"),
            "{said}"
        );
    }
    assert_eq!(runs::counts(&db, org).await, [20, 40, 1, 1]);
}

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

//! The template as it is printed: applied to the reference tables it is the reference mapping, and it is proved.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use crate::support::{
    TestDatabase,
    app::App,
    attach::accepted,
    product, runs,
    text::{stderr, stdout},
};

const TABLES: [&str; 5] = [
    include_str!("../../../../migrations/main_app/1001_main_app.up.sql"),
    include_str!("../../../../migrations/main_app/1002_incident_lifecycle.up.sql"),
    include_str!("../../../../migrations/main_app/1003_incident_payloads.up.sql"),
    include_str!("../../../../migrations/main_app/1004_indexes.up.sql"),
    include_str!("../../../../migrations/main_app/1005_vacuum.up.sql"),
];

/// Everything of the mapping, as SQL.
async fn mapping(db: &TestDatabase) -> Vec<String> {
    db.value(
        "SELECT array_agg(line ORDER BY line) FROM (
             SELECT concat_ws(' | ', c.relname, c.relkind, c.reloptions, c.relacl, pg_get_viewdef(c.oid)) AS line
             FROM pg_class c WHERE c.relnamespace = 'main_app'::regnamespace
             UNION ALL
             SELECT concat_ws(' | ', p.proacl, pg_get_functiondef(p.oid))
             FROM pg_proc p WHERE p.pronamespace = 'main_app'::regnamespace
             UNION ALL
             SELECT concat_ws(' | ', t.typname, format_type(t.typbasetype, t.typtypmod), t.typnotnull)
             FROM pg_type t WHERE t.typnamespace = 'main_app'::regnamespace AND t.typtype = 'd'
             UNION ALL
             SELECT concat_ws(' | ', pg_get_triggerdef(t.oid), t.tgenabled) FROM pg_trigger t WHERE NOT t.tgisinternal
                 AND t.tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
             UNION ALL
             SELECT obj_description('main_app'::regnamespace, 'pg_namespace')) lines",
    )
    .await
}

async fn psql(db: &TestDatabase, sql: &str) {
    let mut psql = tokio::process::Command::new("psql")
        .args([
            "--no-psqlrc",
            "--quiet",
            "--set",
            "ON_ERROR_STOP=1",
            &db.url,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    psql.stdin
        .take()
        .unwrap()
        .write_all(sql.as_bytes())
        .await
        .unwrap();
    assert!(psql.wait().await.unwrap().success());
}

#[tokio::test]
async fn template_as_printed_is_the_reference_mapping_and_is_proved() {
    let reference = mapping(&TestDatabase::new().await).await;
    assert_eq!(reference.len(), 7 + 2 + 1 + 1 + 1, "{reference:#?}");

    let db = TestDatabase::empty().await;
    for sql in TABLES {
        db.execute(sql).await;
    }
    let output = product::run(&db.url, &["migrate", "up"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    // It needs no database to be printed.
    let printed = product::run(
        "postgres://nobody@127.0.0.1:1/nothing",
        &["attach", "template"],
    )
    .await;
    assert!(printed.status.success(), "{}", stderr(&printed));
    let template = stdout(&printed);
    assert!(template.is_ascii(), "somebody else's psql may not read it");
    psql(&db, &template).await;

    assert_eq!(mapping(&db).await, reference);
    assert_eq!(accepted(&db.url, &[]).await, []);
    let org = App::on(&db.pool).org_with_all_kinds_expired(5).await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(&db, run).await, [4, 8, 1, 1]);
}

/// A mistake in the middle leaves nothing behind: the mapping is one transaction.
#[tokio::test]
async fn mapping_that_fails_half_way_leaves_no_schema() {
    let db = TestDatabase::empty().await;
    let output = product::run(&db.url, &["migrate", "up"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let template = stdout(&product::run(&db.url, &["attach", "template"]).await);
    let applied = sqlx::raw_sql(sqlx::AssertSqlSafe(
        template.split_once("COMMIT;").unwrap().0.to_owned() + "COMMIT;",
    ))
    .execute(&db.pool)
    .await;
    assert!(applied.is_err(), "there are no tables to map");
    let mapped = "SELECT to_regnamespace('main_app') IS NOT NULL";
    assert!(!db.value::<bool>(mapped).await);
}

//! A database with settings of its own: whatever its sessions begin with, `migrate` works, and so does what it creates.

use crate::support::{
    self, TestDatabase,
    app::App,
    product, roles,
    text::{shown, stderr},
};

async fn migrate(url: &str, args: &[&str]) {
    let output = product::run(url, &[&["migrate"], args].concat()).await;
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
}

/// Of the database, of the role, and of the role in this database, which goes before both.
#[tokio::test]
async fn timeouts_of_the_database_or_the_role_cancel_no_migration() {
    let db = TestDatabase::empty().await;
    let role = format!("migrator_{}", uuid::Uuid::new_v4().simple());
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'secret';
         DO $$ DECLARE name text; BEGIN
             FOR name IN SELECT s.name FROM pg_settings s
                         WHERE s.name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
                                          'idle_session_timeout') LOOP
                 EXECUTE format('ALTER DATABASE %I SET %s = ''1ms''', current_database(), name);
                 EXECUTE format('ALTER ROLE {role} SET %s = ''1ms''', name);
                 EXECUTE format('ALTER ROLE {role} IN DATABASE %I SET %s = ''1ms''', current_database(), name);
             END LOOP;
         END $$"
    ))
    .await;
    for url in [&db.url, &roles::url_of(&db, &role, "secret")] {
        for args in [
            ["up", "--main-app"].as_slice(),
            &["down", "--to", "0"],
            &["up"],
            &["status"],
            &["down", "--to", "0"],
        ] {
            migrate(url, args).await;
        }
    }
    // Roles belong to the whole server.
    let patient =
        "-c%20statement_timeout%3D0%20-c%20lock_timeout%3D0%20-c%20idle_session_timeout%3D0";
    let admin = support::pool(format!("{}?options={patient}", db.url).parse().unwrap());
    let gone = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
    support::execute_on(&admin, &gone).await;
}

/// A database of a legacy encoding takes no text that it has no letters for, not even in a comment.
#[tokio::test]
async fn database_of_a_legacy_encoding_is_migrated_and_purged() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let db = TestDatabase::of_encoding(encoding).await;
        migrate(&db.url, &["up", "--main-app"]).await;
        let org = App::on(&db.pool).org_with_all_kinds_expired(5).await;
        product::purge(&db.url, org).await;
        assert_eq!(
            db.value::<i64>("SELECT count(*) FROM drift_checks").await,
            1
        );
        migrate(&db.url, &["down", "--to", "0"]).await;
    }
}

/// By the SQL of old a backslash in quotes begins an escape; a main app of that time may still ask for it.
#[tokio::test]
async fn backslashes_that_escape_change_nothing() {
    let db = TestDatabase::empty().await;
    db.execute(
        "DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', current_database());
             EXECUTE format('ALTER DATABASE %I SET backslash_quote = off', current_database());
         END $$",
    )
    .await;
    // Every session from now on has them.
    let pool = support::pool(db.url.parse().unwrap());
    let off: String = support::value(
        &pool,
        "SELECT current_setting('standard_conforming_strings')",
    )
    .await;
    assert_eq!(off, "off");
    migrate(&db.url, &["up", "--main-app"]).await;
    let app = App::on(&pool);
    let [first, second] = [
        app.org_with_all_kinds_expired(5).await,
        app.org_with_all_kinds_expired(5).await,
    ];
    product::enqueue(&pool, first).await;
    product::purge(&db.url, first).await;
    product::purge(&db.url, second).await;
    let left: i64 = support::value(&pool, "SELECT count(*) FROM drift_checks").await;
    assert_eq!(left, 2);
    let preview = product::json(&db.url, &["preview", "--all", "--json"]).await;
    assert_eq!(preview["organizations"][0]["tables"]["drift_checks"], 0);
    for args in [["runs", "list"], ["attach", "check"]] {
        let output = product::run(&db.url, &args).await;
        assert!(output.status.success(), "{}", shown(&output));
    }
    migrate(&db.url, &["down", "--to", "0"]).await;
}

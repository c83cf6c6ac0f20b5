//! Users of the database who may do no more than `deploy/postgres/roles.sql` lets them.

use std::str::FromStr;

use sqlx::{Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{TestDatabase, app::App, execute, pool, server};

const ROLES: &str = include_str!("../../../deploy/postgres/roles.sql");

/// Applies `roles.sql` to the test's database. Roles belong to the whole server: one test at a time.
pub async fn apply(db: &TestDatabase) {
    let mut guard = PgConnection::connect_with(&server()).await.unwrap();
    execute(&mut guard, "SELECT pg_advisory_lock(5082)".into()).await;
    db.execute(ROLES).await;
    guard.close().await.unwrap();
}

/// A new user in this role (`""`: in none); the URL with which it logs in.
pub async fn user_in(db: &TestDatabase, role: &str) -> String {
    let name = format!("test_{}", Uuid::new_v4().simple());
    let member = if role.is_empty() {
        String::new()
    } else {
        format!(" IN ROLE {role}")
    };
    db.execute(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'secret'{member}"
    ))
    .await;
    url_of(db, &name, "secret")
}

/// The URL with which a user logs in.
pub fn url_of(db: &TestDatabase, name: &str, password: &str) -> String {
    let (scheme, rest) = db.url.split_once("://").unwrap();
    let address = rest.split_once('@').map_or(rest, |(_, address)| address);
    format!("{scheme}://{name}:{password}@{address}")
}

/// Makes the users of `compose.yaml` as it does, with the worker's and Grafana's password.
pub async fn make_users(db: &TestDatabase, (worker, grafana): (&str, &str)) {
    let users = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/postgres/users.sql");
    let done = tokio::process::Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--file", users, &db.url])
        .env("WORKER_PASSWORD", worker)
        .env("GRAFANA_DB_PASSWORD", grafana)
        .output()
        .await
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// A pool of a user.
pub fn pool_of(url: &str) -> PgPool {
    pool(PgConnectOptions::from_str(url).unwrap())
}

/// The SQLSTATE with which a statement fails; none: it did not.
pub async fn refusal(pool: &PgPool, sql: &str) -> Option<String> {
    let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await;
    let error = outcome.err()?;
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    Some(code.map_or_else(|| error.to_string(), std::borrow::Cow::into_owned))
}

/// Fails for every statement that is not refused for want of privilege.
pub async fn assert_refused(pool: &PgPool, statements: &[&str]) {
    for sql in statements {
        assert_eq!(refusal(pool, sql).await.as_deref(), Some("42501"), "{sql}");
    }
}

/// A migrated database with the roles, and a second view of it as the worker's user.
pub async fn as_worker() -> (TestDatabase, TestDatabase) {
    let owner = TestDatabase::new().await;
    apply(&owner).await;
    let url = user_in(&owner, "drift_retention_worker").await;
    let pool = pool_of(&url);
    (owner, TestDatabase { pool, url })
}

/// An organization with something expired in every table, and the approval of an open incident, which stays.
pub async fn org_with_all_kinds(db: &TestDatabase) -> Uuid {
    let app = App::on(&db.pool);
    let org = app.org_with_all_kinds_expired(11).await;
    let env = app.env(org).await;
    let open = app.incident(org, env, "detected", None).await;
    app.approval(org, open, "approved", "181 days").await;
    org
}

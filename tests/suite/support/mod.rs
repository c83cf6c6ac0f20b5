//! What tests share: a database of their own on the server that `DATABASE_URL` names, the product's binary as
//! users run it, and the main app's rows.
#![allow(dead_code, reason = "every test file uses its part")]

pub mod api;
pub mod app;
pub mod app_at_work;
pub mod attach;
pub mod browser;
pub mod checksum;
pub mod client;
pub mod collector;
pub mod console;
pub mod cut;
pub mod held;
pub mod hostile;
pub mod ledger;
pub mod model;
pub mod own_server;
pub mod pooler;
pub mod port;
pub mod product;
pub mod roles;
pub mod runs;
pub mod scene;
pub mod terminal;
pub mod text;
pub mod trouble;
pub mod visitor;
pub mod watching;
pub mod workflowops;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    str::FromStr,
};

use drift_retention::postgres::{self, migrations};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgConnectOptions, postgres::PgPoolOptions};
use uuid::Uuid;

/// The tables of the reference main app.
pub const MAIN_APP: [&str; 7] = [
    "organizations",
    "environments",
    "drift_checks",
    "workflow_drift_flags",
    "incidents",
    "incident_payloads",
    "approvals",
];

/// A migrated database of this test's own.
pub struct TestDatabase {
    pub pool: PgPool,
    pub url: String,
}

impl TestDatabase {
    /// A copy of the migrated template, which the first test of a server makes.
    pub async fn new() -> Self {
        let server = server();
        let mut admin = PgConnection::connect_with(&server).await.unwrap();
        let template = template(&mut admin).await;
        Self::create(&mut admin, &server, &format!("TEMPLATE {template}")).await
    }

    /// An empty database without any schema.
    pub async fn empty() -> Self {
        let server = server();
        let mut admin = PgConnection::connect_with(&server).await.unwrap();
        Self::create(&mut admin, &server, "").await
    }

    /// An empty database whose text is in this encoding.
    pub async fn of_encoding(encoding: &str) -> Self {
        let server = server();
        let mut admin = PgConnection::connect_with(&server).await.unwrap();
        let how = format!("TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        Self::create(&mut admin, &server, &how).await
    }

    async fn create(admin: &mut PgConnection, server: &PgConnectOptions, how: &str) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        execute(admin, format!("CREATE DATABASE {name} {how}")).await;
        let options = server.clone().database(&name);
        let url = url_of(&name);
        Self {
            pool: pool(options),
            url,
        }
    }

    /// One number or text, for assertions; plain SQL, apart from the product's.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
        (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        value(&self.pool, sql).await
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        execute_on(&self.pool, sql).await;
    }
}

/// One value by plain SQL.
#[allow(clippy::disallowed_methods, reason = "assertions use SQL of their own")]
pub async fn value<T>(pool: &PgPool, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
{
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Runs statements.
pub async fn execute_on(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .unwrap();
}

/// A pool without any of the product's session settings.
pub fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(60)
        .connect_lazy_with(options)
}

#[allow(
    clippy::disallowed_methods,
    reason = "tests are told of their server by the environment"
)]
fn server_url() -> String {
    std::env::var("DATABASE_URL")
        .expect("run the tests with `make test`, which starts a Postgres for them")
}

fn server() -> PgConnectOptions {
    PgConnectOptions::from_str(&server_url()).unwrap()
}

fn url_of(database: &str) -> String {
    let url = server_url();
    let (head, _) = url.rsplit_once('/').unwrap();
    format!("{head}/{database}")
}

/// The template's name holds the migrations' checksums: another schema has another template.
async fn template(admin: &mut PgConnection) -> String {
    let mut hasher = DefaultHasher::new();
    for migrator in [sqlx::migrate!(), sqlx::migrate!("./migrations/main_app")] {
        for migration in migrator.iter() {
            migration.checksum.hash(&mut hasher);
        }
    }
    let name = format!("template_{:016x}", hasher.finish());
    execute(admin, "SELECT pg_advisory_lock(5081)".into()).await;
    #[allow(clippy::disallowed_methods, reason = "test set-up")]
    let exists: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)",
    )
    .bind(&name)
    .fetch_one(&mut *admin)
    .await
    .unwrap();
    if !exists {
        execute(admin, format!("DROP DATABASE IF EXISTS {name}")).await;
        execute(admin, format!("CREATE DATABASE {name}")).await;
        let pool = postgres::pool_for_migrations(&url_of(&name)).unwrap();
        migrations::up_main_app(&pool).await.unwrap();
        pool.close().await;
        execute(admin, format!("ALTER DATABASE {name} IS_TEMPLATE true")).await;
    }
    execute(admin, "SELECT pg_advisory_unlock(5081)".into()).await;
    name
}

async fn execute(conn: &mut PgConnection, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(conn)
        .await
        .unwrap();
}

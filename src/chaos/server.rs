//! The lab's own Postgres: one server for all rounds, one database for each.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::ChaosError;
use crate::postgres::{
    self,
    local::{LocalServer, ServerBinaries, StopMode},
    migrations,
};

/// What the product's processes log in as: the least that `deploy/postgres/roles.sql` gives a worker.
pub(super) const PRODUCT: &str = "chaos_product";
const ROLES: &str = include_str!("../../deploy/postgres/roles.sql");
const JOURNAL: &str = include_str!("sql/journal.sql");
const TROUBLE: &str = include_str!("sql/trouble.sql");
const SEED: &str = include_str!("sql/seed.sql");
/// The order of commits is what the oracle goes by. A crash of the server is none of the machine: nothing is lost
/// without fsync.
const OPTIONS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("track_commit_timestamp", "on"),
    ("max_connections", "200"),
    ("timezone", "UTC"),
];

/// The server, whoever stops and starts it.
#[derive(Debug)]
pub(super) struct Server {
    binaries: ServerBinaries,
    dir: PathBuf,
    running: Option<LocalServer>,
    port: Arc<AtomicU16>,
    url: String,
    password: String,
}

/// How the lab itself reaches one database: never through a proxy.
#[derive(Debug, Clone)]
pub(super) struct Database {
    url: String,
    port: Arc<AtomicU16>,
}

impl Server {
    pub(super) async fn start(dir: &Path, bin_dir: Option<&Path>) -> Result<Self, ChaosError> {
        let binaries = ServerBinaries::find(bin_dir)?;
        let running = LocalServer::start(&binaries, dir, OPTIONS).await?;
        Ok(Self {
            binaries,
            dir: dir.to_owned(),
            port: Arc::new(AtomicU16::new(running.port())),
            url: running.url(""),
            running: Some(running),
            password: Uuid::new_v4().simple().to_string(),
        })
    }

    /// Where it listens, now and after every restart.
    pub(super) fn port(&self) -> Arc<AtomicU16> {
        self.port.clone()
    }

    pub(super) async fn stop(&mut self, mode: StopMode) -> Result<(), ChaosError> {
        if let Some(server) = self.running.take() {
            server.stop(mode).await?;
        }
        Ok(())
    }

    /// Starts it unless it runs; its data is what it was.
    pub(super) async fn start_again(&mut self) -> Result<(), ChaosError> {
        if self.running.is_none() {
            let server = LocalServer::start(&self.binaries, &self.dir, OPTIONS).await?;
            self.port.store(server.port(), Ordering::SeqCst);
            self.running = Some(server);
        }
        Ok(())
    }

    /// What a process of the product is to be told: the database through the proxy on `port`, and its own name for
    /// the journal.
    pub(super) fn product_url(&self, database: &str, port: u16, process: &str) -> String {
        let password = &self.password;
        format!(
            "postgres://{PRODUCT}:{password}@127.0.0.1:{port}/{database}?sslmode=disable&options[chaos.process]={process}"
        )
    }

    /// A database with the product's schema, the journal, and so many organizations.
    pub(super) async fn create(
        &self,
        name: &str,
        organizations: u32,
    ) -> Result<Database, ChaosError> {
        let Some(server) = &self.running else {
            return Err(ChaosError::NoServer);
        };
        server.create_database(name).await?;
        let pool = postgres::pool_for_migrations(&server.url(name))?;
        migrations::up_main_app(&pool).await?;
        pool.close().await;
        let database = self.database(name);
        let mut conn = database.connect().await?;
        let login = format!(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{PRODUCT}') THEN
                     CREATE ROLE {PRODUCT} LOGIN PASSWORD '{}' IN ROLE drift_retention_worker;
                 END IF;
             END $$",
            self.password
        );
        let seed = SEED.replace("$1", &organizations.to_string());
        for sql in [ROLES, &login, JOURNAL, TROUBLE, &seed] {
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .execute(&mut conn)
                .await?;
        }
        conn.close().await?;
        Ok(database)
    }

    pub(super) async fn drop(&self, name: &str) -> Result<(), ChaosError> {
        let mut conn = self.database("postgres").connect().await?;
        sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
            .execute(&mut conn)
            .await?;
        Ok(())
    }

    /// A database of this server, whether it is there or not.
    pub(super) fn database(&self, name: &str) -> Database {
        Database {
            url: format!("{}{name}", self.url),
            port: self.port.clone(),
        }
    }
}

impl Database {
    /// For a program that is told of it once: good until the server starts again.
    pub(super) fn present_url(&self) -> String {
        let (before, name) = self.url.rsplit_once('/').unwrap_or_default();
        let (login, _) = before.rsplit_once(':').unwrap_or_default();
        format!("{login}:{}/{name}", self.port.load(Ordering::SeqCst))
    }

    /// A connection of one's own, on the port that the server has now.
    pub(super) async fn connect(&self) -> sqlx::Result<PgConnection> {
        let options: PgConnectOptions = self.url.parse()?;
        options
            .port(self.port.load(Ordering::SeqCst))
            .application_name("chaos")
            .connect()
            .await
    }
}

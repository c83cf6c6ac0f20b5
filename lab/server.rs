//! The lab's own Postgres: one server for all rounds, and one database for each round.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use drift_retention::postgres::{
    self,
    local::{LocalServer, ServerBinaries, StopMode},
    migrations,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::rounds::LabError;

/// The login of the product's processes. It has only the rights that `deploy/postgres/roles.sql` gives a worker.
pub(crate) const PRODUCT: &str = "chaos_product";
const ROLES: &str = include_str!("../deploy/postgres/roles.sql");
const JOURNAL: &str = include_str!("sql/journal.sql");
const TROUBLE: &str = include_str!("sql/trouble.sql");
const SEED: &str = include_str!("sql/seed.sql");
/// The oracle needs the time of every commit. The server may crash, but the machine does not, so nothing is lost without
/// fsync.
const SERVER_SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("track_commit_timestamp", "on"),
    ("max_connections", "200"),
    ("timezone", "UTC"),
];

/// The server, over all its restarts.
#[derive(Debug)]
pub(crate) struct Server {
    binaries: ServerBinaries,
    dir: PathBuf,
    running: Option<LocalServer>,
    port: Arc<AtomicU16>,
    url: String,
    password: String,
}

/// One database as the lab itself reaches it, without a proxy.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    url: String,
    port: Arc<AtomicU16>,
}

impl Server {
    pub(crate) async fn start(dir: &Path, bin_dir: Option<&Path>) -> Result<Self, LabError> {
        let binaries = ServerBinaries::find(bin_dir)?;
        let running = LocalServer::start(&binaries, dir, SERVER_SETTINGS).await?;
        Ok(Self {
            binaries,
            dir: dir.to_owned(),
            port: Arc::new(AtomicU16::new(running.port())),
            url: running.url(""),
            running: Some(running),
            password: Uuid::new_v4().simple().to_string(),
        })
    }

    /// The server's port. Its value changes with every restart.
    pub(crate) fn port(&self) -> Arc<AtomicU16> {
        self.port.clone()
    }

    pub(crate) async fn stop(&mut self, mode: StopMode) -> Result<(), LabError> {
        if let Some(server) = self.running.take() {
            server.stop(mode).await?;
        }
        Ok(())
    }

    /// Starts the server on its old data, unless it is running.
    pub(crate) async fn start_again(&mut self) -> Result<(), LabError> {
        if self.running.is_none() {
            let server = LocalServer::start(&self.binaries, &self.dir, SERVER_SETTINGS).await?;
            self.port.store(server.port(), Ordering::SeqCst);
            self.running = Some(server);
        }
        Ok(())
    }

    /// The URL for a process of the product. It leads through the proxy on `port` and sets the process's name for the
    /// journal.
    pub(crate) fn product_url(&self, database: &str, port: u16, process: &str) -> String {
        let password = &self.password;
        format!(
            "postgres://{PRODUCT}:{password}@127.0.0.1:{port}/{database}?sslmode=disable&options[chaos.process]={process}"
        )
    }

    /// Creates a database with the product's schema, the journal and the organizations.
    pub(crate) async fn create(
        &self,
        name: &str,
        organizations: u32,
    ) -> Result<Database, LabError> {
        let Some(server) = &self.running else {
            return Err(LabError::NoServer);
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

    pub(crate) async fn drop(&self, name: &str) -> Result<(), LabError> {
        let mut conn = self.database("postgres").connect().await?;
        sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
            .execute(&mut conn)
            .await?;
        Ok(())
    }

    /// A database of this server. It need not exist.
    pub(crate) fn database(&self, name: &str) -> Database {
        Database {
            url: format!("{}{name}", self.url),
            port: self.port.clone(),
        }
    }
}

impl Database {
    /// A URL that is valid until the server restarts.
    pub(crate) fn present_url(&self) -> String {
        let (before, name) = self.url.rsplit_once('/').unwrap_or_default();
        let (login, _) = before.rsplit_once(':').unwrap_or_default();
        format!("{login}:{}/{name}", self.port.load(Ordering::SeqCst))
    }

    /// Connects to the port that the server has now.
    pub(crate) async fn connect(&self) -> sqlx::Result<PgConnection> {
        let options: PgConnectOptions = self.url.parse()?;
        options
            .port(self.port.load(Ordering::SeqCst))
            .application_name("chaos")
            .connect()
            .await
    }
}

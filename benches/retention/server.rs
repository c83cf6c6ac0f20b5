//! A Postgres of the bench's own: durable, tuned for the machine as one would, the same for every contestant. Each
//! contestant gets a fresh copy of what was seeded, warmed in the same way.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use drift_retention::postgres::{
    self,
    local::{LocalServer, ServerBinaries, StopMode},
    migrations,
};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{machine::Machine, sql};

/// Twice the time after which autovacuum looks at a database again.
const LOOKED_AT: Duration = Duration::from_mins(2);

/// The server, and the directory that it lives in.
pub(crate) struct Server {
    postgres: LocalServer,
    dir: PathBuf,
    temporary: Option<TempDir>,
    /// What it was started with.
    pub(crate) settings: Vec<(&'static str, String)>,
}

impl Server {
    /// Starts it in `dir`, or in a directory that goes with it.
    pub(crate) async fn start(dir: Option<&Path>, machine: &Machine) -> Result<Self> {
        let temporary = match dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("bench-").tempdir()?),
        };
        let dir = match (dir, &temporary) {
            (Some(dir), _) => dir.join("postgres"),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => unreachable!("one of the two is there"),
        };
        fs::create_dir_all(&dir)?;
        // As root the server runs as another user, who has to get in.
        fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
        let settings = settings(machine);
        let options: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let postgres = LocalServer::start(&ServerBinaries::find(None)?, &dir, &options).await?;
        Ok(Self {
            postgres,
            dir,
            temporary,
            settings,
        })
    }

    /// Stops it; its directory goes, unless it is to be kept.
    pub(crate) async fn stop(self, keep: bool) -> Result<()> {
        let mode = if keep {
            StopMode::Fast
        } else {
            StopMode::Immediate
        };
        self.postgres.stop(mode).await?;
        match self.temporary {
            Some(temporary) if keep => {
                println!("the data is kept in {}", temporary.keep().display());
            }
            Some(temporary) => temporary.close()?,
            None if !keep => fs::remove_dir_all(&self.dir)?,
            None => {}
        }
        Ok(())
    }

    /// Where a database is.
    pub(crate) fn url(&self, database: &str) -> String {
        self.postgres.url(database)
    }

    /// What the server says of itself.
    pub(crate) async fn version(&self) -> Result<String> {
        let pool = sql::pool(&self.url("postgres"))?;
        sql::value(&pool, "SHOW server_version").await
    }

    /// A new database with the product's schema and nothing in it.
    pub(crate) async fn create(&self, database: &str) -> Result<()> {
        self.drop(database).await?;
        self.postgres.create_database(database).await?;
        let pool = postgres::pool_for_migrations(&self.url(database))?;
        // The seeds take random bytes from it; the queue finds it where it is.
        sql::run(&pool, "CREATE EXTENSION pgcrypto SCHEMA public").await?;
        migrations::up_main_app(&pool).await?;
        sql::run(&pool, "CREATE EXTENSION pg_prewarm SCHEMA public").await?;
        pool.close().await;
        Ok(())
    }

    /// A fresh copy of a seeded database, with the cache in this state. Nobody may be connected to the original.
    pub(crate) async fn copy(&self, seeded: &str, database: &str, cache: Cache) -> Result<Copy> {
        self.drop(database).await?;
        let postgres = sql::pool(&self.url("postgres"))?;
        let create =
            format!("CREATE DATABASE \"{database}\" TEMPLATE \"{seeded}\" STRATEGY file_copy");
        sql::run(&postgres, &create).await?;
        postgres.close().await;
        let copy = self.open(database)?;
        if cache == Cache::Cold {
            sql::run(&copy.pool, "CHECKPOINT").await?;
            return Ok(copy);
        }
        copy.leave_something_to_vacuum().await?;
        sql::run(&copy.pool, "CHECKPOINT").await?;
        sql::run(
            &copy.pool,
            "-- bench.warm_up
             SELECT sum(pg_prewarm(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'i', 't') AND n.nspname IN ('public', 'retention', 'apalis', 'pg_toast')",
        )
        .await?;
        timeout(LOOKED_AT, copy.first_look())
            .await
            .context("autovacuum does not look at the copy: is it off?")??;
        Ok(copy)
    }

    /// A database as it is.
    pub(crate) fn open(&self, database: &str) -> Result<Copy> {
        let url = self.url(database);
        let pool = sql::pool(&url)?;
        Ok(Copy { url, pool })
    }

    /// Drops a database if it is there, whoever is connected.
    pub(crate) async fn drop(&self, database: &str) -> Result<()> {
        let pool = sql::pool(&self.url("postgres"))?;
        let drop = format!("DROP DATABASE IF EXISTS \"{database}\" WITH (FORCE)");
        sql::run(&pool, &drop).await.context("after a contestant")?;
        pool.close().await;
        Ok(())
    }
}

/// What the server knows of a copy when a contestant begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    /// All of it has been read once, and autovacuum has just looked at it.
    Warm,
    /// Nobody has read it, and autovacuum looks at it when it likes.
    Cold,
}

/// A copy for one contestant.
pub(crate) struct Copy {
    /// Where it is.
    pub(crate) url: String,
    /// For observing it.
    pub(crate) pool: PgPool,
}

/// A database that has just come into being is the first in line for autovacuum, which would look at it in the middle of
/// most purges, and of some not at all. One in use is looked at once a minute: each contestant begins after such a look.
impl Copy {
    async fn leave_something_to_vacuum(&self) -> Result<()> {
        for sql in [
            "-- bench.leave_something_to_vacuum
             CREATE TABLE first_look () WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)",
            "INSERT INTO first_look DEFAULT VALUES",
            "DELETE FROM first_look",
        ] {
            sql::run(&self.pool, sql).await?;
        }
        Ok(())
    }

    async fn first_look(&self) -> Result<()> {
        let looked = "-- bench.first_look
            SELECT autovacuum_count > 0 FROM pg_stat_user_tables WHERE relname = 'first_look'";
        while !sql::value::<bool>(&self.pool, looked).await? {
            sleep(Duration::from_millis(100)).await;
        }
        sql::run(&self.pool, "DROP TABLE first_look").await
    }
}

/// A quarter of the memory for the buffers (1 GB at most), checkpoints that are rare; the rest is Postgres's default.
fn settings(machine: &Machine) -> Vec<(&'static str, String)> {
    let buffers = (machine.memory_mib / 4).clamp(128, 1024);
    vec![
        ("fsync", "on".into()),
        ("shared_buffers", format!("{buffers}MB")),
        ("max_wal_size", "8GB".into()),
        ("checkpoint_timeout", "15min".into()),
        ("max_connections", "100".into()),
        ("shared_preload_libraries", String::new()),
    ]
}

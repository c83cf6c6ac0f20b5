//! Seeded databases: the product's own migrations, then set-based SQL (`seed/*.sql`), whose sizes are settings.

use std::time::Instant;

use anyhow::Result;
use sqlx::PgConnection;

use crate::{server::Server, sql};

/// What is in a seeded database.
pub(crate) struct Seed {
    /// Its database's name.
    pub(crate) database: String,
    script: &'static str,
    sizes: Vec<(&'static str, u64)>,
}

impl Seed {
    /// Of each kind half is expired, per organization 900 checks with 5 flags each, 180 incidents and 360 approvals.
    pub(crate) fn loaded(organizations: u64) -> Self {
        Self {
            database: format!("loaded_{organizations}"),
            script: include_str!("seed/loaded.sql"),
            sizes: vec![
                ("orgs", organizations),
                ("envs", 3),
                ("checks", organizations * 900),
                ("flags", 5),
                ("incidents", organizations * 180),
            ],
        }
    }

    /// Nothing is due.
    pub(crate) fn idle(organizations: u64) -> Self {
        Self::small("idle", organizations, 0)
    }

    /// The same organizations, and of each environment that is not dormant five checks have expired since the last night.
    pub(crate) fn usual(organizations: u64) -> Self {
        Self::small("usual", organizations, 5)
    }

    fn small(name: &str, organizations: u64, due: u64) -> Self {
        Self {
            database: format!("{name}_{organizations}"),
            script: include_str!("seed/small.sql"),
            sizes: vec![
                ("orgs", organizations),
                ("envs", 2),
                ("checks", 10),
                ("flags", 2),
                ("due", due),
            ],
        }
    }

    /// One organization with so many expired checks (none: it is not there) beside small ones.
    pub(crate) fn huge(expired: u64, small: u64) -> Self {
        Self {
            database: format!("huge_{expired}_{small}"),
            script: include_str!("seed/huge.sql"),
            sizes: vec![("orgs", small), ("envs", 1), ("huge", expired)],
        }
    }

    /// The organizations whose nights are simulated; their rows come day by day.
    pub(crate) fn nights(organizations: u64) -> Self {
        Self {
            database: "nights".to_owned(),
            script: include_str!("seed/nights.sql"),
            sizes: vec![("orgs", organizations), ("envs", 2)],
        }
    }

    /// Makes the database, and leaves it vacuumed, analyzed and written out.
    pub(crate) async fn plant(&self, server: &Server) -> Result<()> {
        let began = Instant::now();
        server.create(&self.database).await?;
        let mut connection = sql::connection(&server.url(&self.database)).await?;
        self.set_sizes(&mut connection).await?;
        sql::script(&mut connection, include_str!("seed/plans.sql")).await?;
        sql::script(&mut connection, self.script).await?;
        for finish in ["VACUUM ANALYZE", "CHECKPOINT"] {
            sql::script(&mut connection, finish).await?;
        }
        println!(
            "seeded {} in {:.0} s",
            self.database,
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    async fn set_sizes(&self, connection: &mut PgConnection) -> Result<()> {
        for (name, size) in &self.sizes {
            sql::script(connection, &format!("SET bench.{name} = {size}")).await?;
        }
        Ok(())
    }
}

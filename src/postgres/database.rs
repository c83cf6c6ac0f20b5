//! The database as everything above reaches it: through a pool of sessions, or through a transaction pooler.
//!
//! A pooler in transaction mode (pgbouncer, and most services that put one in front of Postgres) gives every
//! transaction another session. What a session keeps then is somebody else's a moment later: its settings and its
//! prepared statements. So through a pooler each statement runs in a transaction, its settings are `SET LOCAL`, and no
//! statement has a name. This type and [`Transaction`] are the only places that know; above
//! them, the same statements run either way.

use std::{iter, sync::Arc, time::Duration};

use futures::{StreamExt, TryFutureExt, TryStreamExt, future::BoxFuture, stream};
use sqlx::{
    AssertSqlSafe, Describe, Execute, Executor, PgPool, Postgres, SqlStr,
    postgres::{PgRow, PgStatement, PgTypeInfo},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{
    Flush, Mapping, Patience, SESSION, Transaction,
    connections::{Access, Trust},
    direct_pool, pooler_pool,
    transaction::Results,
};

/// What a transaction that gives way begins with. Its statements go by key and in the order of an index, whatever is asked for:
/// they need not be planned a thousand times, nor by statistics, which follow a queue that fills at once, or a database just
/// restored, only minutes later.
const YIELDING: [&str; 5] = [
    "SET LOCAL lock_timeout = '100ms'",
    "SET LOCAL idle_in_transaction_session_timeout = '1s'",
    "SET LOCAL plan_cache_mode = force_generic_plan",
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_bitmapscan = off",
];

/// The pause after each connection that is opened ahead.
const BETWEEN_CONNECTIONS: Duration = Duration::from_millis(30);
/// How long opening ahead may take.
const OPEN_WITHIN: Duration = Duration::from_secs(3);

/// Postgres, by one URL or by two.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    /// Sessions of our own; absent: `pool` has them.
    direct: Option<PgPool>,
    /// Sessions of their own for the transactions that give way; absent: `pool` has them.
    yielding: Option<Yielding>,
    /// The mapping that this process has checked; absent: nothing may be purged.
    mapping: Option<Arc<Mapping>>,
    /// Which of the connections may still be used.
    trust: Arc<Trust>,
}

/// Few sessions, and a place in line for each. A pool hands out the session that has been idle for longest, and each maps every page
/// of the tables that it comes to into its own memory: the fewer a purge goes through, the less it costs.
#[derive(Debug, Clone)]
struct Yielding {
    pool: PgPool,
    /// Waited for as long as it takes: where every session is taken, it is by a purge of ours, and no failure.
    places: Arc<Semaphore>,
}

impl Database {
    /// The database at `url`, over at most `connections` of its sessions; connects at the first use.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn new(url: &str, connections: u32) -> sqlx::Result<Self> {
        Self::on(url, connections, Trust::new(Access::Write))
    }

    /// The same for what only reads: the server may be a replica.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn for_reading(url: &str, connections: u32) -> sqlx::Result<Self> {
        Self::on(url, connections, Trust::new(Access::Read))
    }

    fn on(url: &str, connections: u32, trust: Arc<Trust>) -> sqlx::Result<Self> {
        Ok(Self {
            pool: direct_pool(url, connections, &trust)?,
            direct: None,
            yielding: None,
            mapping: None,
            trust,
        })
    }

    /// The same for a process that purges: `yielding` of the `connections` are for transactions that give way, and no others.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn for_purging(url: &str, connections: u32, yielding: u32) -> sqlx::Result<Self> {
        let database = Self::new(url, connections.saturating_sub(yielding))?;
        Ok(Self {
            yielding: Some(Yielding {
                pool: direct_pool(url, yielding, &database.trust)?,
                places: Arc::new(Semaphore::new(usize::try_from(yielding).unwrap_or(1))),
            }),
            ..database
        })
    }

    /// The database behind a transaction pooler: at most `connections` to the pooler at `url`, and at most `sessions`
    /// at `direct_url`, which leads past it.
    ///
    /// # Errors
    /// When a URL is no Postgres URL.
    pub fn behind_pooler(
        url: &str,
        connections: u32,
        direct_url: &str,
        sessions: u32,
    ) -> sqlx::Result<Self> {
        let trust = Trust::new(Access::Write);
        Ok(Self {
            pool: pooler_pool(url, connections, &trust)?,
            direct: Some(direct_pool(direct_url, sessions, &trust)?),
            yielding: None,
            mapping: None,
            trust,
        })
    }

    /// The same for what only reads, over one URL: the server behind the pooler may be a replica.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn for_reading_behind_pooler(url: &str, connections: u32) -> sqlx::Result<Self> {
        let trust = Trust::new(Access::Read);
        Ok(Self {
            pool: pooler_pool(url, connections, &trust)?,
            direct: Some(direct_pool(url, connections, &trust)?),
            yielding: None,
            mapping: None,
            trust,
        })
    }

    /// Has every connection that is open now closed before it is used again: something is wrong with them.
    pub fn renew_connections(&self) {
        self.trust.lose();
    }

    /// The same database for a process that has checked `mapping`: it may purge.
    #[must_use]
    pub fn with_mapping(self, mapping: Mapping) -> Self {
        Self {
            mapping: Some(Arc::new(mapping)),
            ..self
        }
    }

    /// The mapping that this process has checked.
    #[must_use]
    pub fn mapping(&self) -> Option<&Mapping> {
        self.mapping.as_deref()
    }

    /// Sessions that stay ours from one statement to the next: LISTEN and advisory locks need them, and with them
    /// the queue.
    #[must_use]
    pub fn sessions(&self) -> &PgPool {
        self.direct.as_ref().unwrap_or(&self.pool)
    }

    /// Connections that are open now, and how many of them nobody uses.
    #[must_use]
    pub fn connections(&self) -> (u32, usize) {
        self.pools().fold((0, 0), |(open, idle), pool| {
            (open + pool.size(), idle + pool.num_idle())
        })
    }

    /// The most connections that can be open at once.
    #[must_use]
    pub fn most_connections(&self) -> u32 {
        self.pools()
            .map(|pool| pool.options().get_max_connections())
            .sum()
    }

    /// Opens every connection before it is needed, one after the other: a server of two processors feels it when ten begin at
    /// once. What cannot be opened in time is when it is needed, or that fails.
    pub async fn open_gently(&self) {
        let open_all = async {
            for pool in self.pools() {
                let mut open = Vec::new();
                while pool.size() < pool.options().get_max_connections() {
                    open.push(pool.acquire().await?);
                    sleep(BETWEEN_CONNECTIONS).await;
                }
            }
            Ok::<_, sqlx::Error>(())
        };
        match timeout(OPEN_WITHIN, open_all).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot open every connection now"),
            Err(_) => tracing::debug!("not every connection is open yet"),
        }
    }

    /// Closes every connection, once it is free.
    pub async fn close(&self) {
        for pool in self.pools() {
            pool.close().await;
        }
    }

    fn pools(&self) -> impl Iterator<Item = &PgPool> {
        let yielding = self.yielding.iter().map(|yielding| &yielding.pool);
        iter::once(&self.pool).chain(&self.direct).chain(yielding)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin(&self) -> sqlx::Result<Transaction<'static>> {
        self.begin_with(&[]).await
    }

    /// Begins a transaction that only reads and may take minutes: a preview of a large organization counts all of it.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_reading(&self) -> sqlx::Result<Transaction<'static>> {
        self.begin_with(&[
            "SET TRANSACTION READ ONLY",
            "SET LOCAL statement_timeout = '5min'",
        ])
        .await
    }

    /// Begins a transaction that verifies a purge: it only reads, may take minutes, and goes by index.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_verifying(&self) -> sqlx::Result<Transaction<'static>> {
        self.begin_with(&[
            "SET TRANSACTION READ ONLY",
            "SET LOCAL statement_timeout = '5min'",
            "SET LOCAL plan_cache_mode = force_generic_plan",
        ])
        .await
    }

    /// Begins a transaction that gives way: it waits only briefly for a row that the main app holds, and holds what
    /// the main app may want only briefly.
    ///
    /// 100 ms is far below Postgres's `deadlock_timeout`, so that ours is the side that yields before the server
    /// has to choose a victim.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_yielding(
        &self,
        patience: Patience,
        flush: Flush,
    ) -> sqlx::Result<Transaction<'static>> {
        let timeout = match patience {
            Patience::Short => "SET LOCAL statement_timeout = '100ms'",
            Patience::Long => "SET LOCAL statement_timeout = '5s'",
        };
        let mut settings = [YIELDING.as_slice(), &[timeout]].concat();
        if flush == Flush::Later {
            settings.push("SET LOCAL synchronous_commit = off");
        }
        let mut tx = match &self.yielding {
            Some(yielding) => {
                // Closed it never is.
                let place = yielding.places.clone().acquire_owned().await.ok();
                match self.begin_on(&yielding.pool, &settings, place).await {
                    // The server has no more connections to give: then one that is there already.
                    Err(sqlx::Error::PoolTimedOut) => self.begin_with(&settings).await?,
                    begun => begun?,
                }
            }
            None => self.begin_with(&settings).await?,
        };
        tx.purges();
        if patience == Patience::Short {
            tx.yields();
        }
        Ok(tx)
    }

    /// Begins a transaction with `settings` of its own, each a statement, in one round trip.
    ///
    /// # Errors
    /// When no connection is to be had, or a setting is refused.
    pub async fn begin_with(
        &self,
        settings: &[&'static str],
    ) -> sqlx::Result<Transaction<'static>> {
        self.begin_on(&self.pool, settings, None).await
    }

    async fn begin_on(
        &self,
        pool: &PgPool,
        settings: &[&'static str],
        place: Option<OwnedSemaphorePermit>,
    ) -> sqlx::Result<Transaction<'static>> {
        let session = if self.is_pooled() {
            SESSION.map(|(name, value)| format!("SET LOCAL {name} = '{value}';"))
        } else {
            Default::default() // its sessions have it from the start
        };
        // Each statement sees what is committed when it begins, whatever the database's default is: a plan that was raised
        // meanwhile, a hold, a mapping that was changed.
        let begin = AssertSqlSafe(format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; {} {}",
            session.concat(),
            settings.join("; ")
        ));
        let inner = pool.begin_with(begin).await?;
        Ok(Transaction::new(
            inner,
            place,
            self.is_pooled(),
            self.mapping.clone(),
            self.trust.clone(),
        ))
    }

    fn is_pooled(&self) -> bool {
        self.direct.is_some()
    }
}

/// A statement on its own. Through a pooler it is a transaction of its own, committed before its results are seen.
impl<'c> Executor<'c> for &'c Database {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> Results<'e>
    where
        'c: 'e,
        'q: 'e,
        E: Execute<'q, Postgres> + 'q,
    {
        if !self.is_pooled() {
            let results = self.pool.fetch_many(query);
            return results.inspect_err(|error| self.trust.note(error)).boxed();
        }
        let results = async move {
            let mut tx = self.begin().await?;
            let results: Vec<_> = tx.fetch_many(query).try_collect().await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(stream::iter(results.into_iter().map(Ok)))
        };
        stream::once(results).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        'q: 'e,
        E: Execute<'q, Postgres> + 'q,
    {
        if !self.is_pooled() {
            let row = self.pool.fetch_optional(query);
            return Box::pin(row.inspect_err(|error| self.trust.note(error)));
        }
        Box::pin(async move {
            let mut tx = self.begin().await?;
            let row = tx.fetch_optional(query).await?;
            tx.commit().await?;
            Ok(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.sessions().prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        self.sessions().describe(sql)
    }
}

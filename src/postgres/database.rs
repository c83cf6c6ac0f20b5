//! The database as everything above reaches it: through a pool of sessions, or through a transaction pooler.
//!
//! A pooler in transaction mode (pgbouncer, and most services that put one in front of Postgres) gives every
//! transaction another session. What a session keeps then is somebody else's a moment later: its settings and its
//! prepared statements. So through a pooler each statement runs in a transaction, its settings are `SET LOCAL`, and no
//! statement has a name. This type is the one place that knows; above it, the same statements run either way.

use std::time::{Duration, Instant};

use futures::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    AssertSqlSafe, Connection, Describe, Either, Execute, Executor, PgConnection, PgPool, Postgres,
    SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use super::{SESSION, direct_pool, pooler_pool};

/// What one statement gives: rows, and the counts that end it.
type Results<'e> = BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>;

/// Postgres, by one URL or by two.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    /// Sessions of our own; absent: `pool` has them.
    direct: Option<PgPool>,
}

impl Database {
    /// The database at `url`, over at most `connections` of its sessions; connects at the first use.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn new(url: &str, connections: u32) -> sqlx::Result<Self> {
        Ok(Self {
            pool: direct_pool(url, connections)?,
            direct: None,
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
        Ok(Self {
            pool: pooler_pool(url, connections)?,
            direct: Some(direct_pool(direct_url, sessions)?),
        })
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
        let direct = self.direct.iter();
        direct.fold(
            (self.pool.size(), self.pool.num_idle()),
            |(open, idle), pool| (open + pool.size(), idle + pool.num_idle()),
        )
    }

    /// Closes every connection, once it is free.
    pub async fn close(&self) {
        self.pool.close().await;
        if let Some(direct) = &self.direct {
            direct.close().await;
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin(&self) -> sqlx::Result<Transaction<'static>> {
        self.begin_with("").await
    }

    /// Begins a transaction that only reads and may take minutes: a preview of a large organization counts all of it.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_reading(&self) -> sqlx::Result<Transaction<'static>> {
        self.begin_with("SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '5min'")
            .await
    }

    /// Begins a transaction that verifies a purge: it only reads, may take minutes, and goes by index.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_verifying(&self) -> sqlx::Result<Transaction<'static>> {
        self.begin_with(
            "SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '5min';
             SET LOCAL plan_cache_mode = force_generic_plan",
        )
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
    pub async fn begin_yielding(&self, patience: Patience) -> sqlx::Result<Transaction<'static>> {
        // Generic plans: the statements go by index whatever is asked for, and need not be planned a thousand times.
        let settings = match patience {
            Patience::Short => {
                "SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '100ms';
                 SET LOCAL idle_in_transaction_session_timeout = '1s'; SET LOCAL plan_cache_mode = force_generic_plan"
            }
            Patience::Long => {
                "SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '5s';
                 SET LOCAL idle_in_transaction_session_timeout = '1s'; SET LOCAL plan_cache_mode = force_generic_plan"
            }
        };
        let mut tx = self.begin_with(settings).await?;
        tx.deadline = (patience == Patience::Short).then(|| Instant::now() + BRIEF);
        Ok(tx)
    }

    /// Begins a transaction with `settings` of its own, in one round trip.
    ///
    /// # Errors
    /// When no connection is to be had, or a setting is refused.
    pub async fn begin_with(&self, settings: &'static str) -> sqlx::Result<Transaction<'static>> {
        let session = if self.is_pooled() {
            SESSION.map(|(name, value)| format!("SET LOCAL {name} = '{value}';"))
        } else {
            Default::default() // its sessions have it from the start
        };
        let begin = AssertSqlSafe(format!("BEGIN; {} {settings}", session.concat()));
        Ok(Transaction {
            inner: self.pool.begin_with(begin).await?,
            is_pooled: self.is_pooled(),
            deadline: None,
        })
    }

    fn is_pooled(&self) -> bool {
        self.direct.is_some()
    }
}

/// How long a statement of a yielding transaction may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// 100 ms: what takes longer is to be done in smaller pieces.
    Short,
    /// 5 s: there is no smaller piece.
    Long,
}

/// A transaction; dropped without [`Transaction::commit`] it is rolled back.
#[derive(Debug)]
pub struct Transaction<'c> {
    inner: sqlx::Transaction<'c, Postgres>,
    is_pooled: bool,
    /// When a yielding transaction has to come to its end.
    deadline: Option<Instant>,
}

/// How long a yielding transaction may go on before it begins its last statement. With that statement's own timeout, and
/// a commit, nobody waits for a lock of its longer than about twice this.
const BRIEF: Duration = Duration::from_millis(100);

/// A transaction of many statements took too long, though none of them did.
#[derive(Debug, thiserror::Error)]
#[error("the transaction has held its rows for as long as it may")]
pub(super) struct TookTooLong;

impl Transaction<'_> {
    /// Commits.
    ///
    /// # Errors
    /// When the database fails; then it may have committed or not.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.inner.commit().await
    }

    /// Rolls back, and waits until that is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rollback(self) -> sqlx::Result<()> {
        self.inner.rollback().await
    }

    /// A part of this transaction that can be rolled back alone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn savepoint(&mut self) -> sqlx::Result<Transaction<'_>> {
        Ok(Transaction {
            inner: self.inner.begin().await?,
            is_pooled: self.is_pooled,
            deadline: self.deadline,
        })
    }

    /// To be said before the first statement that takes rows which the main app may want: what went before counts for
    /// nothing.
    pub fn begin_holding(&mut self) {
        if let Some(deadline) = &mut self.deadline {
            *deadline = Instant::now() + BRIEF;
        }
    }

    /// To be asked before each further statement of a piece of work that holds rows already.
    ///
    /// # Errors
    /// As a statement that timed out, when a yielding transaction has no time left: it is to be rolled back, and done
    /// again in smaller pieces.
    pub fn keep_brief(&self) -> sqlx::Result<()> {
        if self
            .deadline
            .is_none_or(|deadline| Instant::now() < deadline)
        {
            Ok(())
        } else {
            Err(sqlx::Error::AnyDriverError(Box::new(TookTooLong)))
        }
    }

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.inner
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
            return self.pool.fetch_many(query);
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
            return self.pool.fetch_optional(query);
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

impl<'c> Executor<'c> for &'c mut Transaction<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> Results<'e>
    where
        'c: 'e,
        'q: 'e,
        E: Execute<'q, Postgres> + 'q,
    {
        if self.is_pooled {
            self.connection().fetch_many(Unnamed(query))
        } else {
            self.connection().fetch_many(query)
        }
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        'q: 'e,
        E: Execute<'q, Postgres> + 'q,
    {
        if self.is_pooled {
            self.connection().fetch_optional(Unnamed(query))
        } else {
            self.connection().fetch_optional(query)
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.connection().prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        self.connection().describe(sql)
    }
}

/// A statement that leaves nothing behind in the session.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

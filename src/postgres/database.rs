//! The database as everything above reaches it: through a pool of sessions, or through a transaction pooler.
//!
//! A pooler in transaction mode (pgbouncer, and most services that put one in front of Postgres) gives every
//! transaction another session. What a session keeps then is somebody else's a moment later: its settings and its
//! prepared statements. So through a pooler each statement runs in a transaction, its settings are `SET LOCAL`, and no
//! statement has a name. This type and [`Transaction`] are the only places that know; above
//! them, the same statements run either way.

use super::{
    Database, Durability, LockBudget, SESSION, Transaction, abandoned::Abandoned,
    transaction::Results,
};
use futures::{StreamExt, TryFutureExt, TryStreamExt, future::BoxFuture, stream};
use sqlx::{
    AssertSqlSafe, Describe, Execute, Executor, PgPool, Postgres, SqlStr,
    postgres::{PgRow, PgStatement, PgTypeInfo},
};

/// The settings of a transaction whose statements go by key and in the order of an index, whatever their parameters: one plan serves
/// them all. Statistics would not help: they follow a queue that fills at once, or a database that was just restored, minutes later.
const BY_KEY: [&str; 3] = [
    "SET LOCAL plan_cache_mode = force_generic_plan",
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_bitmapscan = off",
];
/// The further settings of a transaction that purges.
const PURGING: [&str; 2] = [
    "SET LOCAL lock_timeout = '100ms'",
    "SET LOCAL idle_in_transaction_session_timeout = '1s'",
];
impl Database {
    /// Begins a transaction.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin(&self) -> sqlx::Result<Transaction<'static>> {
        self.begin_with(&[]).await
    }

    /// Begins a transaction whose statements go by key, with further `settings`.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_by_key(
        &self,
        settings: &[&'static str],
    ) -> sqlx::Result<Transaction<'static>> {
        self.begin_with(&[BY_KEY.as_slice(), settings].concat())
            .await
    }

    /// Begins a transaction that only reads and may take minutes: a preview of a large organization counts all of it. Postgres
    /// cancels its statement once the transaction is dropped without an end: nobody waits for it any more.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_reading(&self) -> sqlx::Result<Transaction<'static>> {
        let settings = [
            "SET TRANSACTION READ ONLY",
            "SET LOCAL statement_timeout = '5min'",
        ];
        let mut tx = self.begin_with(&settings).await?;
        let cancels = self.cancels.as_ref().unwrap_or(&self.pool);
        let abandoned = Abandoned::of(&mut tx, cancels.clone()).await?;
        tx.cancels_when_dropped(abandoned);
        Ok(tx)
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

    /// Begins a transaction that purges. It waits only briefly for a row that the main app holds, and holds rows that the main
    /// app may want only briefly.
    ///
    /// 100 ms is far below Postgres's `deadlock_timeout`: our side gives up before the server has to choose a victim.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_purging(
        &self,
        budget: LockBudget,
        durability: Durability,
    ) -> sqlx::Result<Transaction<'static>> {
        let timeout = match budget {
            LockBudget::Short => "SET LOCAL statement_timeout = '100ms'",
            LockBudget::Long => "SET LOCAL statement_timeout = '5s'",
        };
        let mut settings = [BY_KEY.as_slice(), &PURGING, &[timeout]].concat();
        if durability == Durability::Async {
            settings.push("SET LOCAL synchronous_commit = off");
        }
        let mut tx = match &self.purging {
            Some(pool) => match self.begin_on(pool, &settings).await {
                // The server has no more connections to give. Then one that is open already has to do.
                Err(sqlx::Error::PoolTimedOut) => self.begin_with(&settings).await?,
                begun => begun?,
            },
            None => self.begin_with(&settings).await?,
        };
        tx.purges();
        if budget == LockBudget::Short {
            tx.limit_locks();
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
        self.begin_on(&self.pool, settings).await
    }

    async fn begin_on(
        &self,
        pool: &PgPool,
        settings: &[&'static str],
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
            self.is_pooled(),
            self.mapping.clone(),
            self.trust.clone(),
        ))
    }

    pub(super) fn is_pooled(&self) -> bool {
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

//! A transaction, and its lock budget: rows that it holds are held against the main app.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryFutureExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use super::{
    abandoned::Abandoned,
    connections::Trust,
    mapping::{Mapping, MappingChanged, NotChecked},
};

/// What one statement gives: rows, and the counts that end it.
pub(super) type Results<'e> = BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>;

/// How long a transaction that purges may hold locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockBudget {
    /// 100 ms for each statement, and for all of them before the last. Work that takes longer is to be done in smaller pieces.
    Short,
    /// 5 s for each statement: there is no smaller piece.
    Long,
}

/// What the commit of a transaction that purges waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The disk. What is committed stays, whatever happens.
    Flushed,
    /// Nothing. Postgres writes the commit to the disk within a second by default, or with the next commit that waits. A crash of
    /// Postgres before that undoes the transaction, all of it and nothing else.
    Async,
}

/// A transaction; dropped without [`Transaction::commit`] it is rolled back.
#[derive(Debug)]
pub struct Transaction<'c> {
    inner: sqlx::Transaction<'c, Postgres>,
    is_pooled: bool,
    /// When a transaction that purges has to begin its last statement.
    deadline: Option<Instant>,
    /// Whether [`Transaction::savepoint`] was called.
    has_savepoint: bool,
    /// The mapping that this process has checked.
    mapping: Option<Arc<Mapping>>,
    /// Whether it may delete: then it commits only under that mapping.
    purges: bool,
    /// Where errors that speak against the connection are noted.
    trust: Arc<Trust>,
    /// Cancels its statement when it is dropped without an end.
    abandoned: Option<Abandoned>,
}

/// How long a transaction that purges may go on before it begins its last statement. With that statement's own timeout, and a
/// commit, nobody waits for one of its locks longer than about twice this.
const MAX_LOCK_TIME: Duration = Duration::from_millis(100);

/// A transaction of many statements took too long, though none of them did.
#[derive(Debug, thiserror::Error)]
#[error("the transaction has held its rows for as long as it may")]
pub(super) struct TookTooLong;

impl<'c> Transaction<'c> {
    /// One that has begun, through a pooler or not.
    pub(super) fn new(
        inner: sqlx::Transaction<'c, Postgres>,
        is_pooled: bool,
        mapping: Option<Arc<Mapping>>,
        trust: Arc<Trust>,
    ) -> Self {
        Self {
            inner,
            is_pooled,
            deadline: None,
            has_savepoint: false,
            mapping,
            purges: false,
            trust,
            abandoned: None,
        }
    }

    /// Makes it one that may delete: it commits only if the mapping is still the one that was checked.
    pub(super) fn purges(&mut self) {
        self.purges = true;
    }

    /// Has its statement cancelled when it is dropped without an end.
    pub(super) fn cancels_when_dropped(&mut self, abandoned: Abandoned) {
        self.abandoned = Some(abandoned);
    }

    /// The mapping that this process has checked.
    ///
    /// # Errors
    /// When it has checked none.
    pub fn mapping(&self) -> sqlx::Result<&Mapping> {
        self.mapping
            .as_deref()
            .ok_or_else(|| sqlx::Error::AnyDriverError(Box::new(NotChecked)))
    }

    /// Proves that the mapping is still the one that was checked, for all that this transaction has read and deleted: what
    /// it has used of the mapping nobody can change before it ends. So this comes last.
    ///
    /// # Errors
    /// When somebody changed the mapping: then nothing of this transaction may count.
    pub async fn prove_mapping(&mut self) -> sqlx::Result<()> {
        let fingerprint = self.mapping()?.fingerprint.clone();
        let is_same = sqlx::query_scalar!(
            r#"-- postgres.prove_mapping
            SELECT retention.mapping_fingerprint() IS NOT DISTINCT FROM $1 AS "same!""#,
            fingerprint
        )
        .fetch_one(&mut *self)
        .await?;
        if is_same {
            Ok(())
        } else {
            Err(sqlx::Error::AnyDriverError(Box::new(MappingChanged)))
        }
    }

    /// Commits; a transaction that may delete only under the mapping that was checked.
    ///
    /// # Errors
    /// When the database fails; then it may have committed or not. When the mapping was changed: then it has not.
    pub async fn commit(mut self) -> sqlx::Result<()> {
        if self.purges {
            self.prove_mapping().await?;
        }
        self.inner.commit().await?;
        self.abandoned.iter_mut().for_each(Abandoned::is_over);
        Ok(())
    }

    /// Rolls back, and waits until that is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rollback(mut self) -> sqlx::Result<()> {
        self.inner.rollback().await?;
        self.abandoned.iter_mut().for_each(Abandoned::is_over);
        Ok(())
    }

    /// Sets a savepoint, in place of an earlier one: [`Transaction::rollback_to_savepoint`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn savepoint(&mut self) -> sqlx::Result<()> {
        let sql = if std::mem::replace(&mut self.has_savepoint, true) {
            "RELEASE SAVEPOINT before; SAVEPOINT before"
        } else {
            "SAVEPOINT before"
        };
        sqlx::raw_sql(sql).execute(self.connection()).await?;
        Ok(())
    }

    /// Undoes everything since the savepoint, also after an error.
    ///
    /// # Errors
    /// When the database fails, or there is no savepoint.
    pub async fn rollback_to_savepoint(&mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("ROLLBACK TO SAVEPOINT before")
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Gives it a lock budget.
    pub(super) fn limit_locks(&mut self) {
        self.deadline = Some(Instant::now() + MAX_LOCK_TIME);
    }

    /// Starts the clock of its lock budget, if it has one: before the first statement that locks rows which the main app may want.
    pub fn start_clock(&mut self) {
        if self.deadline.is_some() {
            self.limit_locks();
        }
    }

    /// Checks its lock budget, before each further statement of a piece of work that holds rows already.
    ///
    /// # Errors
    /// As a statement that timed out, when no time is left. Then it is to be rolled back, and done again in smaller pieces.
    pub fn check_deadline(&self) -> sqlx::Result<()> {
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

impl<'c> Executor<'c> for &'c mut Transaction<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> Results<'e>
    where
        'c: 'e,
        'q: 'e,
        E: Execute<'q, Postgres> + 'q,
    {
        let (trust, is_pooled) = (self.trust.clone(), self.is_pooled);
        let results = if is_pooled {
            self.connection().fetch_many(Unnamed(query))
        } else {
            self.connection().fetch_many(query)
        };
        results.inspect_err(move |error| trust.note(error)).boxed()
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        'q: 'e,
        E: Execute<'q, Postgres> + 'q,
    {
        let (trust, is_pooled) = (self.trust.clone(), self.is_pooled);
        let row = if is_pooled {
            self.connection().fetch_optional(Unnamed(query))
        } else {
            self.connection().fetch_optional(query)
        };
        Box::pin(row.inspect_err(move |error| trust.note(error)))
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

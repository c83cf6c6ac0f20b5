//! The main app's open transactions: what it holds while a purge runs.

use sqlx::{AssertSqlSafe, Postgres, Transaction};

use super::TestDatabase;

/// A transaction that the main app has not ended yet.
pub struct Held(Transaction<'static, Postgres>);

impl Held {
    /// Begins a transaction with these statements, and leaves it open.
    pub async fn by(db: &TestDatabase, sql: &str) -> Self {
        let mut held = Self(db.pool.begin().await.unwrap());
        held.also(sql).await;
        held
    }

    /// More statements of the same transaction.
    pub async fn also(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut *self.0)
            .await
            .unwrap();
    }

    pub async fn commit(self) {
        self.0.commit().await.unwrap();
    }

    pub async fn rollback(self) {
        self.0.rollback().await.unwrap();
    }
}

/// Makes every statement by which the product deletes from `table` take so long: time in which the main app can do
/// something.
pub async fn slow_deletes(db: &TestDatabase, table: &str, seconds: &str) {
    db.execute(&format!(
        "CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN
             IF current_setting('application_name') = 'drift-retention' THEN PERFORM pg_sleep({seconds}); END IF;
             RETURN NULL;
         END$$;
         CREATE TRIGGER take_long BEFORE DELETE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION take_long()"
    ))
    .await;
}

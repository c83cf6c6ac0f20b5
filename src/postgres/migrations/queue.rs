//! Adapts the queue's tables and functions, which apalis's migrations create, to our load.

use apalis_postgres::PostgresStorage;
use sqlx::PgPool;

use super::{SchemaError, applied_in};
use crate::postgres::Database;

/// Adds indexes and settings. With a backlog, apalis's fetch uses a slow hash join. Its search for orphans has no index
/// over active rows, and our pruning has no index over final ones. Also, a worker registers with its own clock. If that
/// clock is ahead and the worker dies before its first heartbeat, its jobs would look alive until the clock's time.
pub(super) async fn tune(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "-- migrations.tune_queue
         ALTER FUNCTION apalis.get_jobs(text, text, int) SET enable_hashjoin = off;
         ALTER FUNCTION apalis.get_jobs(text, text, int) SET enable_mergejoin = off;
         CREATE INDEX IF NOT EXISTS drift_retention_active_jobs_idx ON apalis.jobs (lock_by)
             WHERE status IN ('Queued', 'Running');
         CREATE INDEX IF NOT EXISTS drift_retention_final_jobs_idx ON apalis.jobs (done_at)
             WHERE status IN ('Done', 'Failed', 'Killed');
         CREATE OR REPLACE FUNCTION apalis.drift_retention_own_clock() RETURNS trigger
             LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
             $$ BEGIN NEW.last_seen := now(); RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER drift_retention_own_clock BEFORE INSERT ON apalis.workers
             FOR EACH ROW EXECUTE FUNCTION apalis.drift_retention_own_clock();
         -- Every role that can log in could call the queue's functions. roles.sql grants them to the worker.
         DO $$ DECLARE
             made regprocedure;
         BEGIN
             FOR made IN
                 SELECT p.oid FROM pg_proc p
                 WHERE p.pronamespace = 'apalis'::regnamespace
                   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                                                             AND d.deptype = 'e')
             LOOP
                 EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
             END LOOP;
         END $$;",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Checks the settings at every start, because an upgrade of apalis may replace its function.
pub(super) async fn check(database: &Database) -> Result<(), SchemaError> {
    let applied = applied_in(database, "apalis._sqlx_migrations").await?;
    if let Some(missing) = PostgresStorage::migrations()
        .iter()
        .find(|m| !applied.contains(&m.version))
    {
        return Err(SchemaError::Behind {
            what: format!("queue migration {} is missing", missing.version),
            command: "up",
        });
    }
    let tuned = sqlx::query_scalar!(
        r#"-- migrations.check_queue
        SELECT to_regclass('apalis.drift_retention_active_jobs_idx') IS NOT NULL
           AND to_regclass('apalis.drift_retention_final_jobs_idx') IS NOT NULL
           AND EXISTS (SELECT FROM pg_trigger WHERE tgname = 'drift_retention_own_clock')
           AND EXISTS (SELECT FROM pg_proc
                       WHERE oid = to_regprocedure('apalis.get_jobs(text, text, int)')
                         AND proconfig @> ARRAY['enable_hashjoin=off', 'enable_mergejoin=off']) AS "tuned!""#
    )
    .fetch_one(database)
    .await?;
    if tuned {
        Ok(())
    } else {
        Err(SchemaError::Behind {
            what: "the queue's settings are missing".into(),
            command: "up",
        })
    }
}

//! What a database can do to a purge, made by triggers in the test's own database: the product has no hooks for it.

use sqlx::PgPool;
use uuid::Uuid;

use super::execute_on;

/// Every statement that deletes drift checks takes so long from now on; 0 makes it quick again, at once.
pub async fn deletes_take(pool: &PgPool, seconds: f64) {
    execute_on(
        pool,
        &format!(
            "CREATE TABLE IF NOT EXISTS slowness (seconds float8);
             DELETE FROM slowness;
             INSERT INTO slowness VALUES ({seconds});
             CREATE OR REPLACE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_sleep(seconds) FROM public.slowness; RETURN NULL; END $$;
             DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'take_time') THEN
                     CREATE TRIGGER take_time AFTER DELETE ON drift_checks
                         FOR EACH STATEMENT EXECUTE FUNCTION take_time();
                 END IF;
             END $$;"
        ),
    )
    .await;
}

/// The first `times` statements that delete drift checks of `org` fail. A sequence counts them: it is not rolled back.
pub async fn deletes_fail(pool: &PgPool, org: Uuid, times: i64) {
    execute_on(
        pool,
        &format!(
            "CREATE SEQUENCE failures;
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF EXISTS (SELECT FROM gone WHERE org_id = '{org}') AND nextval('public.failures') <= {times} THEN
                     RAISE EXCEPTION 'the tablespace is read-only today';
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER refuse AFTER DELETE ON drift_checks
                 REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION refuse();"
        ),
    )
    .await;
}

/// Ends what [`deletes_fail`] began.
pub async fn deletes_work_again(pool: &PgPool) {
    execute_on(pool, "DROP TRIGGER refuse ON drift_checks").await;
}

/// From now on `run_journal` holds every status that a run takes, and when: `at` is the transaction's time, so that
/// `next_attempt_at - at` is the wait that was decided.
pub async fn journal(pool: &PgPool) {
    execute_on(
        pool,
        "CREATE TABLE run_journal (
             id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz, run_id uuid, status text, attempts int,
             next_attempt_at timestamptz);
         CREATE FUNCTION keep_journal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.run_journal (at, run_id, status, attempts, next_attempt_at)
             VALUES (now(), NEW.id, NEW.status, NEW.attempts, NEW.next_attempt_at);
             RETURN NULL;
         END $$;
         CREATE TRIGGER keep_journal AFTER INSERT OR UPDATE OF status ON retention.purge_runs
             FOR EACH ROW EXECUTE FUNCTION keep_journal();",
    )
    .await;
}

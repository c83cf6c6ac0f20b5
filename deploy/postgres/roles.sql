-- Least privilege. Run once per database, as its owner, after every `drift-retention migrate up`:
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/roles.sql
--
-- Three roles without login; grant them to the users that log in:
--
--   CREATE ROLE purger LOGIN PASSWORD '…' IN ROLE drift_retention_worker;
--   CREATE ROLE grafana LOGIN PASSWORD '…' IN ROLE drift_retention_reader;
--   GRANT drift_retention_app TO workflowops;
--
-- `drift_retention_worker` is what `serve` (every role), `purge`, `preview` and `runs` need. `drift_retention_app` is
-- what the main app needs to ask for a purge and to follow it. `drift_retention_reader` is what the dashboards need:
-- whose rows went and who asked, and nothing that was in them. None can change the schema, nor history: finished runs,
-- their steps and operator actions are append-only by trigger, for everybody.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drift_retention_worker') THEN
        CREATE ROLE drift_retention_worker NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drift_retention_app') THEN
        CREATE ROLE drift_retention_app NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drift_retention_reader') THEN
        CREATE ROLE drift_retention_reader NOLOGIN;
    END IF;
END;
$$;

BEGIN;

-- From nothing: what an earlier version of this file granted does not stay.
REVOKE ALL ON ALL TABLES IN SCHEMA public, retention, apalis
    FROM drift_retention_worker, drift_retention_app, drift_retention_reader;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA retention
    FROM drift_retention_worker, drift_retention_app, drift_retention_reader;

-- The worker reads what it shows and decides by …
GRANT USAGE ON SCHEMA public, retention, apalis TO drift_retention_worker;
GRANT SELECT ON public.organizations, public.environments, public.drift_checks, public.workflow_drift_flags,
    public.incidents, public.incident_payloads, public.approvals TO drift_retention_worker;
-- … deletes what it purges …
GRANT DELETE ON public.drift_checks, public.workflow_drift_flags, public.incident_payloads, public.approvals
    TO drift_retention_worker;
-- … and writes one column of the main app's. A row can only be locked by who may update a column of it: the two keys
-- are there for that (an identity column refuses to be written, and approvals are the worker's to delete anyway).
GRANT UPDATE (payload_purged_at) ON public.incidents TO drift_retention_worker;
GRANT UPDATE (id) ON public.drift_checks, public.approvals TO drift_retention_worker;

-- Its own records: nothing of them is deleted but old runs (by trigger, 30 days at least) and spent notes.
GRANT SELECT ON ALL TABLES IN SCHEMA retention TO drift_retention_worker;
GRANT INSERT, UPDATE, DELETE ON retention.purge_runs TO drift_retention_worker;
GRANT INSERT, UPDATE ON retention.purge_run_steps, retention.schedule_slots, retention.idempotency_keys
    TO drift_retention_worker;
GRANT INSERT ON retention.operator_actions TO drift_retention_worker;
GRANT UPDATE ON retention.standing TO drift_retention_worker;
GRANT INSERT, UPDATE, DELETE ON retention.console_sessions, retention.spent_signin_links TO drift_retention_worker;
GRANT DELETE ON retention.rewritten_payloads, retention.idempotency_keys TO drift_retention_worker;
GRANT EXECUTE ON FUNCTION retention.deliver(uuid[], int, text),
    retention.enqueue_run(uuid, text, text, text, uuid, text), retention.enqueue_purge(uuid, text, text),
    retention.enqueue_slot(timestamptz, uuid[]), retention.hold_plan(uuid), retention.pressure(regclass[])
    TO drift_retention_worker;

-- The queue's tables are the worker's.
GRANT SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers TO drift_retention_worker;
GRANT SELECT ON apalis._sqlx_migrations TO drift_retention_worker;

-- The main app asks, and follows what it asked for.
GRANT USAGE ON SCHEMA retention TO drift_retention_app;
GRANT EXECUTE ON FUNCTION retention.enqueue_purge(uuid, text, text) TO drift_retention_app;
GRANT SELECT ON retention.purge_runs, retention.purge_run_steps TO drift_retention_app;

-- Dashboards tell of runs, by the names of organizations.
GRANT USAGE ON SCHEMA public, retention TO drift_retention_reader;
GRANT SELECT (id, name, plan) ON public.organizations TO drift_retention_reader;
GRANT SELECT ON retention.purge_runs, retention.purge_run_steps, retention.operator_actions TO drift_retention_reader;

COMMIT;

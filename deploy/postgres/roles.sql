-- Grants the least privileges. Run it in each database after the mapping (schema main_app), and again after every
-- `drift-retention migrate up` and whenever a view or function of the mapping is created again. Run it as the owner of
-- the schemas retention, apalis and main_app, or as a superuser if they have several owners. The first run creates
-- three roles, which requires CREATEROLE:
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/roles.sql
--
-- Three roles without login; grant them to the users that log in:
--
--   CREATE ROLE purger LOGIN PASSWORD '…' IN ROLE drift_retention_worker;
--   CREATE ROLE grafana LOGIN PASSWORD '…' IN ROLE drift_retention_reader;
--   GRANT drift_retention_app TO workflowops;
--
-- `drift_retention_worker` is for `serve` (every role), `purge`, `preview` and `runs`. `drift_retention_app` lets the
-- main app request a purge and follow it. `drift_retention_reader` lets dashboards read whose rows were purged and who
-- requested it, but no data of the rows. No role can change the schema or the history: finished runs, their steps and
-- operator actions are append-only by trigger, for everybody.

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

-- Revoke everything first, so that grants of an earlier version of this file do not remain.
REVOKE ALL ON ALL TABLES IN SCHEMA retention, apalis
    FROM drift_retention_worker, drift_retention_app, drift_retention_reader;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA retention, apalis
    FROM drift_retention_worker, drift_retention_app, drift_retention_reader;
-- Also revoke rights on the main app's own tables. Only tables with such a right are changed.
DO $$
DECLARE
    granted text;
BEGIN
    FOR granted IN
        SELECT DISTINCT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (SELECT c.relacl AS acl
                            UNION ALL
                            SELECT a.attacl FROM pg_attribute a WHERE a.attrelid = c.oid) rights
        CROSS JOIN LATERAL aclexplode(rights.acl) granted_to
        JOIN pg_roles r ON r.oid = granted_to.grantee
        WHERE r.rolname IN ('drift_retention_worker', 'drift_retention_app', 'drift_retention_reader')
          AND n.nspname NOT IN ('retention', 'apalis', 'main_app')
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM drift_retention_worker, drift_retention_app, drift_retention_reader', granted);
    END LOOP;
END;
$$;

-- The worker's own records. It may delete only old runs (after at least 30 days, by trigger) and notes that it has
-- processed.
GRANT USAGE ON SCHEMA retention, apalis TO drift_retention_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA retention TO drift_retention_worker;
-- Ids, times of creation and requesters are written once, so nobody can forge or backdate a record.
GRANT INSERT (org_id, trigger, requested_by, reason, urgent, scheduled_for, replay_of) ON retention.purge_runs
    TO drift_retention_worker;
GRANT UPDATE (status, urgent, plan, policy, attempts, max_attempts, next_attempt_at, started_at, finished_at, verified_at,
              error_kind, error, token, worker, delivery_id) ON retention.purge_runs TO drift_retention_worker;
GRANT DELETE ON retention.purge_runs TO drift_retention_worker;
GRANT INSERT (actor, action, run_id, org_id, reason, details) ON retention.operator_actions TO drift_retention_worker;
GRANT INSERT, UPDATE ON retention.purge_run_steps, retention.schedule_slots, retention.idempotency_keys
    TO drift_retention_worker;
GRANT UPDATE ON retention.standing TO drift_retention_worker;
-- The user, role, organization, key and end of a session are written once, so it always belongs to its first user.
GRANT INSERT (id_hash, subject, role, org_id, csrf, key_fingerprint, expires_at), DELETE ON retention.console_sessions
    TO drift_retention_worker;
GRANT UPDATE (id_hash, previous_hash, rotated_at, last_seen_at) ON retention.console_sessions TO drift_retention_worker;
-- A used sign-in link is recorded, and its record is deleted after the link has expired.
GRANT INSERT, DELETE ON retention.spent_signin_links TO drift_retention_worker;
GRANT INSERT, UPDATE, DELETE ON retention.rewritten_payloads TO drift_retention_worker;
GRANT UPDATE ON retention.rewritten_search TO drift_retention_worker;
GRANT DELETE ON retention.idempotency_keys TO drift_retention_worker;
GRANT EXECUTE ON FUNCTION retention.deliver(uuid[], text), retention.urge_running(uuid),
    retention.worker_is_silent(text, interval), retention.acknowledge_cancelled(uuid[]),
    retention.enqueue_run(uuid, text, text, text, uuid, text), retention.enqueue_purge(uuid, text, text),
    retention.check_request(text, text), retention.enqueue_purges(uuid[], text, text),
    retention.enqueue_slot(timestamptz, uuid[]), retention.erase_payloads(uuid[]), retention.first_check_key(),
    retention.mapping_fingerprint(), retention.payload_tables_state(oid[]), retention.payloads_in_doubt(oid[]),
    retention.pressure(oid[], text[]), retention.excerpt(text), retention.long_excerpt(text)
    TO drift_retention_worker;

-- Only the worker uses the queue's tables and functions.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA apalis TO drift_retention_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers TO drift_retention_worker;
GRANT SELECT ON apalis._sqlx_migrations TO drift_retention_worker;

-- The main app requests purges and follows them.
GRANT USAGE ON SCHEMA retention TO drift_retention_app;
GRANT EXECUTE ON FUNCTION retention.enqueue_purge(uuid, text, text) TO drift_retention_app;
GRANT SELECT ON retention.purge_runs, retention.purge_run_steps TO drift_retention_app;

-- Dashboards read runs.
GRANT USAGE ON SCHEMA retention TO drift_retention_reader;
GRANT SELECT ON retention.purge_runs, retention.purge_run_steps, retention.operator_actions TO drift_retention_reader;

-- The mapping to the main app's tables, if there is one. Apply this file again after you create a view or function of
-- it. None of these roles has any right on the tables themselves.
DO $$
DECLARE
    keeper text; -- the owner of the functions that read the mapping: enqueueing checks that the organization exists
BEGIN
    IF to_regnamespace('main_app') IS NULL THEN
        RAISE NOTICE 'there is no schema main_app yet: apply this file again after the mapping';
        RETURN;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA main_app FROM drift_retention_worker, drift_retention_app, drift_retention_reader;
    REVOKE ALL ON FUNCTION main_app.lock_plan(uuid), main_app.erase_payloads(uuid[]) FROM PUBLIC;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA main_app FROM drift_retention_worker, drift_retention_app, drift_retention_reader;

    -- The worker reads the data that it shows and decides by ...
    GRANT USAGE ON SCHEMA main_app TO drift_retention_worker;
    GRANT SELECT ON main_app.organizations, main_app.environments, main_app.drift_checks, main_app.workflow_drift_flags,
        main_app.incidents, main_app.incident_payloads, main_app.approvals TO drift_retention_worker;
    -- ... deletes rows, and stamps incidents ...
    GRANT DELETE ON main_app.drift_checks, main_app.approvals TO drift_retention_worker;
    GRANT UPDATE (payload_purged_at) ON main_app.incidents TO drift_retention_worker;
    -- ... and locks rows, which requires the right to update a column. Nobody can write this column.
    GRANT UPDATE (ctid) ON main_app.drift_checks, main_app.approvals TO drift_retention_worker;
    GRANT EXECUTE ON FUNCTION main_app.lock_plan(uuid), main_app.erase_payloads(uuid[]) TO drift_retention_worker;

    -- Dashboards show the names of organizations.
    GRANT USAGE ON SCHEMA main_app TO drift_retention_reader;
    GRANT SELECT (id, name, plan) ON main_app.organizations TO drift_retention_reader;

    SELECT pg_get_userbyid(nspowner) INTO keeper FROM pg_namespace WHERE nspname = 'retention';
    EXECUTE format('GRANT USAGE ON SCHEMA main_app TO %I', keeper);
    EXECUTE format('GRANT SELECT ON main_app.organizations, main_app.incidents, main_app.incident_payloads TO %I', keeper);
    EXECUTE format('GRANT UPDATE (ctid) ON main_app.incidents TO %I', keeper);
END;
$$;

COMMIT;

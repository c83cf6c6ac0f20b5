-- The mapping: the data of the main app that drift-retention reads and purges. It is written for a main app with the
-- reference names. For another one, change the tables after FROM, the columns, and the bodies of the two functions. Do
-- not change the names and column names in schema main_app.
--
-- Three views are purge views: drift_checks, incidents and approvals. Rows are locked, deleted and stamped through them.
-- A purge view selects from one ordinary table: no join, no UNION, no DISTINCT, no partitioned table, no security_barrier,
-- no security_invoker. Its columns ctid, id, org_id, env_id, incident_id, checked_at, closed_at, created_at and
-- payload_purged_at are columns of that table, without a cast or an expression, because rows are found by index. There
-- is one exception: a `timestamp` without time zone is written `checked_at AT TIME ZONE 'UTC'`, and needs an index on
-- that expression. Other columns may be any expression: status::text for an enum, NULL::text for what the main app does
-- not have.
--
-- The other views may be any SQL. The owner of the views needs SELECT on the tables that they read, and UPDATE and
-- DELETE on the tables behind the purge views. deploy/postgres/roles.sql grants the worker's role its rights on the
-- views: apply that file after this one, and whenever a view or function is created again.

CREATE SCHEMA main_app;
COMMENT ON SCHEMA main_app IS 'What drift-retention reads and purges of the main app';

-- The organizations and their plans. Any SQL: lists, gauges and previews read it, and nothing locks it. One row per
-- organization. plan: free, pro, agency or enterprise, as text. With any other value, or NULL, nothing is purged.
CREATE VIEW main_app.organizations AS
SELECT o.id, o.name, o.plan, o.created_at
FROM public.organizations o;

-- Any SQL.
CREATE VIEW main_app.environments AS
SELECT e.id, e.org_id, e.name, e.created_at
FROM public.environments e;

-- The type of the key of a drift check: uuid, bigint, integer or text, the same as drift_checks.id. For text, add the
-- column's collation if it is not the default one: AS text COLLATE "C".
CREATE DOMAIN main_app.check_key AS bigint;

-- Purge view. status: in_sync, drift or unknown.
CREATE VIEW main_app.drift_checks AS
SELECT c.ctid, c.id, c.org_id, c.env_id, c.checked_at, c.status, c.modified_count, c.not_in_git_count, c.unknown_count,
       c.summary_json
FROM public.drift_checks c;

-- The table whose rows are deleted with their check, by a foreign key ON DELETE CASCADE. For a main app without such a
-- table: SELECT NULL::main_app.check_key, ''::text, ''::text, ''::text WHERE false, with the same column names.
CREATE VIEW main_app.workflow_drift_flags AS
SELECT f.check_id, f.workflow_id, f.workflow_name, f.flag
FROM public.workflow_drift_flags f;

-- Purge view. An incident is never deleted: its payload is erased, and payload_purged_at is set. status: only 'closed'
-- matters. closed_at: when it was closed; an incident without it keeps its payload.
CREATE VIEW main_app.incidents AS
SELECT i.ctid, i.id, i.org_id, i.env_id, i.title, i.severity, i.status, i.owner, i.detected_at, i.acknowledged_at,
       i.stabilized_at, i.reconciled_at, i.closed_at, i.is_deleted, i.deleted_at, i.payload_purged_at, i.created_at,
       i.updated_at
FROM public.incidents i;

-- The payload that a reader can still see, wherever it is stored: in its own table, in columns of the incident, or in
-- both. Any SQL, with one row for each incident that has a payload and no row for any other. Do not include a column
-- that main_app.erase_payloads does not erase.
CREATE VIEW main_app.incident_payloads AS
SELECT p.incident_id, p.payload_json, p.created_at
FROM public.incident_payloads p;

-- Purge view. status: a 'pending' approval is never deleted.
CREATE VIEW main_app.approvals AS
SELECT a.ctid, a.id, a.org_id, a.incident_id, a.action, a.status, a.requested_by, a.decided_by, a.notes, a.created_at,
       a.decided_at
FROM public.approvals a;

-- Locks the rows that decide the organization's plan until the transaction ends, and reads the plan in a second
-- statement. So nobody can change the plan before the batch commits. It must return the plan in main_app.organizations.
-- NULL: the plan is unknown, and nothing is purged. Each batch calls it once.
CREATE FUNCTION main_app.lock_plan(org_id uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM public.organizations o WHERE o.id = lock_plan.org_id FOR SHARE;
    RETURN (SELECT o.plan FROM public.organizations o WHERE o.id = lock_plan.org_id);
END;
$$;

-- Erases the payloads of these incidents, wherever they are stored, and returns how many of the incidents had one. The
-- caller has locked the incidents. Set columns to NULL by UPDATE, and delete rows of a separate table. Afterwards
-- main_app.incident_payloads must show none of them: each batch checks that. Triggers on the tables use this search
-- path and may name no schema, so put your own schema there.
CREATE FUNCTION main_app.erase_payloads(incident_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    erased bigint;
BEGIN
    DELETE FROM public.incident_payloads p WHERE p.incident_id = ANY (erase_payloads.incident_ids);
    GET DIAGNOSTICS erased = ROW_COUNT;
    RETURN erased;
END;
$$;

REVOKE ALL ON FUNCTION main_app.lock_plan(uuid), main_app.erase_payloads(uuid[]) FROM PUBLIC;

-- Notes payloads that are written again after a purge, so that the next run erases them. Create it on each table that
-- holds payloads. Its argument is the column with the incident's id. ALWAYS: it also notes replicated and restored
-- rows. Without it, such payloads are found later.
CREATE TRIGGER note_rewritten_payload AFTER INSERT OR UPDATE ON public.incident_payloads
    FOR EACH ROW EXECUTE FUNCTION retention.note_rewritten_payload('incident_id');
ALTER TABLE public.incident_payloads ENABLE ALWAYS TRIGGER note_rewritten_payload;

-- Payloads that were written again before the trigger existed.
INSERT INTO retention.rewritten_payloads (incident_id, org_id)
SELECT i.id, i.org_id
FROM main_app.incidents i
WHERE i.payload_purged_at IS NOT NULL AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = i.id)
ON CONFLICT (incident_id) DO NOTHING;

-- A worked example: the mapping of a main app whose tables differ from the reference. Its organizations are tenants
-- whose plan depends on their subscriptions, its keys are uuids, and its payloads are stored in two places. Read it
-- together with the template (`drift-retention attach template`), which explains each object. Apply it once per
-- database, after `drift-retention migrate up`, as the owner of the main app's tables, and before
-- deploy/postgres/roles.sql:
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/main_app.workflowops.sql
--   drift-retention attach check
--
-- The owner of the tables becomes the owner of the views: its rights suffice, and row-level security hides nothing from it.
-- If another role ran `migrate up`, that role first gives the owner of the tables what it needs (and roles.sql does the
-- reverse afterwards):
--
--   GRANT USAGE ON SCHEMA retention TO the_owner;
--   GRANT SELECT, INSERT ON retention.rewritten_payloads TO the_owner;
--   GRANT EXECUTE ON FUNCTION retention.note_rewritten_payload() TO the_owner;
--
-- A foreign key deletes rows of approval_audit with their approvals. To allow this, set attach.cascades =
-- ["public.approval_audit"]. Each run then records how many of these rows were deleted.

BEGIN;
-- Creating a trigger waits for the main app's transactions. If one is long, this script gives up and changes nothing.
SET LOCAL lock_timeout = '5s';

CREATE SCHEMA main_app;
COMMENT ON SCHEMA main_app IS 'What drift-retention reads and purges of the main app';

-- The plan comes from the subscription that is active or trialing, inside its period, and first in precedence. A tenant
-- may have several subscriptions; the sub-select takes one, so that a tenant is one row. Only a tenant without a
-- subscription is free. The joins are outer joins, so a subscription whose plan cannot be found gives an unknown plan.
-- An unknown plan comes first, and nothing is purged. tenants.subscription_tier is not the plan.
CREATE VIEW main_app.organizations AS
SELECT t.id, t.name::text AS name,
       coalesce((SELECT coalesce(pp.name::text, 'unknown')
                 FROM public.tenant_provider_subscriptions s
                 LEFT JOIN public.provider_plans pp ON pp.id = s.plan_id
                 LEFT JOIN public.plans p ON p.name = pp.name
                 WHERE s.tenant_id = t.id AND s.status IN ('active', 'trialing')
                   AND (s.current_period_start IS NULL OR s.current_period_start <= now())
                   AND (s.current_period_end IS NULL OR s.current_period_end > now())
                 ORDER BY p.precedence DESC NULLS FIRST, pp.name LIMIT 1), 'free') AS plan,
       t.created_at
FROM public.tenants t;

-- public.environments is the main app's own table, which only has the same name. An environment without a tenant
-- belongs to no organization.
CREATE VIEW main_app.environments AS
SELECT e.id, e.tenant_id AS org_id, e.n8n_name::text AS name, e.created_at
FROM public.environments e
WHERE e.tenant_id IS NOT NULL;

CREATE DOMAIN main_app.check_key AS uuid;

-- Purge view. ERROR, GIT_UNAVAILABLE and every status that is not in the list are `unknown`.
CREATE VIEW main_app.drift_checks AS
SELECT c.ctid, c.id, c.tenant_id AS org_id, c.environment_id AS env_id, c.checked_at,
       CASE c.drift_status WHEN 'IN_SYNC' THEN 'in_sync' WHEN 'DRIFT_DETECTED' THEN 'drift' ELSE 'unknown' END AS status,
       c.drifted_workflows AS modified_count, c.missing_in_git AS not_in_git_count, c.missing_in_runtime AS unknown_count,
       c.summary_json
FROM public.drift_check_history c;

CREATE VIEW main_app.workflow_drift_flags AS
SELECT f.check_id, f.workflow_id::text AS workflow_id, f.workflow_name::text AS workflow_name,
       CASE f.drift_flag WHEN 'DRIFTED' THEN 'modified' WHEN 'MISSING_IN_GIT' THEN 'not_in_git' ELSE 'unknown' END AS flag
FROM public.drift_check_workflow_flags f;

-- Purge view. Only the status `closed` matters, and the main app writes it in the same way.
CREATE VIEW main_app.incidents AS
SELECT i.ctid, i.id, i.tenant_id AS org_id, i.environment_id AS env_id, i.title::text AS title,
       i.severity::text AS severity, i.status, i.owner_user_id::text AS owner, i.detected_at, i.acknowledged_at,
       i.stabilized_at, i.reconciled_at, i.closed_at, i.is_deleted, i.deleted_at, i.payload_purged_at, i.created_at,
       i.updated_at
FROM public.drift_incidents i;

-- A payload is stored in four columns of the incident, in a table with an older copy of them, or in both. The view has
-- one row per incident in each case. Both joins use a unique key. The incident's own columns are newer.
CREATE VIEW main_app.incident_payloads AS
SELECT i.id AS incident_id,
       jsonb_build_object(
           'workflows', CASE WHEN i.affected_workflows <> '[]' THEN i.affected_workflows
                             ELSE coalesce(p.affected_workflows, '[]') END,
           'summary', coalesce(i.summary, p.summary),
           'drift_snapshot', coalesce(i.drift_snapshot, p.drift_snapshot),
           'resolution_details', coalesce(i.resolution_details, p.resolution_details)) AS payload_json,
       i.created_at
FROM public.drift_incidents i
LEFT JOIN public.incident_payloads p ON p.incident_id = i.id
WHERE p.incident_id IS NOT NULL OR i.drift_snapshot IS NOT NULL OR i.summary IS NOT NULL
   OR i.resolution_details IS NOT NULL OR i.affected_workflows <> '[]';

-- Purge view.
CREATE VIEW main_app.approvals AS
SELECT a.ctid, a.id, a.tenant_id AS org_id, a.incident_id, a.approval_type::text AS action, a.status::text AS status,
       a.requested_by::text AS requested_by, a.decided_by::text AS decided_by, a.decision_notes AS notes, a.created_at,
       a.decided_at
FROM public.drift_approvals a;

-- Locks every row that decides the plan: the subscriptions, their plans and their precedence. A future subscription has
-- no row to lock yet. It references its tenant, and an insert with such a reference waits for FOR UPDATE on the tenant
-- but not for FOR SHARE. So this uses FOR UPDATE. A plan that is bought during a batch waits about a tenth of a second
-- for the batch, as does every other insert with a foreign key to this tenant. Checks and incidents have no such key.
--
-- If policies hide rows of these tables from the owner, the tenant must not look as if it had no subscription. With
-- row_security off the function fails in this case, and nothing is purged.
CREATE FUNCTION main_app.lock_plan(org_id uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
BEGIN
    PERFORM FROM public.tenants t WHERE t.id = lock_plan.org_id FOR UPDATE;
    PERFORM FROM public.tenant_provider_subscriptions s WHERE s.tenant_id = lock_plan.org_id FOR SHARE;
    PERFORM FROM public.provider_plans pp
    WHERE pp.id IN (SELECT s.plan_id FROM public.tenant_provider_subscriptions s WHERE s.tenant_id = lock_plan.org_id)
    FOR SHARE;
    PERFORM FROM public.plans p
    WHERE p.name IN (SELECT pp.name FROM public.tenant_provider_subscriptions s
                     JOIN public.provider_plans pp ON pp.id = s.plan_id
                     WHERE s.tenant_id = lock_plan.org_id)
    FOR SHARE;
    -- A separate statement after the locks, so that it sees the changes that they waited for.
    RETURN (SELECT o.plan FROM main_app.organizations o WHERE o.id = lock_plan.org_id);
END;
$$;

-- Erases both copies in one statement, so that an incident with a payload in both places counts once. The main app's
-- triggers on these tables use this search path, because they may name no schema.
CREATE FUNCTION main_app.erase_payloads(incident_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    erased bigint;
BEGIN
    WITH emptied AS (
        UPDATE public.drift_incidents i
        SET drift_snapshot = NULL, summary = NULL, resolution_details = NULL, affected_workflows = '[]'
        WHERE i.id = ANY (erase_payloads.incident_ids)
          AND (i.drift_snapshot IS NOT NULL OR i.summary IS NOT NULL OR i.resolution_details IS NOT NULL
               OR i.affected_workflows <> '[]')
        RETURNING i.id
    ), deleted AS (
        DELETE FROM public.incident_payloads p
        WHERE p.incident_id = ANY (erase_payloads.incident_ids)
        RETURNING p.incident_id
    )
    SELECT count(*) INTO erased
    FROM (SELECT id FROM emptied UNION SELECT incident_id FROM deleted) both_places (id);
    RETURN erased;
END;
$$;

REVOKE ALL ON FUNCTION main_app.lock_plan(uuid), main_app.erase_payloads(uuid[]) FROM PUBLIC;

-- Payloads are written to two tables. Incidents change often, but few of them are stamped. The columns and the
-- condition prevent calls of the function for other incidents and for the purge's own stamp.
CREATE TRIGGER note_rewritten_payload
    AFTER INSERT OR UPDATE OF drift_snapshot, summary, resolution_details, affected_workflows ON public.drift_incidents
    FOR EACH ROW
    WHEN (NEW.payload_purged_at IS NOT NULL
          AND (NEW.drift_snapshot IS NOT NULL OR NEW.summary IS NOT NULL OR NEW.resolution_details IS NOT NULL
               OR NEW.affected_workflows <> '[]'))
    EXECUTE FUNCTION retention.note_rewritten_payload('id');
ALTER TABLE public.drift_incidents ENABLE ALWAYS TRIGGER note_rewritten_payload;

CREATE TRIGGER note_rewritten_payload AFTER INSERT OR UPDATE ON public.incident_payloads
    FOR EACH ROW EXECUTE FUNCTION retention.note_rewritten_payload('incident_id');
ALTER TABLE public.incident_payloads ENABLE ALWAYS TRIGGER note_rewritten_payload;

-- Tables that lose rows every night are vacuumed at 2 % of dead rows, often and briefly, instead of at 20 %.
ALTER TABLE public.drift_check_history SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.drift_check_workflow_flags SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.drift_incidents SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.incident_payloads SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.drift_approvals SET (autovacuum_vacuum_scale_factor = 0.02);

COMMIT;

-- The following statements do not block the main app's writes. An interrupted index remains INVALID: drop it and run
-- its statement again.

-- The oldest rows of a tenant, for checks and approvals. The index on (tenant_id, checked_at desc) serves the main app.
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_check_history_purge_idx
    ON public.drift_check_history (tenant_id, checked_at, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_approvals_purge_idx ON public.drift_approvals (tenant_id, created_at, id);
-- The newest check of an environment.
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_check_history_newest_idx
    ON public.drift_check_history (environment_id, checked_at DESC, id DESC);
-- The flags of a check, which the cascade must find.
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_check_workflow_flags_check_idx
    ON public.drift_check_workflow_flags (check_id);
-- Incidents whose payload is not purged yet. A stamped incident leaves the index and causes no further cost.
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_incidents_payload_due_idx
    ON public.drift_incidents (tenant_id, closed_at, id) WHERE payload_purged_at IS NULL;
-- Lists of the API and the console.
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_approvals_incident_idx
    ON public.drift_approvals (incident_id, created_at, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_incidents_newest_idx
    ON public.drift_incidents (tenant_id, detected_at DESC, id DESC);
-- The rows that a cascade deletes, the tenant's plan, and the tenant's environments.
CREATE INDEX CONCURRENTLY IF NOT EXISTS approval_audit_approval_idx ON public.approval_audit (approval_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS tenant_provider_subscriptions_tenant_idx
    ON public.tenant_provider_subscriptions (tenant_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS environments_tenant_idx ON public.environments (tenant_id);

-- Payloads that were written again before the triggers existed. It reads every incident that was ever stamped. So it
-- runs after the commit, because before it nobody could write an incident.
INSERT INTO retention.rewritten_payloads (incident_id, org_id)
SELECT i.id, i.org_id
FROM main_app.incidents i
WHERE i.payload_purged_at IS NOT NULL AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = i.id)
ON CONFLICT (incident_id) DO NOTHING;

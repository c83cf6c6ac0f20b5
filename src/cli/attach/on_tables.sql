-- The following statements change the tables themselves. drift-retention never does that, so run them yourself, with
-- your tables' names. CONCURRENTLY does not block the main app, and cannot run in a transaction.

-- The oldest rows of an organization, for drift checks and approvals.
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_checks_org_checked_at_idx ON public.drift_checks (org_id, checked_at, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS approvals_org_created_at_idx ON public.approvals (org_id, created_at, id);
-- The newest check of an environment.
CREATE INDEX CONCURRENTLY IF NOT EXISTS drift_checks_env_newest_idx
    ON public.drift_checks (env_id, checked_at DESC, id DESC);
-- The flags of a check, which the cascade must find.
CREATE INDEX CONCURRENTLY IF NOT EXISTS workflow_drift_flags_check_idx ON public.workflow_drift_flags (check_id);
-- Incidents whose payload is not purged yet. A stamped incident leaves the index and causes no further cost.
CREATE INDEX CONCURRENTLY IF NOT EXISTS incidents_payload_due_idx ON public.incidents (org_id, closed_at, id)
    WHERE payload_purged_at IS NULL;
-- The approvals of an incident.
CREATE INDEX CONCURRENTLY IF NOT EXISTS approvals_incident_idx ON public.approvals (incident_id, created_at, id);

-- By default, autovacuum starts when 20 % of a table is dead, which is too late for tables that lose rows every night.
-- At 2 % the next day's rows reuse the freed space, so the tables do not grow.
ALTER TABLE public.drift_checks SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.workflow_drift_flags SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.incident_payloads SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.approvals SET (autovacuum_vacuum_scale_factor = 0.02);

-- If the views and functions belong to another role than the tables (here views_owner), that role needs these rights,
-- and row-level security must hide nothing from it. lock_plan locks organizations, which requires the right to update
-- them.
--   GRANT SELECT ON public.environments, public.workflow_drift_flags TO views_owner;
--   GRANT SELECT, UPDATE ON public.organizations, public.incidents TO views_owner;
--   GRANT SELECT, DELETE ON public.incident_payloads TO views_owner;
--   GRANT SELECT, UPDATE, DELETE ON public.drift_checks, public.approvals TO views_owner;
-- Grant the rights of the worker, the main app and the dashboards on the views:
--   psql -f deploy/postgres/roles.sql
-- Then check the mapping:
--   drift-retention attach check

-- What purge, preview and verify look rows up by. On a large live database build them beforehand with
-- CREATE INDEX CONCURRENTLY under these names: they are then taken as they are.

-- Oldest rows of an organization first, for drift checks and approvals.
CREATE INDEX IF NOT EXISTS drift_checks_org_checked_at_idx ON public.drift_checks (org_id, checked_at, id);
CREATE INDEX IF NOT EXISTS approvals_org_created_at_idx ON public.approvals (org_id, created_at, id);
-- The newest check of an environment.
CREATE INDEX IF NOT EXISTS drift_checks_env_newest_idx ON public.drift_checks (env_id, checked_at DESC, id DESC);
-- Closed incidents whose payload has not been purged: a stamped incident leaves the index and costs nothing again.
CREATE INDEX IF NOT EXISTS incidents_payload_due_idx ON public.incidents (org_id, closed_at, id)
    WHERE status = 'closed' AND payload_purged_at IS NULL;

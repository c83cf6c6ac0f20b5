-- The indexes with which purge, preview, verification and the API find rows.

-- The oldest rows of an organization, for drift checks and approvals.
CREATE INDEX IF NOT EXISTS drift_checks_org_checked_at_idx ON public.drift_checks (org_id, checked_at, id);
CREATE INDEX IF NOT EXISTS approvals_org_created_at_idx ON public.approvals (org_id, created_at, id);
-- The newest check of an environment.
CREATE INDEX IF NOT EXISTS drift_checks_env_newest_idx ON public.drift_checks (env_id, checked_at DESC, id DESC);
-- Closed incidents whose payload is not purged yet. A stamped incident leaves the index and causes no further cost.
CREATE INDEX IF NOT EXISTS incidents_payload_due_idx ON public.incidents (org_id, closed_at, id)
    WHERE status = 'closed' AND payload_purged_at IS NULL;
-- Lists of the API and the console.
CREATE INDEX IF NOT EXISTS environments_org_name_idx ON public.environments (org_id, name, id);
CREATE INDEX IF NOT EXISTS incidents_org_newest_idx ON public.incidents (org_id, detected_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS approvals_incident_idx ON public.approvals (incident_id, created_at, id);

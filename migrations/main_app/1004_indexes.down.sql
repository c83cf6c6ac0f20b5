DROP INDEX IF EXISTS public.approvals_incident_idx;
DROP INDEX IF EXISTS public.incidents_org_newest_idx;
DROP INDEX IF EXISTS public.environments_org_name_idx;
DROP INDEX IF EXISTS public.incidents_payload_due_idx;
DROP INDEX IF EXISTS public.drift_checks_env_newest_idx;
DROP INDEX IF EXISTS public.approvals_org_created_at_idx;
DROP INDEX IF EXISTS public.drift_checks_org_checked_at_idx;

ALTER TABLE public.drift_checks SET (autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE public.workflow_drift_flags SET (autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE public.incident_payloads SET (autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE public.approvals SET (autovacuum_vacuum_cost_limit = 2000);

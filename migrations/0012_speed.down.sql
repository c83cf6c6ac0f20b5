DROP FUNCTION retention.pressure(regclass[]);
ALTER TABLE public.approvals RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_limit);
ALTER TABLE public.incident_payloads RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_limit);
ALTER TABLE public.workflow_drift_flags RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_limit);
ALTER TABLE public.drift_checks RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_limit);
ALTER TABLE retention.purge_runs RESET (fillfactor);
ALTER TABLE retention.purge_run_steps RESET (fillfactor);
ALTER TABLE retention.purge_run_steps
    DROP COLUMN throttled_ms,
    DROP COLUMN throttle_reason,
    DROP COLUMN passed_key,
    DROP COLUMN passed_at;

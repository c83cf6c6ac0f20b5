ALTER TABLE public.approvals RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE public.incident_payloads RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE public.workflow_drift_flags RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE public.drift_checks RESET (autovacuum_vacuum_scale_factor);

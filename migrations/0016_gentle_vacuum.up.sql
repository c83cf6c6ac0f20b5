-- Autovacuum at Postgres's own pace. At ten times its cost limit, for each of four tables, one operation in ten of the main app was
-- slow while it was at work. At its own pace, which all of its workers share, it still tidies up some 40 MB of changed pages a
-- second, and nobody waits for its end.
ALTER TABLE public.drift_checks RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE public.workflow_drift_flags RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE public.incident_payloads RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE public.approvals RESET (autovacuum_vacuum_cost_limit);

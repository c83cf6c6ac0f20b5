-- Autovacuum at Postgres's own pace. Ten times its cost limit, for each of four tables, let it take what it found: while it was at
-- work the main app's p99 rose to twice and more. At its own pace, which all of its workers share, it still tidies up some
-- 40 MB a second, and a visit of a minute after a night's purge is nothing that anybody waits for.
ALTER TABLE public.drift_checks RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE public.workflow_drift_flags RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE public.incident_payloads RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE public.approvals RESET (autovacuum_vacuum_cost_limit);

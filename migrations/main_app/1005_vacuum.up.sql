-- Autovacuum comes when 20 % of a table is dead. For tables that lose a slice every night that is too late, and the visit
-- too long. At 2 % it comes often and briefly; the space that it frees takes the next day's rows, and nothing grows. Its
-- pace stays Postgres's own: at ten times that pace one operation in ten of the main app was slow while it was at work.
ALTER TABLE public.drift_checks SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.workflow_drift_flags SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.incident_payloads SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.approvals SET (autovacuum_vacuum_scale_factor = 0.02);

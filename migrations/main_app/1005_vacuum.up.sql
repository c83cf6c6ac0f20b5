-- By default, autovacuum starts when 20 % of a table is dead. For tables that lose rows every night this is too late,
-- and the vacuum then takes too long. At 2 % it runs often and briefly, and the next day's rows reuse the freed space,
-- so the tables do not grow. Its speed stays Postgres's default: at ten times that speed, one operation in ten of the
-- main app was slow during a vacuum.
ALTER TABLE public.drift_checks SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.workflow_drift_flags SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.incident_payloads SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE public.approvals SET (autovacuum_vacuum_scale_factor = 0.02);

-- What makes many runs cheap, and keeps tables that lose rows every night from growing.

-- How far the latest attempt has come in the step's table: the next one goes on from there, and does not walk over the
-- places of everything that is gone. The timestamp and key of the last row looked at, as Postgres writes them.
ALTER TABLE retention.purge_run_steps
    ADD COLUMN passed_at text,
    ADD COLUMN passed_key text;

-- What the latest batch had waited for so as not to be felt elsewhere (none: it had not), and how long all of them had.
ALTER TABLE retention.purge_run_steps
    ADD COLUMN throttle_reason text,
    ADD COLUMN throttled_ms bigint NOT NULL DEFAULT 0;

-- A step's row is updated with every batch, a run's with every change of its life: room on the page keeps the new
-- version beside the old one, where no index has to learn of it and the next read tidies up.
ALTER TABLE retention.purge_run_steps SET (fillfactor = 70);
ALTER TABLE retention.purge_runs SET (fillfactor = 80);

-- Autovacuum comes when 20 % of a table is dead: for tables that lose a slice every night that is too late, and the
-- visit too long. 2 % makes it come often and briefly; what it freed takes the next day's rows, and nothing grows. Its
-- cost limit is raised so that a visit ends before the next is due.
ALTER TABLE public.drift_checks SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE public.workflow_drift_flags SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE public.incident_payloads SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE public.approvals SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000);

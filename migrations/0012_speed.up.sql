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

-- What stands against purging at full speed. With its owner's rights: a worker has no business to read what others ask,
-- and Postgres shows what other users' sessions do only to members of pg_read_all_stats. Where the owner is none, only
-- sessions of the owner itself are seen, and no replicas.
CREATE FUNCTION retention.pressure(
    purged regclass[],
    OUT others_awake bigint,    -- sessions of others that were at work within the last second
    OUT waiting_for_us bigint,  -- sessions that wait for a lock of one of ours
    OUT replica_lag float8,     -- how long the slowest replica took for what it replayed last, in seconds
    OUT vacuuming boolean,      -- whether autovacuum is at work on one of the tables
    OUT wal float8,             -- write-ahead log written so far, in bytes
    OUT replayed float8         -- how much of it the slowest replica has replayed; null: there is none
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT count(*) FROM pg_stat_activity a
            WHERE a.datname = current_database() AND a.backend_type = 'client backend'
              AND a.application_name NOT LIKE 'drift-retention%'
              AND (a.state = 'active' OR a.state_change > now() - interval '1 second')),
           (SELECT count(*) FROM pg_stat_activity a
            WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'
              AND EXISTS (SELECT FROM unnest(pg_blocking_pids(a.pid)) AS blocking (pid)
                          JOIN pg_stat_activity ours USING (pid)
                          WHERE ours.application_name LIKE 'drift-retention%')),
           (SELECT coalesce(extract(epoch FROM max(r.replay_lag)), 0)::float8 FROM pg_stat_replication r),
           EXISTS (SELECT FROM pg_stat_progress_vacuum v
                   WHERE v.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
                     AND v.relid = ANY (pressure.purged::oid[])),
           CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') END::float8,
           (SELECT min(pg_wal_lsn_diff(r.replay_lsn, '0/0'))::float8 FROM pg_stat_replication r);
$$;
REVOKE ALL ON FUNCTION retention.pressure(regclass[]) FROM PUBLIC;

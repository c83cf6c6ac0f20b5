-- What speaks against purging at full speed. The function runs with its owner's rights: a worker has no business reading
-- other sessions' statements, and Postgres shows them only to members of pg_read_all_stats. If the owner is no member,
-- only the owner's own sessions are seen, and no replicas. plpgsql, because its plans stay: a function in SQL would be
-- planned anew by every statement that calls it.
CREATE FUNCTION retention.pressure(
    purged oid[],               -- the tables behind the views of schema main_app
    foreground text[],          -- users and applications that count as the main app; empty: all but ours
    OUT others_awake bigint,    -- sessions of others that were at work within the last second
    OUT waiting_for_us bigint,  -- sessions that wait for a lock of one of ours
    OUT replica_lag float8,     -- how long the slowest replica took for what it replayed last, in seconds
    OUT vacuuming boolean,      -- whether autovacuum is at work on one of the tables
    OUT wal float8,             -- write-ahead log written so far, in bytes
    OUT replayed float8         -- how much of it the slowest replica has replayed; null: there is none
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(*) INTO others_awake FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.backend_type = 'client backend'
      AND a.application_name NOT LIKE 'drift-retention%'
      AND (cardinality(foreground) = 0 OR a.usename = ANY (foreground) OR a.application_name = ANY (foreground))
      AND (a.state = 'active' OR a.state_change > now() - interval '1 second');

    SELECT count(*) INTO waiting_for_us FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'
      AND EXISTS (SELECT FROM unnest(pg_blocking_pids(a.pid)) AS blocking (pid)
                  JOIN pg_stat_activity ours USING (pid)
                  WHERE ours.application_name LIKE 'drift-retention%');

    SELECT coalesce(extract(epoch FROM max(r.replay_lag)), 0)::float8, min(pg_wal_lsn_diff(r.replay_lsn, '0/0'))::float8
    INTO replica_lag, replayed FROM pg_stat_replication r;

    vacuuming := EXISTS (SELECT FROM pg_stat_progress_vacuum v
                         WHERE v.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
                           AND v.relid = ANY (purged));

    wal := (CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') END)::float8;
END;
$$;
REVOKE ALL ON FUNCTION retention.pressure(oid[], text[]) FROM PUBLIC;

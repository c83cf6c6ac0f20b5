DROP INDEX IF EXISTS retention.purge_runs_cancelled_idx;

ALTER TABLE retention.purge_runs DROP COLUMN IF EXISTS traceparent;

-- A run belongs to the trace that asked for it: whoever sets `retention.traceparent` (W3C Trace Context) in the
-- transaction that enqueues, in whatever language, is the parent of the run's spans.
ALTER TABLE retention.purge_runs ADD COLUMN traceparent text;
ALTER TABLE retention.purge_runs
    ALTER COLUMN traceparent SET DEFAULT left(nullif(current_setting('retention.traceparent', true), ''), 55);

-- Cancelled runs are counted for the gauges by an index of theirs, as failed ones are: nobody else needs it, and few
-- runs are in it.
CREATE INDEX purge_runs_cancelled_idx ON retention.purge_runs (created_at DESC, id DESC) WHERE status = 'cancelled';

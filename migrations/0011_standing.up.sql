-- How the whole database stands, for the metrics' gauges and the console's overview: read by one process at a time, and
-- kept here for all of them.
CREATE TABLE retention.standing (
    -- There is one.
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- When a process last set out to read; another may once that is long enough ago.
    claimed_at timestamptz NOT NULL DEFAULT '-infinity',
    -- What was read; null: nothing yet.
    reading    jsonb
);
INSERT INTO retention.standing DEFAULT VALUES;

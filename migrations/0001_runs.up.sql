-- The truth about every purge: one row per run, one row per run and table, and who did what.

-- How much is read of a text that others wrote: of a name, a title or a word that decides, and of a reason, a note or an error.
-- What is cut ends with three dots. A text is not read past that, however long it is.
CREATE FUNCTION retention.excerpt(words text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(words, 200) || CASE WHEN length(left(words, 201)) > 200 THEN '...' ELSE '' END;
CREATE FUNCTION retention.long_excerpt(words text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(words, 2000) || CASE WHEN length(left(words, 2001)) > 2000 THEN '...' ELSE '' END;
REVOKE ALL ON FUNCTION retention.excerpt(text), retention.long_excerpt(text) FROM PUBLIC;

CREATE TABLE retention.purge_runs (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id          uuid NOT NULL, -- no foreign key: the record outlives the organization
    trigger         text NOT NULL CHECK (trigger IN ('schedule', 'purge_now', 'replay')),
    requested_by    text NOT NULL,
    reason          text,
    -- Somebody waits for it: it goes before the slot's runs, at any hour, and is held up by less. It stays so to its end.
    urgent          boolean NOT NULL DEFAULT false,
    scheduled_for   timestamptz,
    replay_of       uuid,
    status          text NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'running', 'retrying', 'succeeded', 'failed', 'cancelled')),
    plan            text,
    policy          jsonb, -- windows in days by dataset; null: no rule. Frozen at the first start, only ever lengthened.
    attempts        int NOT NULL DEFAULT 0,
    max_attempts    int NOT NULL DEFAULT 8,
    next_attempt_at timestamptz, -- when a waiting run is due; null: at once
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz, -- first start: cutoffs are this minus the window
    finished_at     timestamptz,
    verified_at     timestamptz,
    error_kind      text,
    error           text,
    token           bigint NOT NULL DEFAULT 0, -- ownership (fencing) token: grows with every claim, take-over and cancellation
    worker          text,  -- the apalis worker that holds the run
    delivery_id     text,  -- the apalis job that delivers, or delivered, the run
    -- The run belongs to the trace that asked for it. A transaction that enqueues may set `retention.traceparent` (W3C
    -- Trace Context), in any language: its span is then the parent of the run's spans.
    traceparent     text DEFAULT left(nullif(current_setting('retention.traceparent', true), ''), 55)
) WITH (fillfactor = 80); -- a run's row is updated with every change of its life: the new version fits beside the old one
COMMENT ON TABLE retention.purge_runs IS 'One purge of one organization: the record that operators, metrics and the console read.';

-- At most one live run per organization, and one run per organization and slot. The database holds this, not the code.
CREATE UNIQUE INDEX purge_runs_one_live_per_org ON retention.purge_runs (org_id)
    WHERE status IN ('queued', 'running', 'retrying');
CREATE UNIQUE INDEX purge_runs_one_per_slot ON retention.purge_runs (org_id, scheduled_for)
    WHERE trigger = 'schedule';
-- For the reconciler, for paged lists, and for pruning.
CREATE INDEX purge_runs_live_idx ON retention.purge_runs (status, id) WHERE status IN ('queued', 'running', 'retrying');
CREATE INDEX purge_runs_newest_idx ON retention.purge_runs (created_at DESC, id DESC);
CREATE INDEX purge_runs_org_newest_idx ON retention.purge_runs (org_id, created_at DESC, id DESC);
-- For the gauges and the console: failed and cancelled runs, failed runs by error kind, and the replays of a run.
CREATE INDEX purge_runs_failed_idx ON retention.purge_runs (created_at DESC, id DESC) WHERE status = 'failed';
CREATE INDEX purge_runs_cancelled_idx ON retention.purge_runs (created_at DESC, id DESC) WHERE status = 'cancelled';
CREATE INDEX purge_runs_failed_kind_idx ON retention.purge_runs (error_kind, org_id, created_at) WHERE status = 'failed';
CREATE INDEX purge_runs_replay_idx ON retention.purge_runs (replay_of) WHERE replay_of IS NOT NULL;

CREATE TABLE retention.purge_run_steps (
    run_id      uuid NOT NULL REFERENCES retention.purge_runs (id) ON DELETE CASCADE,
    table_name  text NOT NULL,
    cutoff      timestamptz, -- rows strictly older go; null: no rule for this plan
    status      text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'succeeded', 'no_rule')),
    rows_purged bigint NOT NULL DEFAULT 0,
    rows_kept   bigint NOT NULL DEFAULT 0, -- older than the cutoff, but protected by a rule
    batches     int NOT NULL DEFAULT 0,
    started_at  timestamptz,
    finished_at timestamptz,
    -- How far the latest attempt came: timestamp and key of the last row it looked at, as Postgres writes them. The next
    -- attempt continues there.
    cursor_at   text,
    cursor_key  text,
    -- Why the latest batch had to wait (null: it did not), and how long all batches waited.
    throttle_reason text,
    throttled_ms bigint NOT NULL DEFAULT 0,
    -- Rows of other tables that went with this table's rows by a foreign key (`attach.cascades`): {"schema.table": rows}.
    cascaded    jsonb,
    PRIMARY KEY (run_id, table_name)
) WITH (fillfactor = 70); -- updated with every batch
-- Rows purged per day, counted by the day the step began: counting a batch then touches no index.
CREATE INDEX purge_run_steps_started_idx ON retention.purge_run_steps (started_at);

CREATE TABLE retention.operator_actions (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,
    action  text NOT NULL, -- purge_now, replay, cancel, revoke_session
    run_id  uuid,
    org_id  uuid,
    reason  text,
    details jsonb
);
CREATE INDEX operator_actions_newest_idx ON retention.operator_actions (at DESC, id DESC);
CREATE INDEX operator_actions_run_idx ON retention.operator_actions (run_id);

-- One row per scheduled slot: how far its enqueueing has come.
CREATE TABLE retention.schedule_slots (
    slot         timestamptz PRIMARY KEY,
    after_org    uuid,   -- organizations up to here have their run
    deferred     uuid[] NOT NULL DEFAULT '{}', -- organizations whose run another transaction was just enqueueing
    enqueued     bigint NOT NULL DEFAULT 0,
    coalesced    bigint NOT NULL DEFAULT 0,
    started_at   timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz
);

-- The truth about every purge: one row per run, one per run and table, and who did what.

CREATE TABLE retention.purge_runs (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id          uuid NOT NULL, -- no foreign key: the record outlives the organization
    trigger         text NOT NULL CHECK (trigger IN ('schedule', 'purge_now', 'replay')),
    requested_by    text NOT NULL,
    reason          text,
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
    delivery_id     text   -- the apalis job that delivers, or delivered, the run
);
COMMENT ON TABLE retention.purge_runs IS 'One purge of one organization: the record that operators, metrics and the console read.';

-- At most one live run per organization, and one run per organization and slot: held here, not by code.
CREATE UNIQUE INDEX purge_runs_one_live_per_org ON retention.purge_runs (org_id)
    WHERE status IN ('queued', 'running', 'retrying');
CREATE UNIQUE INDEX purge_runs_one_per_slot ON retention.purge_runs (org_id, scheduled_for)
    WHERE trigger = 'schedule';
-- What the reconciler looks at; what lists page through; what pruning removes.
CREATE INDEX purge_runs_live_idx ON retention.purge_runs (status, id) WHERE status IN ('queued', 'running', 'retrying');
CREATE INDEX purge_runs_newest_idx ON retention.purge_runs (created_at DESC, id DESC);
CREATE INDEX purge_runs_org_newest_idx ON retention.purge_runs (org_id, created_at DESC, id DESC);
CREATE INDEX purge_runs_failed_idx ON retention.purge_runs (created_at DESC, id DESC) WHERE status = 'failed';

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
    PRIMARY KEY (run_id, table_name)
);

CREATE TABLE retention.operator_actions (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,
    action  text NOT NULL, -- purge_now, replay, cancel
    run_id  uuid,
    org_id  uuid,
    reason  text,
    details jsonb
);
CREATE INDEX operator_actions_newest_idx ON retention.operator_actions (at DESC, id DESC);

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

-- What the console needs: sessions of signed-in people, sign-in links that are spent, and indexes of its pages.

CREATE TABLE retention.console_sessions (
    id_hash       bytea PRIMARY KEY, -- SHA-256 of the cookie: who reads this table cannot sign in with it
    previous_hash bytea UNIQUE,      -- the cookie before the last rotation; taken for a moment longer
    subject       text NOT NULL,
    role          text NOT NULL CHECK (role IN ('viewer', 'admin', 'operator')),
    org_id        uuid,
    csrf          text NOT NULL,
    rotated_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL
);
COMMENT ON TABLE retention.console_sessions IS 'Who is signed in to the console.';
CREATE INDEX console_sessions_expired_idx ON retention.console_sessions (expires_at);

-- A sign-in link works once: its token is remembered, as a hash, for as long as it would be valid.
CREATE TABLE retention.spent_signin_links (
    token_hash bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX spent_signin_links_expired_idx ON retention.spent_signin_links (expires_at);

-- Failed runs grouped by error kind; what repeats a run; rows purged per day (by when the step began, so that
-- counting a batch touches no index).
CREATE INDEX purge_runs_failed_kind_idx ON retention.purge_runs (error_kind, org_id, created_at) WHERE status = 'failed';
CREATE INDEX purge_runs_replay_idx ON retention.purge_runs (replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX purge_run_steps_started_idx ON retention.purge_run_steps (started_at);
CREATE INDEX operator_actions_run_idx ON retention.operator_actions (run_id);

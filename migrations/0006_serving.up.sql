-- What the API, the console and the gauges keep.

-- Keys of repeated requests.
CREATE TABLE retention.idempotency_keys (
    org_id     uuid NOT NULL,
    key        text NOT NULL,
    run_id     uuid REFERENCES retention.purge_runs (id) ON DELETE CASCADE,
    coalesced  boolean,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, key)
);
CREATE INDEX idempotency_keys_run_idx ON retention.idempotency_keys (run_id);
CREATE INDEX idempotency_keys_oldest_idx ON retention.idempotency_keys (created_at);

CREATE TABLE retention.console_sessions (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(), -- no secret: operators know sessions by it
    id_hash         bytea NOT NULL UNIQUE, -- SHA-256 of the cookie: whoever reads this table cannot sign in with it
    previous_hash   bytea UNIQUE,          -- the cookie before the last rotation, accepted for a moment longer
    subject         text NOT NULL,
    role            text NOT NULL CHECK (role IN ('viewer', 'admin', 'operator')),
    org_id          uuid,
    csrf            text NOT NULL,
    -- What the key is known by that the token was verified with: the session ends when that key verifies tokens no more.
    key_fingerprint text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    rotated_at      timestamptz NOT NULL DEFAULT now(),
    last_seen_at    timestamptz NOT NULL DEFAULT now(), -- to the minute
    expires_at      timestamptz NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE retention.console_sessions IS 'Who is signed in to the console.';
CREATE INDEX console_sessions_expired_idx ON retention.console_sessions (expires_at);
CREATE INDEX console_sessions_newest_idx ON retention.console_sessions (created_at DESC, id DESC);

-- A sign-in link works once: its token is remembered, as a hash, for as long as it would be valid.
CREATE TABLE retention.spent_signin_links (
    token_hash bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX spent_signin_links_expired_idx ON retention.spent_signin_links (expires_at);

-- The state of the whole database, for the gauges and the console's overview. One process at a time reads it, and keeps
-- it here for all of them.
CREATE TABLE retention.standing (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- When a process last began to read. Another may begin once that is long enough ago.
    claimed_at timestamptz NOT NULL DEFAULT '-infinity',
    -- What was read; null: nothing yet.
    reading    jsonb
);
INSERT INTO retention.standing DEFAULT VALUES;

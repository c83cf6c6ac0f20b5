-- The reference main app before retention: the payload is a column of the incident (`drift_summary`). The comment on
-- each table marks it as ours. `migrate up --main-app` does not treat a table without this comment as its own.

CREATE TABLE IF NOT EXISTS public.organizations (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL,
    plan       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.environments (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id     uuid NOT NULL REFERENCES public.organizations (id),
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.drift_checks (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id           uuid NOT NULL REFERENCES public.organizations (id),
    env_id           uuid NOT NULL REFERENCES public.environments (id),
    checked_at       timestamptz NOT NULL,
    status           text NOT NULL CHECK (status IN ('in_sync', 'drift', 'unknown')),
    modified_count   int NOT NULL DEFAULT 0,
    not_in_git_count int NOT NULL DEFAULT 0,
    unknown_count    int NOT NULL DEFAULT 0,
    summary_json     jsonb
);

CREATE TABLE IF NOT EXISTS public.workflow_drift_flags (
    check_id      bigint NOT NULL REFERENCES public.drift_checks (id) ON DELETE CASCADE,
    workflow_id   text NOT NULL,
    workflow_name text,
    flag          text NOT NULL CHECK (flag IN ('modified', 'not_in_git', 'unknown')),
    PRIMARY KEY (check_id, workflow_id)
);

CREATE TABLE IF NOT EXISTS public.incidents (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id          uuid NOT NULL REFERENCES public.organizations (id),
    env_id          uuid NOT NULL REFERENCES public.environments (id),
    title           text NOT NULL,
    severity        text,
    status          text NOT NULL, -- detected, acknowledged, stabilized, reconciled, closed
    owner           text,
    detected_at     timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    stabilized_at   timestamptz,
    reconciled_at   timestamptz,
    drift_summary   jsonb,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.approvals (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id       uuid NOT NULL REFERENCES public.organizations (id),
    incident_id  uuid NOT NULL REFERENCES public.incidents (id),
    action       text NOT NULL,
    status       text NOT NULL CHECK (status IN ('pending', 'approved', 'rejected', 'cancelled')),
    requested_by text NOT NULL,
    decided_by   text,
    notes        text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    decided_at   timestamptz
);

COMMENT ON TABLE public.organizations IS 'drift-retention: reference main app';
COMMENT ON TABLE public.environments IS 'drift-retention: reference main app';
COMMENT ON TABLE public.drift_checks IS 'drift-retention: reference main app';
COMMENT ON TABLE public.workflow_drift_flags IS 'drift-retention: reference main app';
COMMENT ON TABLE public.incidents IS 'drift-retention: reference main app';
COMMENT ON TABLE public.approvals IS 'drift-retention: reference main app';

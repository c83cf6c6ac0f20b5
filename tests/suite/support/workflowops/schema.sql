-- The schema of the app that WorkflowOps grew from, as far as retention meets it, with all that differs from the
-- reference: names that collide with ours, uuid keys, payloads in two places, a plan that hangs on subscriptions, missing
-- foreign keys, missing indexes, triggers, row-level security, and an audit trail that a cascade empties.

CREATE TABLE public.tenants (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name              varchar(255) NOT NULL,
    email             varchar(255) NOT NULL UNIQUE,
    subscription_tier varchar(50) NOT NULL DEFAULT 'enterprise', -- out of date: not the plan
    status            varchar(20) NOT NULL DEFAULT 'active',
    created_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.providers (
    id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(50) NOT NULL UNIQUE
);

CREATE TABLE public.plans (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       varchar(50) NOT NULL UNIQUE,
    precedence int NOT NULL DEFAULT 0
);

CREATE TABLE public.provider_plans (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    provider_id uuid NOT NULL REFERENCES public.providers (id),
    name        varchar(50) NOT NULL,
    UNIQUE (provider_id, name)
);

CREATE TABLE public.tenant_provider_subscriptions (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id            uuid NOT NULL REFERENCES public.tenants (id) ON DELETE CASCADE,
    provider_id          uuid NOT NULL REFERENCES public.providers (id),
    plan_id              uuid NOT NULL REFERENCES public.provider_plans (id),
    status               varchar(20) NOT NULL DEFAULT 'active',
    current_period_start timestamptz,
    current_period_end   timestamptz,
    UNIQUE (tenant_id, provider_id)
);

ALTER TABLE public.providers ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.provider_plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.tenant_provider_subscriptions ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON public.providers USING (true);
CREATE POLICY everybody ON public.plans USING (true);
CREATE POLICY everybody ON public.provider_plans USING (true);
CREATE POLICY everybody ON public.tenant_provider_subscriptions USING (true);

-- A name of ours, with other columns.
CREATE TABLE public.environments (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id    uuid REFERENCES public.tenants (id),
    n8n_name     varchar(255) NOT NULL,
    n8n_base_url text NOT NULL DEFAULT 'https://n8n.example.com',
    drift_status text,
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.drift_check_history (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(), -- the key of a check
    tenant_id          uuid NOT NULL,
    environment_id     uuid NOT NULL REFERENCES public.environments (id) ON DELETE CASCADE,
    checked_at         timestamptz NOT NULL DEFAULT now(),
    drift_status       text NOT NULL,
    drifted_workflows  int NOT NULL DEFAULT 0,
    missing_in_git     int NOT NULL DEFAULT 0,
    missing_in_runtime int NOT NULL DEFAULT 0,
    summary_json       jsonb
);
CREATE INDEX drift_check_history_tenant_idx ON public.drift_check_history (tenant_id, checked_at DESC);

CREATE TABLE public.drift_check_workflow_flags (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    check_id      uuid NOT NULL REFERENCES public.drift_check_history (id) ON DELETE CASCADE, -- the key of a check
    workflow_id   uuid NOT NULL,
    workflow_name varchar(255),
    drift_flag    text NOT NULL
);

CREATE TABLE public.drift_incidents (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id          uuid NOT NULL,
    environment_id     uuid NOT NULL,
    status             text NOT NULL DEFAULT 'open',
    title              varchar(255),
    severity           varchar(20),
    owner_user_id      uuid,
    drift_snapshot     jsonb,
    summary            jsonb,
    resolution_details jsonb,
    affected_workflows jsonb NOT NULL DEFAULT '[]',
    detected_at        timestamptz NOT NULL DEFAULT now(),
    acknowledged_at    timestamptz,
    stabilized_at      timestamptz,
    reconciled_at      timestamptz,
    closed_at          timestamptz,
    is_deleted         boolean NOT NULL DEFAULT false,
    deleted_at         timestamptz,
    payload_purged_at  timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now()
);

-- A name of ours, with an older copy of some of the incidents' columns.
CREATE TABLE public.incident_payloads (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    incident_id        uuid NOT NULL UNIQUE REFERENCES public.drift_incidents (id) ON DELETE CASCADE,
    drift_snapshot     jsonb,
    summary            jsonb,
    resolution_details jsonb,
    affected_workflows jsonb NOT NULL DEFAULT '[]'
);

CREATE TABLE public.drift_approvals (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id      uuid NOT NULL,
    incident_id    uuid NOT NULL REFERENCES public.drift_incidents (id) ON DELETE CASCADE,
    approval_type  varchar(50) NOT NULL,
    status         varchar(20) NOT NULL DEFAULT 'pending',
    requested_by   uuid,
    decided_by     uuid,
    decision_notes text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    decided_at     timestamptz,
    updated_at     timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION public.set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END;
$$;
CREATE TRIGGER drift_approvals_updated_at BEFORE UPDATE ON public.drift_approvals
    FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();

-- Its rows go with the approvals, and nobody would count them.
CREATE TABLE public.approval_audit (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    approval_id uuid NOT NULL REFERENCES public.drift_approvals (id) ON DELETE CASCADE,
    entry       text NOT NULL
);

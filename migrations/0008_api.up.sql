-- What the API needs: keys of repeated requests, indexes of its lists, a plan that a worker may hold but not write,
-- and records that nobody can rewrite.

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

CREATE INDEX IF NOT EXISTS environments_org_name_idx ON public.environments (org_id, name, id);
CREATE INDEX IF NOT EXISTS incidents_org_newest_idx ON public.incidents (org_id, detected_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS approvals_incident_idx ON public.approvals (incident_id, created_at, id);

-- An organization's plan, held against change until the caller's transaction ends. A row lock needs the right to
-- update, which a worker has no business to have: this function has it.
CREATE FUNCTION retention.hold_plan(org_id uuid) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.plan FROM public.organizations o WHERE o.id = hold_plan.org_id FOR SHARE;
$$;
REVOKE ALL ON FUNCTION retention.hold_plan(uuid) FROM PUBLIC;

-- History is append-only, whoever asks. A final run can be pruned once it is 30 days old.
CREATE FUNCTION retention.refuse_rewriting() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'purge_runs' THEN -- the one table here with this column
        IF OLD.created_at < now() - interval '30 days' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'retention.% is append-only: a record that is final cannot be changed', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END;
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON retention.purge_runs FOR EACH ROW
    WHEN (OLD.status IN ('succeeded', 'failed', 'cancelled')) EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON retention.operator_actions FOR EACH ROW
    EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON retention.purge_runs EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON retention.purge_run_steps EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON retention.operator_actions EXECUTE FUNCTION retention.refuse_rewriting();

-- A step is final with its run, and none comes to a final run. One that goes because its run is pruned finds no run
-- any more.
CREATE FUNCTION retention.refuse_rewriting_step() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM retention.purge_runs r
               WHERE r.id IN (OLD.run_id, NEW.run_id) AND r.status IN ('succeeded', 'failed', 'cancelled')) THEN
        RAISE EXCEPTION 'retention.purge_run_steps is append-only: its run is final'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END;
$$;
CREATE TRIGGER append_only BEFORE INSERT OR UPDATE OR DELETE ON retention.purge_run_steps FOR EACH ROW
    EXECUTE FUNCTION retention.refuse_rewriting_step();

-- chaos.journal
-- Triggers record every change of the main app's rows and of the runs in the transaction that makes it. So the journal
-- has exactly the changes that were committed. `process` is the process of the product that made the change, as its
-- connection names it. Null is the main app.

CREATE SCHEMA chaos;

CREATE TABLE chaos.journal (
    n          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    began      timestamptz NOT NULL DEFAULT now(),
    tx         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    process    text,
    table_name text NOT NULL,
    op         text NOT NULL,
    key        text NOT NULL,
    was        jsonb,
    now        jsonb
);

CREATE FUNCTION chaos.write_down() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - 'payload_json' - 'summary_json' END;
    now jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - 'payload_json' - 'summary_json' END;
BEGIN
    INSERT INTO chaos.journal (process, table_name, op, key, was, now)
    VALUES (nullif(current_setting('chaos.process', true), ''), TG_TABLE_NAME, TG_OP,
            (SELECT string_agg(coalesce(now, was) ->> k, '/') FROM unnest(TG_ARGV) AS k), was, now);
    RETURN NULL;
END;
$$;

CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON public.organizations
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('id');
CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON public.environments
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('id');
CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON public.drift_checks
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('id');
CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON public.workflow_drift_flags
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('check_id', 'workflow_id');
CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON public.incidents
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('id');
CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON public.incident_payloads
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('incident_id');
CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON public.approvals
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('id');
CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON retention.purge_runs
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('id');
CREATE TRIGGER chaos_journal AFTER INSERT OR UPDATE OR DELETE ON retention.purge_run_steps
    FOR EACH ROW EXECUTE FUNCTION chaos.write_down('run_id', 'table_name');

-- What the product told callers: `kept` runs were enqueued in a transaction that committed, the others in one that was
-- rolled back.
CREATE TABLE chaos.promises (run_id uuid NOT NULL, kept boolean NOT NULL);
-- The product's processes: the name in the journal, and the process id, which is part of the workers' names.
CREATE TABLE chaos.processes (process text PRIMARY KEY, pid bigint NOT NULL);

-- chaos.trouble
-- Makes statements of the product fail or run slowly while a row in `chaos.trouble` says so.

CREATE TABLE chaos.trouble (
    table_name text NOT NULL,
    kind       text NOT NULL, -- fail: the statement fails; commit: the commit fails; slow: the statement is slow
    org_id     uuid,          -- null: every organization
    sqlstate   text NOT NULL DEFAULT 'XX000',
    seconds    float8 NOT NULL DEFAULT 0,
    until      timestamptz NOT NULL
);

CREATE FUNCTION chaos.make_trouble(on_table text, kinds text[], orgs uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trouble record;
BEGIN
    IF coalesce(current_setting('chaos.process', true), '') = '' THEN
        RETURN;
    END IF;
    FOR trouble IN
        SELECT * FROM chaos.trouble t
        WHERE t.table_name = on_table AND t.kind = ANY (kinds) AND t.until > clock_timestamp()
          AND (t.org_id IS NULL OR orgs IS NULL OR t.org_id = ANY (orgs))
    LOOP
        IF trouble.kind = 'slow' THEN
            PERFORM pg_sleep(trouble.seconds);
        ELSE
            RAISE EXCEPTION 'chaos: % of % fails', trouble.kind, on_table USING ERRCODE = trouble.sqlstate;
        END IF;
    END LOOP;
END;
$$;

CREATE FUNCTION chaos.on_delete() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM chaos.make_trouble(TG_TABLE_NAME, '{fail,slow}', (SELECT array_agg(DISTINCT org_id) FROM gone));
    RETURN NULL;
END;
$$;
CREATE FUNCTION chaos.on_statement() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM chaos.make_trouble(TG_TABLE_NAME, '{fail,slow}', NULL);
    RETURN NULL;
END;
$$;
CREATE FUNCTION chaos.on_commit() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM chaos.make_trouble(TG_TABLE_NAME, '{commit}', NULL);
    RETURN NULL;
END;
$$;

CREATE TRIGGER chaos_trouble AFTER DELETE ON public.drift_checks
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION chaos.on_delete();
CREATE TRIGGER chaos_trouble AFTER DELETE ON public.approvals
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION chaos.on_delete();
CREATE TRIGGER chaos_trouble AFTER DELETE ON public.workflow_drift_flags
    FOR EACH STATEMENT EXECUTE FUNCTION chaos.on_statement();
CREATE TRIGGER chaos_trouble AFTER DELETE ON public.incident_payloads
    FOR EACH STATEMENT EXECUTE FUNCTION chaos.on_statement();
CREATE TRIGGER chaos_trouble AFTER INSERT OR UPDATE ON retention.purge_runs
    FOR EACH STATEMENT EXECUTE FUNCTION chaos.on_statement();
CREATE TRIGGER chaos_trouble AFTER INSERT OR UPDATE ON retention.purge_run_steps
    FOR EACH STATEMENT EXECUTE FUNCTION chaos.on_statement();
CREATE TRIGGER chaos_trouble AFTER INSERT OR UPDATE ON apalis.jobs
    FOR EACH STATEMENT EXECUTE FUNCTION chaos.on_statement();
CREATE CONSTRAINT TRIGGER chaos_commit AFTER UPDATE ON retention.purge_run_steps
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos.on_commit();
CREATE CONSTRAINT TRIGGER chaos_commit AFTER UPDATE ON retention.purge_runs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos.on_commit();

-- The triggers run in the product's statements, so its role needs this right.
GRANT USAGE ON SCHEMA chaos TO PUBLIC;

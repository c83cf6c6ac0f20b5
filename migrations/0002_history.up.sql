-- History is append-only for everybody. A final run can be pruned once it is 30 days old; a live one cannot be deleted.

CREATE FUNCTION retention.refuse_rewriting() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'purge_runs' THEN -- the one table here with this column
        IF OLD.status NOT IN ('succeeded', 'failed', 'cancelled') THEN
            RAISE EXCEPTION 'run % is live: it cannot be deleted', OLD.id USING ERRCODE = 'insufficient_privilege';
        END IF;
        IF OLD.created_at < now() - interval '30 days' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'retention.% is append-only: a record that is final cannot be changed', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END;
$$;

CREATE TRIGGER append_only BEFORE UPDATE ON retention.purge_runs FOR EACH ROW
    WHEN (OLD.status IN ('succeeded', 'failed', 'cancelled')) EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER no_early_deletion BEFORE DELETE ON retention.purge_runs FOR EACH ROW
    EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON retention.operator_actions FOR EACH ROW
    EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON retention.purge_runs EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON retention.purge_run_steps EXECUTE FUNCTION retention.refuse_rewriting();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON retention.operator_actions EXECUTE FUNCTION retention.refuse_rewriting();

-- A step is final when its run is. When a run is pruned, its steps find no run any more and may go.
CREATE FUNCTION retention.refuse_rewriting_step() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM retention.purge_runs r
               WHERE r.id IN (OLD.run_id, NEW.run_id) AND r.status IN ('succeeded', 'failed', 'cancelled')) THEN
        RAISE EXCEPTION 'retention.purge_run_steps is append-only: its run is final'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.rows_purged < OLD.rows_purged OR NEW.batches < OLD.batches THEN
            RAISE EXCEPTION 'the counts of a step only grow' USING ERRCODE = 'insufficient_privilege';
        END IF;
        RETURN NEW;
    END IF;
    RETURN OLD;
END;
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON retention.purge_run_steps FOR EACH ROW
    EXECUTE FUNCTION retention.refuse_rewriting_step();

-- No step is added to a final run. This is asked once per inserting statement: asked per step it took as long as the
-- insert. Each run is found by its key, because the planner has no statistics of a transition table.
CREATE FUNCTION retention.refuse_late_steps() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM (SELECT DISTINCT a.run_id FROM added a) s
               CROSS JOIN LATERAL (
                   SELECT FROM retention.purge_runs r
                   WHERE r.id = s.run_id AND r.status IN ('succeeded', 'failed', 'cancelled') LIMIT 1) final) THEN
        RAISE EXCEPTION 'retention.purge_run_steps is append-only: its run is final'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END;
$$;
CREATE TRIGGER no_late_steps AFTER INSERT ON retention.purge_run_steps REFERENCING NEW TABLE AS added FOR EACH STATEMENT
    EXECUTE FUNCTION retention.refuse_late_steps();

REVOKE ALL ON FUNCTION retention.refuse_rewriting(), retention.refuse_rewriting_step(), retention.refuse_late_steps() FROM PUBLIC;

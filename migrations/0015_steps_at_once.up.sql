-- That no step comes to a final run was asked for each step, and took as long as to write it. Now once for all that a
-- statement inserts. Run by run, by its key: statistics know nothing of a transition table.
DROP TRIGGER append_only ON retention.purge_run_steps;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON retention.purge_run_steps FOR EACH ROW
    EXECUTE FUNCTION retention.refuse_rewriting_step();

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

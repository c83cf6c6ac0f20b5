DROP TRIGGER no_late_steps ON retention.purge_run_steps;
DROP FUNCTION retention.refuse_late_steps();
DROP TRIGGER append_only ON retention.purge_run_steps;
CREATE TRIGGER append_only BEFORE INSERT OR UPDATE OR DELETE ON retention.purge_run_steps FOR EACH ROW
    EXECUTE FUNCTION retention.refuse_rewriting_step();

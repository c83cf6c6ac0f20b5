DROP TABLE retention.schedule_slots;
DROP TABLE retention.operator_actions;
DROP TABLE retention.purge_run_steps;
DROP TABLE retention.purge_runs;
DROP FUNCTION retention.excerpt(text), retention.long_excerpt(text);

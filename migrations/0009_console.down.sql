DROP INDEX IF EXISTS retention.operator_actions_run_idx, retention.purge_run_steps_started_idx,
    retention.purge_runs_replay_idx, retention.purge_runs_failed_kind_idx;
DROP TABLE IF EXISTS retention.spent_signin_links, retention.console_sessions;

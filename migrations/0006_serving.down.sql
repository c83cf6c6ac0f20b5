DROP TABLE retention.standing;
DROP TABLE retention.spent_signin_links;
DROP TABLE retention.console_sessions;
DROP TABLE retention.idempotency_keys;

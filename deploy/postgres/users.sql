-- The users that log in, for compose.yaml: psql runs this after roles.sql, as the owner. Passwords come from the
-- environment and are renewed each time.
\set ON_ERROR_STOP on
\getenv worker_password WORKER_PASSWORD
\getenv grafana_password GRAFANA_DB_PASSWORD

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['drift_retention', 'grafana']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

ALTER ROLE drift_retention PASSWORD :'worker_password';
GRANT drift_retention_worker TO drift_retention;
ALTER ROLE grafana PASSWORD :'grafana_password';
-- The reader of the dashboards.
SELECT 'GRANT drift_retention_reader TO grafana'
WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'drift_retention_reader') \gexec

-- `IF EXISTS`: the owner of the main app may have changed the mapping since.
DROP TRIGGER IF EXISTS note_rewritten_payload ON public.incident_payloads;
DROP FUNCTION IF EXISTS main_app.erase_payloads(uuid[]);
DROP FUNCTION IF EXISTS main_app.lock_plan(uuid);
DROP VIEW IF EXISTS main_app.approvals;
DROP VIEW IF EXISTS main_app.incident_payloads;
DROP VIEW IF EXISTS main_app.incidents;
DROP VIEW IF EXISTS main_app.workflow_drift_flags;
DROP VIEW IF EXISTS main_app.drift_checks;
DROP DOMAIN IF EXISTS main_app.check_key;
DROP VIEW IF EXISTS main_app.environments;
DROP VIEW IF EXISTS main_app.organizations;
DROP SCHEMA IF EXISTS main_app;

-- What a purge must leave: the rules once more, in plain SQL over copies of the main app's own tables, apart from the
-- mapping and from the product's statements. To be run before the purge.

CREATE SCHEMA before;
CREATE TABLE before.checks AS TABLE public.drift_check_history;
CREATE TABLE before.flags AS TABLE public.drift_check_workflow_flags;
CREATE TABLE before.incidents AS TABLE public.drift_incidents;
CREATE TABLE before.payloads AS TABLE public.incident_payloads;
CREATE TABLE before.approvals AS TABLE public.drift_approvals;
CREATE TABLE before.audit AS TABLE public.approval_audit;

-- By the start of the run; until there is one, by now.
CREATE VIEW expected.cutoffs AS
SELECT p.tenant_id, w.plan, s.at AS started_at, s.at - w.checks * interval '24 hours' AS checks,
       s.at - w.closed * interval '24 hours' AS closed
FROM expected.plans p
JOIN (VALUES ('free', 7, NULL), ('pro', 30, 180), ('agency', 90, 365), ('enterprise', 180, 2555)) AS w (plan, checks, closed)
    USING (plan)
CROSS JOIN LATERAL (SELECT coalesce(min(r.started_at), now()) AS at
                    FROM retention.purge_runs r WHERE r.org_id = p.tenant_id) s;

CREATE VIEW expected.gone_checks AS
SELECT c.*
FROM before.checks c
JOIN expected.cutoffs k USING (tenant_id)
WHERE c.checked_at < k.checks
  AND c.id NOT IN (SELECT DISTINCT ON (n.environment_id) n.id
                   FROM before.checks n
                   WHERE n.checked_at <= now()
                   ORDER BY n.environment_id, n.checked_at DESC, n.id DESC);

CREATE VIEW expected.gone_flags AS
SELECT f.*, c.tenant_id FROM before.flags f JOIN expected.gone_checks c ON c.id = f.check_id;

-- Incidents whose payload is due, whether or not there is one.
CREATE VIEW expected.due AS
SELECT i.*
FROM before.incidents i
JOIN expected.cutoffs k USING (tenant_id)
WHERE i.status::text = 'closed' AND i.closed_at < k.closed;

CREATE VIEW expected.gone_payloads AS
SELECT d.id, d.tenant_id
FROM expected.due d
WHERE num_nonnulls(d.drift_snapshot, d.summary, d.resolution_details) > 0 OR d.affected_workflows::text <> '[]'
   OR d.id IN (SELECT incident_id FROM before.payloads);

CREATE VIEW expected.gone_approvals AS
SELECT a.*
FROM before.approvals a
JOIN expected.cutoffs k USING (tenant_id)
JOIN before.incidents i ON i.id = a.incident_id
WHERE a.created_at < k.closed AND a.status <> 'pending' AND i.status::text = 'closed';

CREATE VIEW expected.gone_audit AS
SELECT t.*, a.tenant_id FROM before.audit t JOIN expected.gone_approvals a ON a.id = t.approval_id;

-- Every tenant with a plan, and what goes of each kind.
CREATE VIEW expected.counts AS
SELECT k.tenant_id,
       (SELECT count(*) FROM expected.gone_checks g WHERE g.tenant_id = k.tenant_id) AS drift_checks,
       (SELECT count(*) FROM expected.gone_flags g WHERE g.tenant_id = k.tenant_id) AS workflow_drift_flags,
       (SELECT count(*) FROM expected.gone_payloads g WHERE g.tenant_id = k.tenant_id) AS incident_payloads,
       (SELECT count(*) FROM expected.gone_approvals g WHERE g.tenant_id = k.tenant_id) AS approvals,
       (SELECT count(*) FROM expected.gone_audit g WHERE g.tenant_id = k.tenant_id) AS approval_audit
FROM expected.cutoffs k;

-- Every row that must be there, whole, and its table. A stamp of the run counts as one word.
CREATE VIEW expected.left_over AS
SELECT 'checks' AS place, to_jsonb(c) AS row FROM before.checks c WHERE c.id NOT IN (SELECT id FROM expected.gone_checks)
UNION ALL SELECT 'flags', to_jsonb(f) FROM before.flags f WHERE f.id NOT IN (SELECT id FROM expected.gone_flags)
UNION ALL SELECT 'incidents', to_jsonb(i) || CASE WHEN d.id IS NULL THEN '{}' ELSE jsonb_build_object(
              'drift_snapshot', NULL, 'summary', NULL, 'resolution_details', NULL, 'affected_workflows', '[]'::jsonb,
              'payload_purged_at', coalesce(to_jsonb(i.payload_purged_at), '"by the run"')) END
          FROM before.incidents i LEFT JOIN expected.due d USING (id)
UNION ALL SELECT 'payloads', to_jsonb(p) FROM before.payloads p WHERE p.incident_id NOT IN (SELECT id FROM expected.due)
UNION ALL SELECT 'approvals', to_jsonb(a) FROM before.approvals a WHERE a.id NOT IN (SELECT id FROM expected.gone_approvals)
UNION ALL SELECT 'audit', to_jsonb(t) FROM before.audit t WHERE t.id NOT IN (SELECT id FROM expected.gone_audit);

CREATE VIEW expected.really_left_over AS
SELECT 'checks' AS place, to_jsonb(c) AS row FROM public.drift_check_history c
UNION ALL SELECT 'flags', to_jsonb(f) FROM public.drift_check_workflow_flags f
UNION ALL SELECT 'incidents', to_jsonb(i) || CASE WHEN EXISTS (
              SELECT FROM retention.purge_runs r
              WHERE r.org_id = i.tenant_id AND i.payload_purged_at BETWEEN r.started_at AND r.finished_at)
              THEN '{"payload_purged_at": "by the run"}' ELSE '{}' END::jsonb
          FROM public.drift_incidents i
UNION ALL SELECT 'payloads', to_jsonb(p) FROM public.incident_payloads p
UNION ALL SELECT 'approvals', to_jsonb(a) FROM public.drift_approvals a
UNION ALL SELECT 'audit', to_jsonb(t) FROM public.approval_audit t;

-- Where the database and the rules differ: nothing, after a purge.
CREATE VIEW expected.differences AS
SELECT 'should be there' AS what, missing.* FROM (TABLE expected.left_over EXCEPT TABLE expected.really_left_over) missing
UNION ALL
SELECT 'should not be there', added.* FROM (TABLE expected.really_left_over EXCEPT TABLE expected.left_over) added;

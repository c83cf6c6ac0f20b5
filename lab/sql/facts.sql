-- chaos.facts
-- Turns the journal, in the order of its commits, into the tables that the checks read. Nothing here comes from the
-- product: the windows are written here once more, and the state at each time follows from the journal alone.

DROP TABLE IF EXISTS chaos.events, chaos.windows, chaos.plans, chaos.incidents, chaos.checks, chaos.runs,
    chaos.purged, chaos.observed, chaos.allowed, chaos.finals;

CREATE TABLE chaos.windows (plan text PRIMARY KEY, checks interval NOT NULL, closed interval);
INSERT INTO chaos.windows VALUES
    ('free',        '168 hours', NULL),
    ('pro',         '720 hours', '4320 hours'),
    ('agency',      '2160 hours', '8760 hours'),
    ('agency+',     '2160 hours', '8760 hours'),
    ('agency_plus', '2160 hours', '8760 hours'),
    ('enterprise',  '4320 hours', '61320 hours');

CREATE TABLE chaos.events AS
SELECT j.*, pg_xact_commit_timestamp(j.tx::xid) AS committed FROM chaos.journal j;
CREATE INDEX ON chaos.events (table_name, key, n);
CREATE INDEX ON chaos.events (tx);
ANALYZE chaos.events;

-- A row holds from `since` on, and no longer at `until`.
CREATE TABLE chaos.plans AS
SELECT (now ->> 'id')::uuid AS org_id, lower(btrim(now ->> 'plan')) AS plan, committed AS since,
       lead(committed, 1, 'infinity') OVER (PARTITION BY key ORDER BY committed, n) AS until
FROM chaos.events WHERE table_name = 'organizations' AND op <> 'DELETE';
CREATE INDEX ON chaos.plans (org_id);

CREATE TABLE chaos.incidents AS
SELECT key, (now ->> 'org_id')::uuid AS org_id, now ->> 'status' AS status, (now ->> 'closed_at')::timestamptz AS closed_at,
       (now ->> 'payload_purged_at')::timestamptz AS stamp, committed AS since,
       lead(committed, 1, 'infinity') OVER (PARTITION BY key ORDER BY committed, n) AS until
FROM chaos.events WHERE table_name = 'incidents' AND op <> 'DELETE';
CREATE INDEX ON chaos.incidents (key);

CREATE TABLE chaos.runs AS
SELECT (now ->> 'id')::uuid AS id, (now ->> 'org_id')::uuid AS org_id, now ->> 'status' AS status,
       was ->> 'status' AS status_before, op, process, tx, (now ->> 'token')::bigint AS token,
       split_part(now ->> 'worker', ':', 2) AS pid, began, committed AS since,
       lead(committed, 1, 'infinity') OVER (PARTITION BY key ORDER BY committed, n) AS until,
       -- A running run changes and keeps its token and its delivery: it records its policy, from the plan of that time.
       process IS NOT NULL AND was ->> 'status' = 'running' AND now ->> 'status' = 'running'
           AND was ->> 'token' = now ->> 'token' AND was ->> 'delivery_id' = now ->> 'delivery_id' AS records_policy
FROM chaos.events WHERE table_name = 'purge_runs' AND op <> 'DELETE';
CREATE INDEX ON chaos.runs (id);
CREATE INDEX ON chaos.runs (org_id);

CREATE TABLE chaos.checks AS
SELECT b.key, (b.now ->> 'id')::bigint AS id, (b.now ->> 'org_id')::uuid AS org_id, (b.now ->> 'env_id')::uuid AS env_id,
       (b.now ->> 'checked_at')::timestamptz AS checked_at, b.committed AS born,
       coalesce(d.committed, 'infinity') AS died
FROM chaos.events b
LEFT JOIN chaos.events d ON d.table_name = 'drift_checks' AND d.op = 'DELETE' AND d.key = b.key
WHERE b.table_name = 'drift_checks' AND b.op = 'INSERT';
CREATE INDEX ON chaos.checks (env_id, checked_at, id);
CREATE INDEX ON chaos.checks (key);

-- Every row that the product deleted, with the run that counted it. That run's step changed in the same transaction. If
-- the transaction purged several organizations, it is the run of the row's organization.
CREATE TABLE chaos.purged AS
SELECT d.n, d.table_name, d.key, d.was, d.committed, d.process, d.tx, s.run_id, o.org_id,
       CASE d.table_name
           WHEN 'drift_checks' THEN (d.was ->> 'checked_at')::timestamptz
           WHEN 'workflow_drift_flags' THEN c.checked_at
           WHEN 'incident_payloads' THEN i.closed_at
           ELSE (d.was ->> 'created_at')::timestamptz END AS clock,
       CASE WHEN d.table_name IN ('drift_checks', 'workflow_drift_flags') THEN 'checks' ELSE 'closed' END AS kind
FROM chaos.events d
LEFT JOIN chaos.checks c ON d.table_name = 'workflow_drift_flags' AND c.key = d.was ->> 'check_id'
LEFT JOIN chaos.incidents i ON d.table_name = 'incident_payloads' AND i.key = d.key
      AND i.since <= d.committed AND d.committed < i.until
CROSS JOIN LATERAL (SELECT coalesce((d.was ->> 'org_id')::uuid, c.org_id, i.org_id) AS org_id) o
LEFT JOIN LATERAL (SELECT r.id AS run_id FROM chaos.events e JOIN retention.purge_runs r ON r.id = (e.now ->> 'run_id')::uuid
                   WHERE e.tx = d.tx AND e.table_name = 'purge_run_steps'
                   ORDER BY (r.org_id = o.org_id) DESC NULLS LAST LIMIT 1) s ON true
WHERE d.op = 'DELETE' AND d.process IS NOT NULL
  AND d.table_name IN ('drift_checks', 'workflow_drift_flags', 'incident_payloads', 'approvals');
CREATE INDEX ON chaos.purged (run_id, table_name);
ANALYZE chaos.purged;

-- The plans that a run saw when it recorded its policy and when it deleted. A deleting transaction locks the plan until
-- the commit. A transaction that records the policy only reads the plan; if the plan changed meanwhile, it may have read
-- either.
CREATE TABLE chaos.observed AS
SELECT s.run_id, s.at, bool_or(w.plan IS NOT NULL) AS known, min(w.checks) AS checks, min(w.closed) AS closed
FROM (SELECT run_id, org_id, committed AS began, committed AS at FROM chaos.purged WHERE run_id IS NOT NULL
      UNION SELECT id, org_id, began, since FROM chaos.runs WHERE records_policy) s
JOIN chaos.plans p ON p.org_id = s.org_id AND p.since <= s.at AND s.began < p.until
LEFT JOIN chaos.windows w ON w.plan = p.plan
GROUP BY s.run_id, s.at;

-- The cutoffs of each committed deletion. The longest window that the run has seen so far wins, and no rule is the
-- longest window.
CREATE TABLE chaos.allowed AS
SELECT b.run_id, b.at, r.started_at - max(o.checks) AS checks_before,
       CASE WHEN bool_and(o.closed IS NOT NULL) THEN r.started_at - max(o.closed) END AS closed_before,
       bool_and(o.known) AS known
FROM (SELECT DISTINCT run_id, committed AS at FROM chaos.purged WHERE run_id IS NOT NULL) b
JOIN chaos.observed o ON o.run_id = b.run_id AND o.at <= b.at
JOIN retention.purge_runs r ON r.id = b.run_id
GROUP BY b.run_id, b.at, r.started_at;
CREATE INDEX ON chaos.allowed (run_id, at);

-- The last run of every organization that started after the faults, with its cutoffs.
CREATE TABLE chaos.finals AS
SELECT DISTINCT ON (o.id) o.id AS org_id, w.plan, r.id AS run_id, r.status, r.error_kind, r.started_at,
       r.started_at - w.checks AS checks_before, r.started_at - w.closed AS closed_before
FROM public.organizations o
LEFT JOIN chaos.windows w ON w.plan = lower(btrim(o.plan))
LEFT JOIN retention.purge_runs r ON r.org_id = o.id AND r.started_at >= $1
ORDER BY o.id, r.started_at DESC NULLS LAST;

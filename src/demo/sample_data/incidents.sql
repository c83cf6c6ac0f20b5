-- demo.sample_data.incidents
-- Incidents in every state, their payloads (the drift of each node) and their approvals.

CREATE FUNCTION pg_temp.person(key text) RETURNS text LANGUAGE sql IMMUTABLE RETURN (ARRAY[
    'priya.nair', 'tomas.havel', 'dana.keller', 'kofi.mensah', 'lucia.romero', 'henrik.olsen', 'mei.tanaka',
    'sam.whitfield', 'amira.haddad', 'jonas.weber', 'chloe.dubois', 'rafael.souza'])[1 + pg_temp.pick(key, 12)];

-- The times of an incident's life, in order. Future ones are null.
CREATE FUNCTION pg_temp.lifecycle(
    kind text, INOUT detected timestamptz, life interval, OUT status text, OUT acknowledged timestamptz,
    OUT stabilized timestamptz, OUT reconciled timestamptz, OUT closed timestamptz, OUT updated timestamptz)
LANGUAGE sql IMMUTABLE AS $$
    SELECT detected,
           CASE WHEN kind LIKE 'closed%' THEN 'closed' WHEN kind = 'reopened' THEN 'acknowledged' ELSE kind END,
           CASE WHEN kind <> 'detected' THEN detected + life * 0.04 END,
           CASE WHEN kind NOT IN ('detected', 'acknowledged') THEN detected + life * 0.25 END,
           CASE WHEN kind NOT IN ('detected', 'acknowledged', 'stabilized') THEN detected + life * 0.6 END,
           -- A reopened incident keeps the time when it was first closed. Early incidents were closed before that was
           -- recorded.
           CASE WHEN kind IN ('closed', 'closed, payload lost', 'reopened') THEN detected + life * 0.95 END,
           CASE kind WHEN 'detected' THEN detected
                     WHEN 'acknowledged' THEN detected + life * 0.04
                     WHEN 'stabilized' THEN detected + life * 0.25
                     WHEN 'reconciled' THEN detected + life * 0.6
                     WHEN 'reopened' THEN detected + life
                     ELSE detected + life * 0.95 END
$$;

-- One row determines everything about an incident: `age` is the time since its detection, `life` is its duration so
-- far.
CREATE TEMP TABLE sample_incidents (
    id uuid PRIMARY KEY, org_n int, n int, env_id uuid, env_name text, kind text, age interval, life interval)
    ON COMMIT DROP;

INSERT INTO sample_incidents
WITH dice AS (
    SELECT o.n AS org_n, o.slug || '!' || i AS key, i AS n, o.environments, p.incident_days,
           i * 1.0 / count AS spread, pg_temp.pick(o.slug || '!' || i, 100) AS kind
    FROM sample_organizations o
    JOIN sample_plans p USING (tier)
    CROSS JOIN LATERAL (VALUES (CASE o.tier WHEN 'free' THEN 16 WHEN 'pro' THEN 40 WHEN 'agency' THEN 46
                                            WHEN 'enterprise' THEN 52 ELSE 30 END)) AS size (count)
    CROSS JOIN LATERAL generate_series(1, size.count) AS i
), kinds AS (
    SELECT d.*, CASE WHEN kind < 66 THEN 'closed'
                     WHEN kind < 73 THEN 'detected'
                     WHEN kind < 80 THEN 'acknowledged'
                     WHEN kind < 85 THEN 'stabilized'
                     WHEN kind < 90 THEN 'reconciled'
                     WHEN kind < 94 THEN 'reopened'
                     WHEN kind < 97 THEN 'closed, time unknown'
                     ELSE 'closed, payload lost' END AS what
    FROM dice d
), ages AS (
    -- Customers grow, so most incidents are recent. Open incidents are newer still, except some that were forgotten.
    SELECT k.*, make_interval(secs => (
               k.incident_days * 86400.0 * power(k.spread, CASE WHEN k.incident_days > 1000 THEN 1.7 ELSE 1.15 END)
               * CASE WHEN what IN ('detected', 'acknowledged', 'stabilized', 'reconciled') AND k.n % 4 <> 0 THEN 0.04 ELSE 1 END
               + pg_temp.pick(k.key || 'second', 40000) + 600)::double precision) AS age
    FROM kinds k
)
SELECT md5('incident ' || a.key)::uuid, a.org_n, a.n, e.id, e.name, a.what, a.age,
       least(a.age * 0.9, make_interval(secs => 3 * 3600 + pg_temp.pick(a.key || 'life', 9 * 86400)))
FROM ages a
JOIN sample_environments e
  ON e.org_n = a.org_n AND e.position = 1 + (pg_temp.pick(a.key || 'environment', 10) / 4) % a.environments;

INSERT INTO public.incidents
    (id, org_id, env_id, title, severity, status, owner, detected_at, acknowledged_at, stabilized_at, reconciled_at,
     closed_at, is_deleted, deleted_at, created_at, updated_at)
SELECT s.id, o.id, s.env_id,
       CASE pg_temp.pick(s.id::text, 7)
           WHEN 0 THEN format('%s changed in %s outside git', w.name, s.env_name)
           WHEN 1 THEN format('Hotfix on %s never merged', w.name)
           WHEN 2 THEN format('Credentials renamed on %s', w.name)
           WHEN 3 THEN format('%s is not in git', w.name)
           WHEN 4 THEN format('%s: timeout and retries edited by hand', w.name)
           WHEN 5 THEN format('%s and %s drifted from main', w.name, other.name)
           ELSE format('Node removed from %s (%s)', w.name, s.env_name) END,
       (ARRAY['low', 'medium', 'medium', 'high', 'critical', NULL])[1 + pg_temp.pick(s.id || 'severity', 6)],
       t.status,
       CASE WHEN t.status <> 'detected' OR s.n % 3 = 0
            THEN pg_temp.person(s.id || 'owner') || '@' || o.slug || '.example' END,
       t.detected, t.acknowledged, t.stabilized, t.reconciled, t.closed,
       s.n % 27 = 13, CASE WHEN s.n % 27 = 13 THEN t.updated END,
       t.detected, t.updated
FROM sample_incidents s
JOIN sample_organizations o ON o.n = s.org_n
JOIN sample_workflows w ON w.org_n = s.org_n AND w.i = s.n % 18
JOIN sample_workflows other ON other.org_n = s.org_n AND other.i = (s.n + 5) % 18
CROSS JOIN LATERAL pg_temp.lifecycle(s.kind, now() - s.age, s.life) AS t;

-- Changes that people make by hand in an n8n editor and not in git.
CREATE TEMP TABLE sample_changes (i int PRIMARY KEY, change jsonb) ON COMMIT DROP;
INSERT INTO sample_changes VALUES
    (0,  '{"change": "node_added", "node": {"name": "Wait 30 s", "type": "n8n-nodes-base.wait", "typeVersion": 1.1, "position": [820, 340], "parameters": {"amount": 30, "unit": "seconds"}}}'),
    (1,  '{"change": "parameter_changed", "node": {"name": "HTTP Request", "type": "n8n-nodes-base.httpRequest"}, "parameter": "options.timeout", "before": 10000, "after": 60000}'),
    (2,  '{"change": "parameter_changed", "node": {"name": "Schedule Trigger", "type": "n8n-nodes-base.scheduleTrigger"}, "parameter": "rule.interval[0].expression", "before": "0 */15 * * * *", "after": "0 0 * * * *"}'),
    (3,  '{"change": "credentials_renamed", "node": {"name": "NetSuite", "type": "n8n-nodes-base.httpRequest"}, "credential_type": "oAuth2Api", "before": "NetSuite prod", "after": "NetSuite prod (rotated)"}'),
    (4,  '{"change": "node_removed", "node": {"name": "Filter test orders", "type": "n8n-nodes-base.filter", "typeVersion": 2, "position": [440, 300]}}'),
    (5,  '{"change": "parameter_changed", "node": {"name": "Postgres", "type": "n8n-nodes-base.postgres"}, "parameter": "query", "before": "SELECT * FROM invoices WHERE synced_at IS NULL LIMIT 500", "after": "SELECT * FROM invoices WHERE synced_at IS NULL LIMIT 50"}'),
    (6,  '{"change": "node_disabled", "node": {"name": "Notify #finance-ops", "type": "n8n-nodes-base.slack"}, "before": false, "after": true}'),
    (7,  '{"change": "parameter_changed", "node": {"name": "IF amount > limit", "type": "n8n-nodes-base.if"}, "parameter": "conditions.number[0].value2", "before": 5000, "after": 25000}'),
    (8,  '{"change": "connection_changed", "node": {"name": "Merge", "type": "n8n-nodes-base.merge"}, "before": {"main": [["Enrich contact", 0], ["Webhook", 0]]}, "after": {"main": [["Webhook", 0]]}}'),
    (9,  '{"change": "parameter_changed", "node": {"name": "Code", "type": "n8n-nodes-base.code"}, "parameter": "jsCode", "before": "return items.filter(i => i.json.status === ''paid'');", "after": "// TEMP: month-end\nreturn items.filter(i => [''paid'', ''pending''].includes(i.json.status));"}'),
    (10, '{"change": "settings_changed", "setting": "errorWorkflow", "before": "Q8dLw2pXk0VtR5mN", "after": null}'),
    (11, '{"change": "credentials_renamed", "node": {"name": "Slack", "type": "n8n-nodes-base.slack"}, "credential_type": "slackOAuth2Api", "before": "Slack bot", "after": "Slack bot v2"}'),
    (12, '{"change": "parameter_changed", "node": {"name": "Retry", "type": "n8n-nodes-base.httpRequest"}, "parameter": "retryOnFail", "before": false, "after": true}');

INSERT INTO public.incident_payloads (incident_id, payload_json, created_at)
SELECT s.id,
       jsonb_build_object(
           'environment', s.env_name,
           'compared_at', i.detected_at,
           'git', jsonb_build_object('branch', 'main', 'commit', encode(sha256(s.id::text::bytea), 'hex')::varchar(40),
                                     'author', pg_temp.person(s.id || 'author'),
                                     'committed_at', i.detected_at - s.life - interval '2 days'),
           'summary', jsonb_build_object('workflows', jsonb_array_length(found.workflows),
                                         'node_changes', found.node_changes),
           'workflows', found.workflows),
       i.detected_at
FROM sample_incidents s
JOIN public.incidents i USING (id)
CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object(
               'id', w.id, 'n8n_id', w.n8n_id, 'name', w.name,
               'flag', CASE WHEN position = 3 OR position = 1 AND i.title LIKE '% is not in git' THEN 'not_in_git' ELSE 'modified' END,
               'version_id', md5(s.id || w.id)::uuid, 'edited_by', pg_temp.person(s.id || w.id),
               'nodes', node.changes) ORDER BY position) AS workflows,
           sum(jsonb_array_length(node.changes)) AS node_changes
    FROM generate_series(1, 1 + pg_temp.pick(s.id || 'workflows', 3)) AS position
    -- The first workflow is the one in the incident's title.
    JOIN sample_workflows w ON w.org_n = s.org_n AND w.i = (s.n + (position - 1) * 5) % 18
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(c.change ORDER BY k) AS changes
        FROM generate_series(0, pg_temp.pick(s.id || w.id, 4)) AS k
        -- The first change of the first workflow is the one in the title.
        JOIN sample_changes c ON c.i = (k * 4 + CASE position
            WHEN 1 THEN (ARRAY[7, 9, 3, 0, 1, 5, 4])[1 + pg_temp.pick(s.id::text, 7)]
            ELSE pg_temp.pick(w.id || s.id, 13) END) % 13
    ) AS node
) AS found
WHERE s.kind <> 'closed, payload lost';

-- Most incidents have one or two approvals. Pending ones were forgotten, some of them for years.
INSERT INTO public.approvals
    (id, org_id, incident_id, action, status, requested_by, decided_by, notes, created_at, decided_at)
SELECT md5('approval ' || s.id || nth)::uuid, o.id, s.id,
       (ARRAY['reconcile_to_git', 'promote_hotfix', 'rollback', 'accept_drift', 'extend_deadline'])[1 + d.dice % 5],
       d.status,
       pg_temp.person(s.id || 'owner') || '@' || o.slug || '.example',
       CASE WHEN d.status IN ('approved', 'rejected')
            THEN pg_temp.person(s.id || 'lead' || nth) || '@' || o.slug || '.example' END,
       CASE WHEN d.status = 'rejected' THEN (ARRAY['Merge it through a pull request first.', 'Not during month-end close.',
                                                   'Roll back instead, customers saw duplicates.'])[1 + d.dice % 3]
            WHEN d.status = 'approved' AND d.dice % 4 = 0 THEN 'Checked with the data team.' END,
       i.detected_at + s.life * 0.1 * nth,
       CASE WHEN d.status <> 'pending' THEN i.detected_at + s.life * (0.1 * nth + 0.05) END
FROM sample_incidents s
JOIN public.incidents i USING (id)
JOIN sample_organizations o ON o.n = s.org_n
CROSS JOIN LATERAL generate_series(1, pg_temp.pick(s.id || 'approvals', 3)) AS nth
CROSS JOIN LATERAL (
    SELECT dice, CASE WHEN dice < 58 THEN 'approved' WHEN dice < 76 THEN 'rejected'
                      WHEN dice < 86 THEN 'cancelled' ELSE 'pending' END AS status
    FROM (SELECT pg_temp.pick(s.id || 'decision' || nth, 100) AS dice) AS thrown
) AS d;

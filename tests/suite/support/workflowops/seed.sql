-- Tenants of every kind, each with rows on both sides of every plan's cutoffs. `expected.plans` says what a person reads
-- the plan of each to be; none: nobody can say, and nothing of it goes.

CREATE SCHEMA expected;
CREATE TABLE expected.plans (tenant_id uuid PRIMARY KEY, plan text);

INSERT INTO public.providers (name) VALUES ('n8n'), ('make'), ('zapier');
INSERT INTO public.plans (name, precedence)
VALUES ('free', 0), ('pro', 10), ('legacy', 15), ('agency', 20), ('enterprise', 30);
INSERT INTO public.provider_plans (provider_id, name)
SELECT p.id, n.name
FROM public.providers p
CROSS JOIN unnest(ARRAY['free', 'pro', 'agency', 'Agency_Plus', 'enterprise', 'legacy', 'bespoke']) AS n (name);

CREATE TEMP TABLE wanted (name text, plan text, subscriptions text[]);
-- A subscription: provider, plan, status, days from now to the start and the end of its period.
INSERT INTO wanted VALUES
    ('without a subscription', 'free', '{}'),
    ('on free', 'free', '{n8n free active -10 20}'),
    ('on pro', 'pro', '{n8n pro active -10 20}'),
    ('on pro, trialing', 'pro', '{n8n pro trialing -10 4}'),
    ('on pro, without a period', 'pro', '{n8n pro active - -}'),
    ('on agency', 'agency', '{n8n agency active -10 20}'),
    ('on agency, written otherwise', 'agency', '{n8n Agency_Plus active -10 20}'),
    ('on enterprise', 'enterprise', '{n8n enterprise active -10 20}'),
    ('on pro and on enterprise', 'enterprise', '{n8n enterprise trialing -10 20,make pro active -10 20}'),
    ('on free and on agency', 'agency', '{n8n free active -10 20,make agency active -10 20}'),
    ('no longer on pro', 'free', '{n8n pro canceled -10 20}'),
    ('on pro until yesterday', 'free', '{n8n pro active -31 -1}'),
    ('on pro from tomorrow', 'free', '{n8n pro active 1 31,make enterprise past_due -10 20}'),
    ('on an unknown plan', NULL, '{n8n legacy active -10 20}'),
    ('on a plan without precedence beside pro', NULL, '{n8n bespoke active -10 20,make pro active -10 20}'),
    ('on pro without any rows', 'pro', '{n8n pro active -10 20}');

INSERT INTO public.tenants (name, email) SELECT name, md5(name) || '@example.com' FROM wanted;
INSERT INTO expected.plans SELECT t.id, w.plan FROM wanted w JOIN public.tenants t USING (name);
INSERT INTO public.tenant_provider_subscriptions (tenant_id, provider_id, plan_id, status, current_period_start,
                                                  current_period_end)
SELECT t.id, p.id, pp.id, s.words[3], now() + nullif(s.words[4], '-')::int * interval '1 day',
       now() + nullif(s.words[5], '-')::int * interval '1 day'
FROM wanted w
JOIN public.tenants t USING (name)
CROSS JOIN LATERAL (SELECT string_to_array(line, ' ') AS words FROM unnest(w.subscriptions) AS line) s
JOIN public.providers p ON p.name = s.words[1]
JOIN public.provider_plans pp ON pp.provider_id = p.id AND pp.name = s.words[2];

INSERT INTO public.environments (tenant_id, n8n_name)
SELECT t.id, n.name
FROM public.tenants t
CROSS JOIN unnest(ARRAY['production', 'staging', 'abandoned', 'never checked']) AS n (name)
WHERE t.name <> 'on pro without any rows';
INSERT INTO public.environments (tenant_id, n8n_name) VALUES (NULL, 'of nobody');

-- Ages of checks: an hour before and after every cutoff, the newest in doubt, and those that are not yet.
INSERT INTO public.drift_check_history (tenant_id, environment_id, checked_at, drift_status, drifted_workflows)
SELECT e.tenant_id, e.id, now() - a.age,
       (ARRAY['IN_SYNC', 'DRIFT_DETECTED', 'UNKNOWN', 'NEW', 'GIT_UNAVAILABLE', 'ERROR'])[1 + a.n % 6], a.n % 4
FROM public.environments e
JOIN (SELECT 'production' AS n8n_name, d * interval '24 hours' + h * interval '1 hour' AS age, d + h AS n
      FROM unnest(ARRAY[7, 30, 90, 180]) AS d CROSS JOIN unnest(ARRAY[-1, 1]) AS h
      UNION ALL SELECT 'production', age, 1 FROM unnest(ARRAY['5 minutes', '400 days', '-3 hours']::interval[]) AS age
      -- Two at the same time are the newest: the key decides.
      UNION ALL SELECT 'staging', age::interval, n
                FROM unnest(ARRAY['200 days', '200 days', '201 days', '300 days']) WITH ORDINALITY AS s (age, n)
      -- One of the future protects nothing, and is kept.
      UNION ALL SELECT 'abandoned', age, 3 FROM unnest(ARRAY['1000 days', '-2 days']::interval[]) AS age) a
    USING (n8n_name);
-- Of a tenant, in an environment that is nobody's.
INSERT INTO public.drift_check_history (tenant_id, environment_id, checked_at, drift_status)
SELECT t.id, e.id, now() - age, 'IN_SYNC'
FROM public.tenants t, public.environments e, unnest(ARRAY['250 days', '251 days']::interval[]) AS age
WHERE t.name = 'on pro' AND e.n8n_name = 'of nobody';

INSERT INTO public.drift_check_workflow_flags (check_id, workflow_id, workflow_name, drift_flag)
SELECT c.id, gen_random_uuid(), 'Workflow ' || n, (ARRAY['DRIFTED', 'MISSING_IN_GIT', 'MISSING_IN_RUNTIME'])[n]
FROM public.drift_check_history c CROSS JOIN LATERAL generate_series(1, c.drifted_workflows) AS n;

-- Incidents: closed an hour before and after every cutoff, and all that may look closed and is not.
CREATE TEMP TABLE kinds (status text, closed_ago interval, stamped_ago interval, is_deleted boolean, stored text);
INSERT INTO kinds
SELECT 'closed', d * interval '24 hours' + h * interval '1 hour', NULL, false, stored
FROM unnest(ARRAY[180, 365, 2555]) AS d
CROSS JOIN unnest(ARRAY[-1, 1]) AS h
CROSS JOIN unnest(ARRAY['nowhere', 'inline', 'inline, one column', 'table', 'table, empty', 'both']) AS stored;
INSERT INTO kinds
SELECT k.*, s.stored
FROM (VALUES ('closed', NULL::interval, NULL::interval, false), ('closed', '-1 day', NULL, false),
             ('acknowledged', '4000 days', NULL, false), ('open', NULL, NULL, false),
             ('closed', '4000 days', NULL, true)) AS k
CROSS JOIN unnest(ARRAY['inline', 'table', 'both']) AS s (stored);
-- Stamped by a purge of long ago; some were written again since, when no trigger stood there.
INSERT INTO kinds
SELECT 'closed', '4000 days', '100 days', false, stored FROM unnest(ARRAY['nowhere', 'inline', 'table']) AS stored;

INSERT INTO public.drift_incidents (tenant_id, environment_id, status, title, closed_at, payload_purged_at, is_deleted,
                                    detected_at, created_at, updated_at, drift_snapshot, summary, affected_workflows)
SELECT e.tenant_id, e.id, k.status, k.stored, now() - k.closed_ago, now() - k.stamped_ago, k.is_deleted,
       now() - interval '4100 days', now() - interval '4100 days', now() - interval '90 days',
       CASE WHEN k.stored IN ('inline', 'both') THEN '{"nodes": [1, 2]}'::jsonb END,
       CASE WHEN k.stored IN ('inline', 'both') THEN '{"text": "three workflows drifted"}'::jsonb END,
       CASE WHEN k.stored LIKE 'inline%' THEN '[{"id": "wf_1"}]' ELSE '[]' END::jsonb
FROM public.environments e CROSS JOIN kinds k
WHERE e.n8n_name = 'production';
INSERT INTO public.incident_payloads (incident_id, summary)
SELECT i.id, CASE WHEN i.title <> 'table, empty' THEN '{"text": "an older copy"}'::jsonb END
FROM public.drift_incidents i
WHERE i.title IN ('table', 'table, empty', 'both');

-- Approvals of an incident that is closed, and of one that is not.
INSERT INTO public.drift_approvals (tenant_id, incident_id, approval_type, status, requested_by, created_at)
SELECT i.tenant_id, i.id, 'accept_drift', s.status, gen_random_uuid(),
       now() - d * interval '24 hours' - h * interval '1 hour'
FROM public.drift_incidents i
CROSS JOIN unnest(ARRAY['pending', 'approved', 'rejected', 'cancelled']) AS s (status)
CROSS JOIN unnest(ARRAY[180, 365, 2555]) AS d
CROSS JOIN unnest(ARRAY[-1, 1]) AS h
WHERE i.status IN ('closed', 'open') AND i.closed_at IS NULL AND i.title = 'both';
INSERT INTO public.approval_audit (approval_id, entry)
SELECT a.id, 'entry ' || n
FROM public.drift_approvals a
CROSS JOIN LATERAL generate_series(1, (hashtext(a.id::text) & 3)) AS n;

DROP TABLE wanted, kinds;

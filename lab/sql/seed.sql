-- chaos.seed
-- Organizations on every plan, and some on an unknown one, with rows on both sides of every window.

-- A random age: shortly before or after a window, in the future, or anywhere. It is in whole hours, so that many rows have
-- the same age.
CREATE FUNCTION chaos.age() RETURNS interval LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
    SELECT make_interval(hours => CASE
        WHEN dice < 0.08 THEN 0
        WHEN dice < 0.12 THEN -2
        WHEN dice < 0.60 THEN (ARRAY[7, 30, 90, 180, 365, 2555])[1 + floor(random() * 6)::int] * 24
                              + (ARRAY[-30, -1, 1, 2, 50])[1 + floor(random() * 5)::int]
        ELSE floor(random() * 400)::int * 24 + 12 END)
    FROM (SELECT random() AS dice) AS thrown
$$;

CREATE FUNCTION chaos.any_plan() RETURNS text LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
    SELECT (ARRAY['free', 'pro', ' Pro ', 'agency', 'agency+', 'AGENCY_PLUS', 'enterprise', 'Enterprise', 'pro', 'platinum'])
           [1 + floor(random() * 10)::int]
$$;

INSERT INTO public.organizations (name, plan)
SELECT 'Organization ' || n,
       (ARRAY['free', 'pro', 'agency', 'enterprise', 'Pro', 'agency+', ' enterprise', 'Agency_Plus', 'pro', 'platinum'])[1 + n % 10]
FROM generate_series(1, $1) AS n;

INSERT INTO public.environments (org_id, name)
SELECT o.id, e FROM public.organizations o, unnest(ARRAY['production', 'staging', 'forgotten']) AS e;

INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
SELECT e.org_id, e.id, now() - chaos.age(), 'drift'
FROM public.environments e, generate_series(1, 120) AS n
WHERE e.name <> 'forgotten' OR n < 4;

INSERT INTO public.workflow_drift_flags (check_id, workflow_id, flag)
SELECT c.id, 'workflow ' || f, 'modified' FROM public.drift_checks c, generate_series(1, (c.id % 3)::int) AS f;

INSERT INTO public.incidents (org_id, env_id, title, status, closed_at)
SELECT e.org_id, e.id, 'Incident ' || n,
       CASE WHEN n % 10 < 7 THEN 'closed' WHEN n % 10 = 7 THEN 'acknowledged' ELSE 'detected' END,
       -- Some open incidents were closed before, and some closed ones have no time.
       CASE WHEN n % 10 < 8 AND n % 20 <> 3 THEN now() - chaos.age() END
FROM public.environments e, generate_series(1, 40) AS n;

INSERT INTO public.incident_payloads (incident_id, payload_json)
SELECT id, '{"workflows": []}' FROM public.incidents WHERE title NOT LIKE '%5';

INSERT INTO public.approvals (org_id, incident_id, action, status, requested_by, created_at)
SELECT i.org_id, i.id, 'rollback', (ARRAY['approved', 'rejected', 'pending', 'cancelled'])[n], 'sam', now() - chaos.age()
FROM public.incidents i, generate_series(1, 4) AS n;

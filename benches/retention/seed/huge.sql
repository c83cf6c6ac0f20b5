-- bench.seed.huge
-- Small organizations with a hundred expired checks each, two flags on each of them, and ten payloads; beside them one
-- on the plan pro with as many expired checks as bench.huge says, without flags, in three environments.
CREATE TEMP TABLE bench_huge AS
SELECT gen_random_uuid() AS id, current_setting('bench.huge')::int AS expired WHERE current_setting('bench.huge')::int > 0;
INSERT INTO public.organizations (id, name, plan) SELECT id, 'Huge', 'pro' FROM bench_huge;
INSERT INTO bench_envs SELECT -1, id, position, gen_random_uuid() FROM bench_huge, generate_series(0, 2) position;
INSERT INTO public.environments (id, org_id, name)
SELECT id, org_id, 'environment ' || position FROM bench_envs WHERE org_n = -1;

INSERT INTO public.drift_checks (org_id, env_id, checked_at, status, modified_count, summary_json)
SELECT org_id, env_id, checked_at, 'drift', 2, jsonb_build_object('workflows', nth % 40, 'branch', 'main')
FROM (
    SELECT e.org_id, e.id AS env_id, nth, now() - interval '1 day' * (o.checks + 1 + random() * 30) AS checked_at
    FROM bench_orgs o JOIN bench_envs e ON e.org_n = o.n, generate_series(1, 100) nth
    UNION ALL
    SELECT e.org_id, e.id, nth, now() - interval '1 day' * (31 + random() * 150)
    FROM bench_huge h CROSS JOIN LATERAL generate_series(1, h.expired) nth
    JOIN bench_envs e ON e.org_n = -1 AND e.position = nth % 3
    UNION ALL
    SELECT org_id, id, 0, now() - interval '1 hour' FROM bench_envs
) made
ORDER BY checked_at;

INSERT INTO public.workflow_drift_flags (check_id, workflow_id, workflow_name, flag)
SELECT c.id, 'wf_' || c.id % 97 || '_' || f, 'Nightly sync ' || f, 'modified'
FROM public.drift_checks c, generate_series(1, 2) f
WHERE c.org_id NOT IN (SELECT id FROM bench_huge)
ORDER BY c.id, f;

-- The free plan has no rule for payloads: its organizations' stay.
CREATE TEMP TABLE bench_incidents AS
SELECT e.org_id, e.id AS env_id, gen_random_uuid() AS id,
       now() - interval '1 day' * (coalesce(o.closed, 100) + 1 + random() * 30) AS at
FROM bench_orgs o JOIN bench_envs e ON e.org_n = o.n, generate_series(1, 10);
INSERT INTO public.incidents (id, org_id, env_id, title, status, detected_at, closed_at, created_at, updated_at)
SELECT id, org_id, env_id, 'Drift in a workflow', 'closed', at - interval '6 days', at, at - interval '6 days', at
FROM bench_incidents
ORDER BY at;
INSERT INTO public.incident_payloads (incident_id, payload_json, created_at)
SELECT id, jsonb_build_object('diff', encode(public.gen_random_bytes(1000), 'hex')), at FROM bench_incidents ORDER BY at;

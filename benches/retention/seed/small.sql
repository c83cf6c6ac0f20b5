-- bench.seed.small
-- Organizations with a little of everything. One in ten is dormant: of each of its environments only the newest check is
-- left, long expired, which stays. Settings: bench.checks, of one organization; bench.flags, of a check; bench.due, of an
-- environment's checks: how many have expired within the last day. With none of these nothing is due; otherwise one
-- organization in five has incidents that have expired, too.

INSERT INTO public.drift_checks (org_id, env_id, checked_at, status, modified_count, summary_json)
SELECT org_id, env_id, checked_at, 'drift', 2, jsonb_build_object('workflows', k, 'branch', 'main')
FROM (
    SELECT e.org_id, e.id AS env_id, k,
           now() - interval '1 day' * CASE WHEN o.n % 10 = 0 THEN o.checks + 1 + random() * 100
                                           WHEN k <= s.due THEN o.checks + random()
                                           ELSE random() * (o.checks - 1) END AS checked_at
    FROM bench_orgs o
    JOIN bench_envs e ON e.org_n = o.n
    CROSS JOIN (SELECT current_setting('bench.due')::int AS due) s
    CROSS JOIN LATERAL generate_series(1, CASE WHEN o.n % 10 = 0 THEN 1
        ELSE s.due + current_setting('bench.checks')::int / current_setting('bench.envs')::int END) k
) made
ORDER BY checked_at;

INSERT INTO public.workflow_drift_flags (check_id, workflow_id, workflow_name, flag)
SELECT c.id, 'wf_' || c.id % 97 || '_' || f, 'Nightly sync ' || f, 'modified'
FROM public.drift_checks c, generate_series(1, current_setting('bench.flags')::int) f
ORDER BY c.id, f;

CREATE TEMP TABLE bench_incidents AS
SELECT e.org_id, e.id AS env_id, gen_random_uuid() AS id,
       now() - interval '1 day' * CASE WHEN current_setting('bench.due')::int > 0 AND o.n % 5 = 1
                                       THEN coalesce(o.closed, 300) + random()
                                       ELSE random() * (coalesce(o.closed, 300) - 8) END AS at
FROM bench_orgs o JOIN bench_envs e ON e.org_n = o.n;

INSERT INTO public.incidents (id, org_id, env_id, title, status, detected_at, closed_at, created_at, updated_at)
SELECT id, org_id, env_id, 'Drift in a workflow', 'closed', at - interval '6 days', at, at - interval '6 days', at
FROM bench_incidents
ORDER BY at;

INSERT INTO public.incident_payloads (incident_id, payload_json, created_at)
SELECT id, jsonb_build_object('diff', encode(public.gen_random_bytes(100), 'hex')), at FROM bench_incidents ORDER BY at;

INSERT INTO public.approvals (org_id, incident_id, action, status, requested_by, decided_by, created_at, decided_at)
SELECT org_id, id, 'reconcile_to_git', 'approved', 'dev@example.org', 'lead@example.org', at - interval '2 days', at
FROM bench_incidents
ORDER BY at;

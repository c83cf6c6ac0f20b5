-- bench.seed.loaded
-- Half of everything is expired by its plan's own window, at least a day past the cutoff; the rest is at least a day
-- before it. Rows stand on disk as time wrote them. Settings: bench.checks, bench.flags (of a check), bench.incidents.

-- In one organization of ten an environment is dormant: its newest check is expired, and stays.
INSERT INTO public.drift_checks
    (org_id, env_id, checked_at, status, modified_count, not_in_git_count, unknown_count, summary_json)
SELECT org_id, env_id, checked_at, (ARRAY['in_sync', 'drift', 'drift', 'unknown'])[1 + k % 4], k % 5, k % 3, k % 2,
       jsonb_build_object('workflows', k % 40, 'branch', 'main')
FROM (
    SELECT k, e.org_id, e.id AS env_id,
           now() - interval '1 day' * CASE
               WHEN CASE WHEN o.n % 10 = 0 AND e.position > 0 THEN e.position = 2 ELSE k / orgs % 2 = 0 END
               THEN o.checks + 1 + random() * (o.checks - 2)
               ELSE random() * (o.checks - 1) END AS checked_at
    FROM (SELECT current_setting('bench.orgs')::int AS orgs, current_setting('bench.checks')::int AS checks) size
    CROSS JOIN LATERAL generate_series(0, size.checks - 1) k
    JOIN bench_orgs o ON o.n = k % orgs
    JOIN bench_envs e ON e.org_n = o.n AND e.position = k / orgs / 2 % 3
) made
ORDER BY checked_at;

-- A clock that was ahead: such a check is kept, and protects nothing, not in a dormant environment either.
INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
SELECT org_id, id, now() + interval '2 days', 'unknown' FROM bench_envs WHERE org_n % 20 = 0 AND position <> 1;

INSERT INTO public.workflow_drift_flags (check_id, workflow_id, workflow_name, flag)
SELECT c.id, 'wf_' || c.id % 97 || '_' || f, 'Nightly sync ' || f, (ARRAY['modified', 'not_in_git', 'unknown'])[1 + f % 3]
FROM public.drift_checks c, generate_series(1, current_setting('bench.flags')::int) f
WHERE c.checked_at <= now()
ORDER BY c.id, f;

-- `aged`: days since it was closed, or last touched. The free plan has no rule, so of the others two in three are expired.
CREATE TEMP TABLE bench_incidents AS
SELECT k, k / orgs AS j, gen_random_uuid() AS id, o.id AS org_id, e.id AS env_id, due, kind,
       now() - interval '1 day' * CASE
           WHEN due THEN o.closed + 1 + random() * 300
           WHEN kind IN ('open', 'reopened') THEN coalesce(o.closed, 0) + 30 + random() * 300
           ELSE random() * least(coalesce(o.closed, 300) - 8, 300) END AS at
FROM (SELECT current_setting('bench.orgs')::int AS orgs, current_setting('bench.incidents')::int AS incidents) size
CROSS JOIN LATERAL generate_series(0, size.incidents - 1) k
JOIN bench_orgs o ON o.n = k % orgs
JOIN bench_envs e ON e.org_n = o.n AND e.position = k / orgs % 3
CROSS JOIN LATERAL (SELECT o.closed IS NOT NULL AND k / orgs % 3 <> 0 AS due,
                           CASE k / orgs % 15 WHEN 0 THEN 'open' WHEN 3 THEN 'reopened' WHEN 6 THEN 'time unknown'
                                              ELSE 'closed' END AS kind) what;

-- Some that are expired were purged before, and somebody wrote their payload again.
INSERT INTO public.incidents
    (id, org_id, env_id, title, severity, status, owner, detected_at, acknowledged_at, closed_at, payload_purged_at,
     created_at, updated_at)
SELECT id, org_id, env_id, 'Drift ' || k || ' in a workflow', (ARRAY['low', 'medium', 'high'])[1 + k % 3],
       CASE kind WHEN 'open' THEN 'detected' WHEN 'reopened' THEN 'acknowledged' ELSE 'closed' END, 'ops@example.org',
       at - interval '6 days', at - interval '5 days', CASE WHEN kind IN ('closed', 'reopened') THEN at END,
       CASE WHEN due AND j % 60 = 2 THEN timestamptz '2020-01-01' END, at - interval '6 days', at
FROM bench_incidents
ORDER BY at;

-- 2 kB that do not compress. Of some that are expired the payload is missing already.
INSERT INTO public.incident_payloads (incident_id, payload_json, created_at)
SELECT id, jsonb_build_object('workflows', k % 9, 'diff', encode(public.gen_random_bytes(1000), 'hex')), at
FROM bench_incidents
WHERE NOT (due AND j % 60 = 1)
ORDER BY at;

-- Two for each incident, asked for before it was closed. One in twenty was never decided, and stays.
INSERT INTO public.approvals
    (id, org_id, incident_id, action, status, requested_by, decided_by, notes, created_at, decided_at)
SELECT gen_random_uuid(), org_id, id, 'reconcile_to_git',
       CASE WHEN pending THEN 'pending' WHEN k % 4 = 0 THEN 'rejected' ELSE 'approved' END, 'dev@example.org',
       CASE WHEN NOT pending THEN 'lead@example.org' END, 'Checked with the data team.', created_at,
       CASE WHEN NOT pending THEN created_at + interval '1 hour' END
FROM (
    SELECT i.*, nth, (i.k * 2 + nth) % 20 = 0 AS pending, i.at - interval '1 day' * (nth * 1.5 + random()) AS created_at
    FROM bench_incidents i, generate_series(1, 2) nth
) made
ORDER BY created_at;

-- bench.seed.nights_day
-- A day's rows: all expire, each by its plan's own window, within bench.day seconds from bench.expires (seconds since
-- 1970). So a day passes in seconds, and the rows that go each night are the oldest on disk. Per organization sixty checks
-- with five flags each, and for those with a rule three closed incidents with a payload of 2 kB and two approvals each.
CREATE TEMP TABLE bench_day AS
SELECT e.org_id, e.id AS env_id, nth, o.closed, o.checks,
       to_timestamp(current_setting('bench.expires')::float8 + nth * current_setting('bench.day')::float8 / 61) AS expires
FROM generate_series(1, 60) nth, bench.orgs o JOIN bench.envs e ON e.org_n = o.n
WHERE e.position = nth % 2;

WITH made AS (
    INSERT INTO public.drift_checks (org_id, env_id, checked_at, status, modified_count, summary_json)
    SELECT org_id, env_id, expires - interval '1 day' * checks, 'drift', 2, jsonb_build_object('workflows', nth, 'branch', 'main')
    FROM bench_day ORDER BY nth
    RETURNING id
)
INSERT INTO public.workflow_drift_flags (check_id, workflow_id, workflow_name, flag)
SELECT id, 'wf_' || id % 97 || '_' || f, 'Nightly sync ' || f, 'modified' FROM made, generate_series(1, 5) f ORDER BY id, f;

CREATE TEMP TABLE bench_incidents AS
SELECT gen_random_uuid() AS id, org_id, env_id, expires - interval '1 day' * closed AS at
FROM bench_day WHERE closed IS NOT NULL AND nth % 20 = 0 ORDER BY nth;
INSERT INTO public.incidents (id, org_id, env_id, title, status, detected_at, closed_at, created_at, updated_at)
SELECT id, org_id, env_id, 'Drift in a workflow', 'closed', at - interval '6 days', at, at - interval '6 days', at
FROM bench_incidents;
INSERT INTO public.incident_payloads (incident_id, payload_json, created_at)
SELECT id, jsonb_build_object('diff', encode(public.gen_random_bytes(1000), 'hex')), at FROM bench_incidents;
INSERT INTO public.approvals (org_id, incident_id, action, status, requested_by, decided_by, created_at, decided_at)
SELECT org_id, id, 'reconcile_to_git', 'approved', 'dev@example.org', 'lead@example.org', at, at + interval '1 hour'
FROM bench_incidents, generate_series(1, 2);

DROP TABLE bench_day, bench_incidents;

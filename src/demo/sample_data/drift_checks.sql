-- demo.sample_data.drift_checks
-- Production is checked every three hours, other environments less often. Drift comes in episodes of five days. During
-- an episode each check finds the same workflows again, and more over time.

CREATE TEMP TABLE sample_checks (
    id bigint, env_id uuid, org_id uuid, org_n int, checked_at timestamptz, first_workflow int, flags int, unreachable boolean)
    ON COMMIT DROP;

INSERT INTO sample_checks
WITH rhythm AS (
    SELECT e.id, e.org_n, o.id AS org_id, e.history, e.name,
           (ARRAY[3, 6, 12, 24, 24])[e.position] AS hours,
           p.check_days AS days,
           CASE e.history WHEN 'paused' THEN p.check_days / 3 ELSE 0 END AS days_since_last
    FROM sample_environments e
    JOIN sample_organizations o ON o.n = e.org_n
    JOIN sample_plans p USING (tier)
), moments AS (
    -- The scheduler starts on time; each check takes a few seconds.
    SELECT r.id, r.org_id, r.org_n, now()
           - make_interval(days => r.days_since_last, mins => pg_temp.pick(r.id::text, r.hours * 60 - 1) + 1)
           - tick * make_interval(hours => r.hours)
           - make_interval(secs => ((tick * 7919 + r.org_n * 104729) % 59000) / 1000.0) AS checked_at
    FROM rhythm r, generate_series(0, (r.days - r.days_since_last) * 24 / r.hours) AS tick
    WHERE r.history IN ('regular', 'paused', 'two newest checks at once')
    UNION ALL
    -- Two schedulers once ran side by side: two checks have the same time, and none is newer.
    SELECT r.id, r.org_id, r.org_n, now() - interval '9 seconds'
    FROM rhythm r, generate_series(1, 2)
    WHERE r.history = 'two newest checks at once'
    UNION ALL
    -- The environment was connected once and then forgotten.
    SELECT r.id, r.org_id, r.org_n, now() - interval '731 days 4 hours'
    FROM rhythm r
    WHERE r.history = 'one check, two years old'
), episodes AS MATERIALIZED (
    SELECT m.*, age / 5 AS episode, 4 - age % 5 AS day,
           pg_temp.pick(m.id || '~' || age / 5, 1000) AS dice
    FROM (SELECT *, extract(epoch FROM now() - checked_at)::int / 86400 AS age FROM moments) m
)
SELECT row_number() OVER (ORDER BY checked_at, id), id, org_id, org_n, checked_at, dice % 18,
       CASE WHEN dice % 100 < 40 THEN least(1 + dice % 3 + day / 2, 6)
            WHEN dice % 100 < 43 THEN 1 + dice % 2
            ELSE 0 END,
       dice % 100 BETWEEN 40 AND 42
FROM episodes;

-- Checking three hundred thousand references takes as long as everything else, and each row is made from the rows that
-- it refers to. A role that may not switch the checks off waits a little longer.
SELECT set_config('session_replication_role', 'replica', true)
FROM pg_roles WHERE rolname = current_user AND rolsuper;

-- The counts match the flags below.
INSERT INTO public.drift_checks
    (id, org_id, env_id, checked_at, status, modified_count, not_in_git_count, unknown_count, summary_json)
OVERRIDING SYSTEM VALUE
SELECT id, org_id, env_id, checked_at,
       CASE WHEN unreachable THEN 'unknown' WHEN flags > 0 THEN 'drift' ELSE 'in_sync' END,
       CASE WHEN unreachable THEN 0 ELSE (flags + 1) / 2 END,
       CASE WHEN unreachable THEN 0 ELSE flags / 2 END,
       CASE WHEN unreachable THEN flags ELSE 0 END,
       CASE WHEN unreachable THEN jsonb_build_object('workflows_compared', 18 - flags, 'error', 'n8n API timed out after 30 s')
            WHEN flags > 0 THEN jsonb_build_object('workflows_compared', 18, 'git_branch', 'main',
                                                   'git_commit', left(md5(org_n || '@' || first_workflow), 7))
       END
FROM sample_checks
ORDER BY id;

SELECT setval(pg_get_serial_sequence('public.drift_checks', 'id'), max(id)) FROM sample_checks;

-- The flags of every check: one per counted workflow, in the order modified, not in git, unknown.
INSERT INTO public.workflow_drift_flags (check_id, workflow_id, workflow_name, flag)
SELECT c.id, w.id,
       -- The name of a workflow that could not be read is unknown.
       CASE WHEN NOT c.unreachable THEN w.name END,
       CASE WHEN c.unreachable THEN 'unknown' WHEN f <= (c.flags + 1) / 2 THEN 'modified' ELSE 'not_in_git' END
FROM sample_checks c
CROSS JOIN LATERAL generate_series(1, c.flags) AS f
JOIN sample_workflows w ON w.org_n = c.org_n AND w.i = (c.first_workflow + f) % 18
ORDER BY c.id, w.id;

SELECT set_config('session_replication_role', 'origin', true)
FROM pg_roles WHERE rolname = current_user AND rolsuper;

-- bench.seed.plans
-- What every seed begins with: a faster way in (the rows are valid as they are), organizations on the four plans in
-- turn, and their environments. Settings: bench.orgs, bench.envs.
SET session_replication_role = replica;
SET work_mem = '512MB';

CREATE TEMP TABLE bench_orgs AS
SELECT n, gen_random_uuid() AS id, CASE WHEN n % 8 = 2 THEN 'agency+' ELSE plan END AS plan,
       checks, -- the plan's windows, in days
       closed
FROM generate_series(0, current_setting('bench.orgs')::int - 1) n
JOIN (VALUES (0, 'free', 7, NULL), (1, 'pro', 30, 180), (2, 'agency', 90, 365), (3, 'enterprise', 180, 2555))
    AS plans (place, plan, checks, closed) ON place = n % 4;

CREATE TEMP TABLE bench_envs AS
SELECT o.n AS org_n, o.id AS org_id, position, gen_random_uuid() AS id
FROM bench_orgs o, generate_series(0, current_setting('bench.envs')::int - 1) position;
ANALYZE bench_orgs, bench_envs;

INSERT INTO public.organizations (id, name, plan, created_at)
SELECT id, 'Organization ' || n, plan, now() - interval '9 years' FROM bench_orgs;
INSERT INTO public.environments (id, org_id, name, created_at)
SELECT id, org_id, (ARRAY['production', 'staging', 'development'])[1 + position % 3], now() - interval '9 years'
FROM bench_envs;

-- bench.bound
-- The windows of the plans that have a rule, and the newest check of each environment that is not dated in the future.
CREATE TEMP VIEW check_windows AS
    SELECT o.id AS org_id, now() - make_interval(days => w.days) AS cutoff
    FROM public.organizations o
    JOIN (VALUES ('free', 7), ('pro', 30), ('agency', 90), ('agency+', 90), ('agency_plus', 90), ('enterprise', 180))
        AS w (plan, days) ON w.plan = lower(btrim(o.plan));
CREATE TEMP VIEW closed_windows AS
    SELECT o.id AS org_id, now() - make_interval(days => w.days) AS cutoff
    FROM public.organizations o
    JOIN (VALUES ('pro', 180), ('agency', 365), ('agency+', 365), ('agency_plus', 365), ('enterprise', 2555))
        AS w (plan, days) ON w.plan = lower(btrim(o.plan));
CREATE TEMP VIEW newest_checks AS
    SELECT e.id AS env_id, n.id, n.checked_at
    FROM public.environments e
    CROSS JOIN LATERAL (
        SELECT c.id, c.checked_at FROM public.drift_checks c
        WHERE c.env_id = e.id AND c.checked_at <= now()
        ORDER BY c.checked_at DESC, c.id DESC LIMIT 1) n;

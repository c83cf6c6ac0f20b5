-- bench.verify.rows
-- Count and checksum of each table, whatever the order of its rows. `{before}` is replaced: true before a purge, where the rules decide,
-- row by row, and false afterwards, where all that is there counts. No other column of an incident may change than its stamp.
WITH windows (plan, checks, closed) AS (
    VALUES ('free', interval '7 days', NULL::interval),
           ('pro', interval '30 days', interval '180 days'),
           ('agency', interval '90 days', interval '365 days'),
           ('agency+', interval '90 days', interval '365 days'),
           ('agency_plus', interval '90 days', interval '365 days'),
           ('enterprise', interval '180 days', interval '2555 days')
), ruled AS MATERIALIZED (
    SELECT o.id, now() - w.checks AS checks_cutoff, now() - w.closed AS closed_cutoff
    FROM public.organizations o LEFT JOIN windows w ON w.plan = lower(btrim(o.plan))
), checks AS (
    SELECT c.*, {before} AND c.checked_at < r.checks_cutoff AND EXISTS (
               SELECT FROM public.drift_checks n
               WHERE n.env_id = c.env_id AND n.checked_at <= now()
                 AND (n.checked_at > c.checked_at OR n.checked_at = c.checked_at AND n.id > c.id)) AS goes
    FROM public.drift_checks c JOIN ruled r ON r.id = c.org_id
), closed AS (
    SELECT i.*, {before} AND i.status = 'closed' AND i.closed_at < r.closed_cutoff AS goes
    FROM public.incidents i JOIN ruled r ON r.id = i.org_id
)
SELECT 'drift_checks' AS name, count(*) AS rows,
       coalesce(sum(hashtext(ROW(id, env_id, checked_at, status, summary_json)::text)::bigint), 0)::bigint AS checksum
FROM checks WHERE goes IS NOT TRUE
UNION ALL
SELECT 'workflow_drift_flags', count(*), coalesce(sum(hashtext(f::text)::bigint), 0)::bigint
FROM public.workflow_drift_flags f JOIN checks c ON c.id = f.check_id WHERE c.goes IS NOT TRUE
UNION ALL
SELECT 'incident_payloads', count(*), coalesce(sum(hashtext(p.incident_id::text)::bigint), 0)::bigint
FROM public.incident_payloads p JOIN closed i ON i.id = p.incident_id WHERE i.goes IS NOT TRUE
UNION ALL
SELECT 'approvals', count(*), coalesce(sum(hashtext(a::text)::bigint), 0)::bigint
FROM public.approvals a JOIN public.incidents i ON i.id = a.incident_id JOIN ruled r ON r.id = a.org_id
WHERE ({before} AND a.created_at < r.closed_cutoff AND a.status <> 'pending' AND i.status = 'closed') IS NOT TRUE
UNION ALL
SELECT 'incidents but for their stamp', count(*),
       coalesce(sum(hashtext((to_jsonb(i) - 'payload_purged_at')::text)::bigint), 0)::bigint
FROM public.incidents i
UNION ALL
SELECT 'incidents stamped', count(*), coalesce(sum(hashtext(id::text)::bigint), 0)::bigint
FROM closed WHERE goes OR payload_purged_at IS NOT NULL
UNION ALL
SELECT 'first stamps', count(*), coalesce(sum(hashtext(id::text)::bigint), 0)::bigint
FROM public.incidents WHERE payload_purged_at = timestamptz '2020-01-01'
UNION ALL
SELECT 'organizations', count(*), coalesce(sum(hashtext(o::text)::bigint), 0)::bigint FROM public.organizations o
UNION ALL
SELECT 'environments', count(*), coalesce(sum(hashtext(e::text)::bigint), 0)::bigint FROM public.environments e

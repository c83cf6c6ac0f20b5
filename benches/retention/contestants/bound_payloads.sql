-- bench.bound.payloads
WITH expired AS MATERIALIZED (
    SELECT i.id, i.payload_purged_at
    FROM public.incidents i JOIN closed_windows w ON w.org_id = i.org_id
    WHERE i.status = 'closed' AND i.closed_at < w.cutoff
), gone AS (
    DELETE FROM public.incident_payloads p USING expired e WHERE p.incident_id = e.id
)
UPDATE public.incidents i SET payload_purged_at = now()
FROM expired e
WHERE i.id = e.id AND e.payload_purged_at IS NULL

-- bench.bound.approvals
DELETE FROM public.approvals a
USING closed_windows w, public.incidents i
WHERE w.org_id = a.org_id AND a.created_at < w.cutoff AND a.status <> 'pending'
  AND i.id = a.incident_id AND i.status = 'closed'

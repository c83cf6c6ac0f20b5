-- bench.bound.checks
DELETE FROM public.drift_checks c
USING check_windows w, newest_checks n
WHERE w.org_id = c.org_id AND c.checked_at < w.cutoff
  AND n.env_id = c.env_id AND (c.checked_at, c.id) < (n.checked_at, n.id)

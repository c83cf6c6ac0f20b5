-- Moves every payload back to its incident. `drift_summary_at` keeps the time when the payload was written, so that
-- applying the migration again restores the row exactly.

ALTER TABLE public.incidents
    ADD COLUMN drift_summary jsonb,
    ADD COLUMN drift_summary_at timestamptz;

UPDATE public.incidents i
SET drift_summary = p.payload_json, drift_summary_at = p.created_at
FROM public.incident_payloads p
WHERE p.incident_id = i.id;

DROP TABLE public.incident_payloads;

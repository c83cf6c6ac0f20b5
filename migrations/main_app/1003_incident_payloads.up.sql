-- Payloads move from the incident to a row of their own, so that they can go while the incident stays.

CREATE TABLE public.incident_payloads (
    incident_id  uuid PRIMARY KEY REFERENCES public.incidents (id) ON DELETE CASCADE,
    payload_json jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.incident_payloads IS 'drift-retention: reference main app';

-- `drift_summary_at` is there only after a step back.
ALTER TABLE public.incidents
    ADD COLUMN IF NOT EXISTS drift_summary jsonb,
    ADD COLUMN IF NOT EXISTS drift_summary_at timestamptz;

INSERT INTO public.incident_payloads (incident_id, payload_json, created_at)
SELECT id, drift_summary, coalesce(drift_summary_at, created_at)
FROM public.incidents
WHERE drift_summary IS NOT NULL;

ALTER TABLE public.incidents
    DROP COLUMN drift_summary,
    DROP COLUMN drift_summary_at;

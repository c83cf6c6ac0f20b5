-- Moves payloads from the incident to their own table, so that a payload can be deleted while its incident stays.

CREATE TABLE public.incident_payloads (
    incident_id  uuid PRIMARY KEY REFERENCES public.incidents (id) ON DELETE CASCADE,
    payload_json jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.incident_payloads IS 'drift-retention: reference main app';

-- `drift_summary_at` exists only if this migration was undone before.
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

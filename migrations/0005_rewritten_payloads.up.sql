-- A payload written again after its incident was purged goes on the next run. This table names those incidents,
-- so that no run has to look through every incident it ever stamped.

CREATE TABLE retention.rewritten_payloads (
    incident_id uuid PRIMARY KEY REFERENCES public.incidents (id) ON DELETE CASCADE,
    org_id      uuid NOT NULL
);
CREATE INDEX rewritten_payloads_org_idx ON retention.rewritten_payloads (org_id, incident_id);

CREATE FUNCTION retention.note_rewritten_payload() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    incident record;
BEGIN
    -- The lock waits for a purge that is stamping this incident right now, and then reads its stamp.
    SELECT i.org_id, i.payload_purged_at INTO incident
    FROM public.incidents i WHERE i.id = NEW.incident_id FOR KEY SHARE;
    IF incident.payload_purged_at IS NOT NULL THEN
        INSERT INTO retention.rewritten_payloads (incident_id, org_id)
        VALUES (NEW.incident_id, incident.org_id)
        ON CONFLICT (incident_id) DO NOTHING;
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER note_rewritten_payload
    AFTER INSERT OR UPDATE OF incident_id ON public.incident_payloads
    FOR EACH ROW EXECUTE FUNCTION retention.note_rewritten_payload();
-- Replicated and restored rows count as well.
ALTER TABLE public.incident_payloads ENABLE ALWAYS TRIGGER note_rewritten_payload;

-- Those that were there before the trigger.
INSERT INTO retention.rewritten_payloads (incident_id, org_id)
SELECT i.id, i.org_id
FROM public.incidents i JOIN public.incident_payloads p ON p.incident_id = i.id
WHERE i.payload_purged_at IS NOT NULL;

DROP TRIGGER IF EXISTS note_rewritten_payload ON public.incident_payloads;
DROP FUNCTION retention.note_rewritten_payload();
DROP TABLE retention.rewritten_payloads;

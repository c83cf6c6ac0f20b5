DROP FUNCTION retention.mapping_fingerprint();
DROP FUNCTION retention.first_check_key();
DROP FUNCTION retention.erase_payloads(uuid[]);
DROP FUNCTION retention.note_rewritten_payload();
DROP TABLE retention.rewritten_search;
DROP TABLE retention.rewritten_payloads;

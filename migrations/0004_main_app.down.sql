DROP FUNCTION retention.mapping_fingerprint();
DROP FUNCTION retention.first_check_key();
DROP FUNCTION retention.erase_payloads(uuid[]);
DROP FUNCTION retention.note_rewritten_payload();
DROP FUNCTION retention.payloads_in_doubt(oid[]);
DROP FUNCTION retention.payload_tables_state(oid[]);
DROP TABLE retention.rewritten_search;
DROP TABLE retention.rewritten_payloads;

DROP FUNCTION retention.pressure(oid[], text[]);

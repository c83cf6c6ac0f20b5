DROP FUNCTION retention.pressure(oid[]);

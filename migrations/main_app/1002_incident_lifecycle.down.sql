-- The columns stay: closed_at, is_deleted, deleted_at and payload_purged_at hold facts that exist nowhere else.
SELECT 1;

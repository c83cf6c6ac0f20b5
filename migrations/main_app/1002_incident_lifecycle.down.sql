-- The columns stay: closed_at, is_deleted, deleted_at and payload_purged_at hold facts found nowhere else.
SELECT 1;

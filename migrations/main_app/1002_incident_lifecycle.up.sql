-- The facts about an incident that retention needs. Undoing this migration keeps the columns, because they hold facts
-- that exist nowhere else, and applying it again reuses them. An incident that was closed before `closed_at` existed
-- keeps a null there and is never purged, because its time of closing is unknown.

ALTER TABLE public.incidents
    ADD COLUMN IF NOT EXISTS closed_at         timestamptz,
    ADD COLUMN IF NOT EXISTS is_deleted        boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS deleted_at        timestamptz,
    ADD COLUMN IF NOT EXISTS payload_purged_at timestamptz;

-- What retention needs to know of an incident. The columns outlive a step back (they hold facts found nowhere else) and
-- are taken as they are on the way up again. An incident closed before `closed_at` existed keeps it null, and so is never
-- purged: nobody guesses when it was closed.

ALTER TABLE public.incidents
    ADD COLUMN IF NOT EXISTS closed_at         timestamptz,
    ADD COLUMN IF NOT EXISTS is_deleted        boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS deleted_at        timestamptz,
    ADD COLUMN IF NOT EXISTS payload_purged_at timestamptz;

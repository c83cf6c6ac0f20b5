-- What retention needs beside the mapping (schema main_app), which the main app's owner writes. No function here is bound
-- to the mapping when it is created: `migrate up` works before there is one.

-- Incidents whose payload was written again after a purge. It goes on the next run, and no run has to look through every
-- incident that was ever stamped. No foreign key: nothing of ours stands on a table of the main app.
CREATE TABLE retention.rewritten_payloads (
    incident_id uuid PRIMARY KEY,
    org_id      uuid NOT NULL
);
CREATE INDEX rewritten_payloads_org_idx ON retention.rewritten_payloads (org_id, incident_id);

-- How far the search for payloads that no trigger noted has come: some stamped incidents a minute, by id, and again from the
-- first one.
CREATE TABLE retention.rewritten_search (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row), -- there is one
    after_incident uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    -- `retention.payload_tables_state` when this search began at the first incident.
    begun_state    text,
    -- The state in which a search has come to its end: what was written since then, the trigger has noted. Null: none has.
    noted_state    text
);
INSERT INTO retention.rewritten_search DEFAULT VALUES;

-- Changes when the trigger on a table that holds payloads is disabled and enabled, dropped and created, and when the table is
-- truncated or written anew: what a restore does to go past the trigger. Null: on one of the tables no trigger notes every write.
CREATE FUNCTION retention.payload_tables_state(tables oid[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT CASE WHEN bool_and(n.triggers IS NOT NULL)
                        THEN md5(string_agg(concat_ws(':', c.oid, c.relfilenode, n.triggers), ' ' ORDER BY c.oid)) END
            FROM pg_class c
            CROSS JOIN LATERAL (
                SELECT string_agg(concat_ws(':', t.oid, t.xmin), ' ' ORDER BY t.oid) AS triggers FROM pg_trigger t
                WHERE t.tgrelid = c.oid AND t.tgfoid = to_regproc('retention.note_rewritten_payload')
                  -- For each row, after INSERT and UPDATE. Whether its columns and its condition leave out no payload is up to
                  -- who wrote them.
                  AND t.tgenabled = 'A' AND t.tgtype & 23 = 21) n
            -- A table that inherits from one of them shows its rows there, and has triggers of its own.
            WHERE c.oid = ANY (tables)
               OR EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = c.oid AND h.inhparent = ANY (tables)));
END;
$$;

-- Whether payloads may have been written past the trigger since the last whole search: then stamped incidents are looked at one
-- by one.
CREATE FUNCTION retention.payloads_in_doubt(tables oid[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state text := retention.payload_tables_state(tables);
BEGIN
    RETURN state IS NULL OR state IS DISTINCT FROM (SELECT s.noted_state FROM retention.rewritten_search s);
END;
$$;
REVOKE ALL ON FUNCTION retention.payload_tables_state(oid[]), retention.payloads_in_doubt(oid[]) FROM PUBLIC;

-- A row trigger for the table that holds payloads: AFTER INSERT OR UPDATE, ENABLE ALWAYS. Its argument names the column
-- with the incident's id.
CREATE FUNCTION retention.note_rewritten_payload() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    incident uuid;
    org uuid;
    purged_at timestamptz;
BEGIN
    -- Without a mapping, or the right to read it, nothing is noted, and the main app's write must not fail. Runs are told not to
    -- trust the notes until a search has looked at all incidents.
    IF to_regnamespace('main_app') IS NULL OR NOT has_schema_privilege('main_app', 'USAGE')
       OR to_regclass('main_app.incidents') IS NULL OR to_regclass('main_app.incident_payloads') IS NULL THEN
        UPDATE retention.rewritten_search SET noted_state = NULL, begun_state = NULL
        WHERE noted_state IS NOT NULL OR begun_state IS NOT NULL;
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT ($1).%I', TG_ARGV[0]) INTO incident USING NEW;
    -- The lock waits for a purge that is stamping this incident right now, and then reads its stamp.
    SELECT i.org_id, i.payload_purged_at INTO org, purged_at
    FROM main_app.incidents i WHERE i.id = incident FOR KEY SHARE;
    -- Whoever empties the columns of an incident writes no payload.
    IF purged_at IS NOT NULL
       AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = incident) THEN
        INSERT INTO retention.rewritten_payloads AS w (incident_id, org_id) VALUES (incident, org)
        ON CONFLICT (incident_id) DO UPDATE SET org_id = EXCLUDED.org_id WHERE w.org_id <> EXCLUDED.org_id;
    END IF;
    RETURN NULL;
END;
$$;
REVOKE ALL ON FUNCTION retention.note_rewritten_payload() FROM PUBLIC;

-- Erases the payloads of incidents that the caller has locked. It proves that readers see none of them any more, and that
-- the count is right.
CREATE FUNCTION retention.erase_payloads(incident_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expected bigint;
    erased bigint;
    visible bigint;
BEGIN
    SELECT count(*) INTO expected FROM unnest(incident_ids) AS i (id)
    WHERE EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = i.id);
    erased := main_app.erase_payloads(incident_ids);
    SELECT count(*) INTO visible FROM unnest(incident_ids) AS i (id)
    WHERE EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = i.id);
    IF visible > 0 THEN
        RAISE EXCEPTION 'main_app.erase_payloads left the payloads of % incidents in main_app.incident_payloads, although nobody holds them (triggers before a deletion there: %)',
                visible,
                (SELECT coalesce(string_agg(DISTINCT format('%I on %s', t.tgname, t.tgrelid::regclass), ', '), 'none')
                 FROM pg_rewrite r
                 JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
                 JOIN pg_trigger t ON t.tgrelid = d.refobjid
                 WHERE r.ev_class = to_regclass('main_app.incident_payloads')
                   AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 11 = 11)
            USING ERRCODE = 'DR001', HINT = 'Correct the function, or drop the trigger, then run `drift-retention attach check`.';
    END IF;
    IF erased IS DISTINCT FROM expected THEN
        RAISE EXCEPTION 'main_app.erase_payloads says that % of % incidents had a payload, and % had one',
                coalesce(erased::text, 'null'), cardinality(incident_ids), expected
            USING ERRCODE = 'DR001', HINT = 'It must return how many of the incidents had a payload.';
    END IF;
    RETURN erased;
END;
$$;

-- The smallest key that a drift check can have: where a sweep begins.
CREATE FUNCTION retention.first_check_key() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT CASE t.typbasetype
                       WHEN 'bigint'::regtype THEN '-9223372036854775808'
                       WHEN 'integer'::regtype THEN '-2147483648'
                       WHEN 'uuid'::regtype THEN '00000000-0000-0000-0000-000000000000'
                       ELSE ''
                   END
            FROM pg_type t WHERE t.oid = to_regtype('main_app.check_key'));
END;
$$;

-- Changes when somebody changes a view, a function or the domain of the mapping, or what goes along with the rows of a table
-- behind it: a foreign key that cascades. A process compares it with that of the mapping it has checked, in every
-- transaction that purges or verifies. Rights do not count: granting them changes no row that goes.
CREATE FUNCTION retention.mapping_fingerprint() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mapping oid := to_regnamespace('main_app');
BEGIN
    -- A session that skips triggers skips foreign keys too: flags would stay without their check, and nobody would count them.
    IF current_setting('session_replication_role') = 'replica' THEN
        RAISE EXCEPTION 'session_replication_role is replica for this session: foreign keys and triggers would not run'
            USING ERRCODE = 'DR001', HINT = 'Reset session_replication_role (ALTER ROLE or ALTER DATABASE), then start again.';
    END IF;
    RETURN md5(concat_ws(' ',
        (SELECT string_agg(concat_ws(':', c.relname, c.oid, c.relkind, c.relowner, c.reloptions, c.relhastriggers, r.oid, r.xmin), ' '
                           ORDER BY c.relname, r.oid)
         FROM pg_class c LEFT JOIN pg_rewrite r ON r.ev_class = c.oid
         WHERE c.relnamespace = mapping
           AND c.relname IN ('organizations', 'environments', 'drift_checks', 'workflow_drift_flags', 'incidents',
                             'incident_payloads', 'approvals')),
        (SELECT string_agg(concat_ws(':', p.proname, p.oid, p.proowner, p.prosecdef, p.provolatile, p.prolang, p.proconfig,
                                     hashtextextended(concat(p.prosrc, p.prosqlbody), 0)), ' ' ORDER BY p.proname, p.oid)
         FROM pg_proc p
         WHERE p.pronamespace = mapping AND p.proname IN ('lock_plan', 'erase_payloads')),
        -- A column that is renamed changes nothing else.
        (SELECT string_agg(concat_ws(':', a.attnum, a.attname, a.atttypid), ' ' ORDER BY a.attrelid, a.attnum)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
         WHERE c.relnamespace = mapping
           AND c.relname IN ('organizations', 'environments', 'drift_checks', 'workflow_drift_flags', 'incidents',
                             'incident_payloads', 'approvals')),
        (SELECT concat_ws(':', t.oid, t.typbasetype, t.typcollation)
         FROM pg_type t WHERE t.typnamespace = mapping AND t.typname = 'check_key'),
        -- Postgres's own triggers on the referenced table are what carries a foreign key out. They are found by an index,
        -- which foreign keys to a table are not. A trigger before a deletion may keep the row.
        (SELECT string_agg(DISTINCT concat_ws(':', t.oid, t.tgfoid, t.tgenabled), ' ')
         FROM pg_class c
         JOIN pg_rewrite r ON r.ev_class = c.oid
         JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
         JOIN pg_trigger t ON t.tgrelid = d.refobjid AND t.tgtype & 8 = 8 AND (t.tgisinternal OR t.tgtype & 2 = 2)
         WHERE c.relnamespace = mapping
           AND c.relname IN ('drift_checks', 'workflow_drift_flags', 'incident_payloads', 'approvals'))));
END;
$$;

REVOKE ALL ON FUNCTION retention.erase_payloads(uuid[]), retention.first_check_key(), retention.mapping_fingerprint()
FROM PUBLIC;

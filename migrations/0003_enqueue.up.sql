-- The one enqueue path: scheduler, API, command line, replay, retry and the main app's own SQL all end here.
-- An apalis job is one delivery of a run: its payload is `{"run_id": ...}` and nothing else.

-- Delivers runs to the queue, each for when it is due, the urgent ones first. A job of a run that was attempted before has
-- `attempts` 1: no worker takes it together with others. Must stand in the transaction that made, or changed, the runs.
CREATE FUNCTION retention.deliver(run_ids uuid[], trace_context text DEFAULT NULL)
RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH addressed AS (
        UPDATE retention.purge_runs r SET delivery_id = apalis.generate_ulid()
        WHERE r.id = ANY (deliver.run_ids)
        RETURNING r.id, r.delivery_id, greatest(now(), r.next_attempt_at) AS due_at, r.urgent, r.attempts
    )
    INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, metadata)
    SELECT a.delivery_id, 'drift-retention.purge', convert_to(json_build_object('run_id', a.id)::text, 'UTF8'),
           'Pending', least(a.attempts, 1), 1, a.due_at, CASE WHEN a.urgent THEN 10 ELSE 0 END,
           -- An hstore, built without its name: the extension may stand in any schema.
           CASE WHEN deliver.trace_context IS NOT NULL
                THEN (jsonb_populate_record(NULL::apalis.jobs, jsonb_build_object(
                         'metadata', format('"apalis_core.tracing.context"=>%s', to_json(deliver.trace_context))))).metadata
           END
    FROM addressed a;
$$;

-- Whether a worker of the queue has been silent for longer than the lease: then others may take over what it holds.
CREATE FUNCTION retention.worker_is_silent(worker text, lease interval)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (SELECT FROM apalis.workers w
                       WHERE w.id = worker_is_silent.worker AND w.last_seen > now() - worker_is_silent.lease)
$$;

-- Acknowledges the deliveries of cancelled runs. Returns the runs whose cancellation nobody has reported yet.
CREATE FUNCTION retention.acknowledge_cancelled(run_ids uuid[])
RETURNS TABLE (run_id uuid, trigger text) LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE apalis.jobs j SET status = 'Done', done_at = now()
    FROM retention.purge_runs r
    WHERE r.id = ANY (acknowledge_cancelled.run_ids) AND r.status = 'cancelled'
      AND j.id = r.delivery_id AND j.status NOT IN ('Done', 'Killed')
    RETURNING r.id, r.trigger
$$;

-- Makes a run that is at work urgent. Its batches lock it one after the other, each for a moment; nobody waits longer.
CREATE FUNCTION retention.urge_running(run_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    UPDATE retention.purge_runs r SET urgent = true
    WHERE r.id = urge_running.run_id AND r.status IN ('queued', 'running', 'retrying') AND NOT r.urgent;
EXCEPTION WHEN lock_not_available THEN
    NULL; -- A batch that takes this long has one row left to wait for.
END;
$$;

-- Refuses a request that names nobody, and texts that are too long or could steer a terminal.
CREATE FUNCTION retention.check_request(requested_by text, reason text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(check_request.requested_by, '') !~ '[^[:space:]]' THEN
        RAISE EXCEPTION 'a purge needs an organization and who asked for it'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass org_id and a non-empty requested_by.';
    END IF;
    -- As much as the API takes, and nothing that could steer a terminal: control characters, and those that turn the direction
    -- of writing.
    IF length(check_request.requested_by) > 200 OR length(check_request.reason) > 1000 THEN
        RAISE EXCEPTION 'requested_by is at most 200 characters, reason at most 1000'
            USING ERRCODE = 'string_data_right_truncation', HINT = 'Shorten it: nothing was enqueued.';
    END IF;
    IF EXISTS (SELECT FROM regexp_split_to_table(concat(check_request.requested_by, check_request.reason), '') AS c (letter)
               CROSS JOIN LATERAL ascii(c.letter) AS code
               WHERE c.letter <> ''
                 AND (code < 32 AND code NOT IN (9, 10, 13) OR code BETWEEN 127 AND 159 OR code IN (1564, 8206, 8207)
                      OR code BETWEEN 8234 AND 8238 OR code BETWEEN 8294 AND 8297)) THEN
        RAISE EXCEPTION 'requested_by and reason cannot contain control characters'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Remove them: nothing was enqueued.';
    END IF;
END;
$$;

-- One organization. A request that meets a live run makes no second one: a waiting run starts now, a running one goes on.
-- Either is urgent from then on.
CREATE FUNCTION retention.enqueue_run(
    org_id uuid, trigger text, requested_by text, reason text, replay_of uuid, trace_context text DEFAULT NULL)
RETURNS TABLE (run_id uuid, status text, coalesced boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    delivery text;
BEGIN
    IF enqueue_run.org_id IS NULL THEN
        RAISE EXCEPTION 'a purge needs an organization and who asked for it'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass org_id and a non-empty requested_by.';
    END IF;
    PERFORM retention.check_request(enqueue_run.requested_by, enqueue_run.reason);
    IF NOT EXISTS (SELECT FROM main_app.organizations o WHERE o.id = enqueue_run.org_id) THEN
        RAISE EXCEPTION 'organization % does not exist', enqueue_run.org_id
            USING ERRCODE = 'foreign_key_violation', HINT = 'Check the id: nothing was enqueued.';
    END IF;
    FOR try IN 1..100 LOOP
        INSERT INTO retention.purge_runs AS r (org_id, trigger, requested_by, reason, replay_of, urgent)
        VALUES (enqueue_run.org_id, enqueue_run.trigger, enqueue_run.requested_by, enqueue_run.reason, enqueue_run.replay_of,
                true)
        ON CONFLICT DO NOTHING
        RETURNING r.id, r.status, false INTO run_id, status, coalesced;
        IF FOUND THEN
            PERFORM retention.deliver(ARRAY[run_id], trace_context);
            RETURN NEXT;
            RETURN;
        END IF;
        SELECT r.id, r.status, true INTO run_id, status, coalesced
        FROM retention.purge_runs r
        WHERE r.org_id = enqueue_run.org_id AND r.status IN ('queued', 'running', 'retrying');
        IF FOUND AND status <> 'running' THEN
            -- The attempt that somebody asks for spends none of the run's own: asked for again and again, a run would use
            -- them up.
            UPDATE retention.purge_runs r
            SET next_attempt_at = NULL, urgent = true,
                attempts = r.attempts - CASE WHEN r.status = 'retrying' AND r.next_attempt_at > now() THEN 1 ELSE 0 END
            WHERE r.id = run_id AND r.status IN ('queued', 'retrying')
            RETURNING r.status, r.delivery_id INTO status, delivery;
            IF FOUND THEN
                UPDATE apalis.jobs j SET run_at = least(j.run_at, now()), priority = greatest(j.priority, 10)
                WHERE j.id = delivery AND j.status = 'Pending';
                IF NOT FOUND THEN
                    PERFORM retention.deliver(ARRAY[run_id], trace_context);
                END IF;
                RETURN NEXT;
                RETURN;
            END IF;
        ELSIF FOUND THEN
            PERFORM retention.urge_running(run_id);
            RETURN NEXT;
            RETURN;
        END IF;
        -- The live run ended, or started, in between: try again.
    END LOOP;
    RAISE EXCEPTION 'the runs of organization % change faster than they can be read', enqueue_run.org_id
        USING ERRCODE = 'serialization_failure', HINT = 'Nothing was enqueued: try again.';
END;
$$;

-- For any language, in the caller's own transaction. plpgsql, so that it can be created before the mapping is there.
CREATE FUNCTION retention.enqueue_purge(org_id uuid, requested_by text, reason text DEFAULT NULL)
RETURNS TABLE (run_id uuid, status text, coalesced boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT e.run_id, e.status, e.coalesced
    FROM retention.enqueue_run(enqueue_purge.org_id, 'purge_now', enqueue_purge.requested_by, enqueue_purge.reason, NULL) e;
END;
$$;

-- Many organizations, set-based, for `purge --all`. It passes over organizations that are gone.
CREATE FUNCTION retention.enqueue_purges(org_ids uuid[], requested_by text, reason text DEFAULT NULL)
RETURNS TABLE (org_id uuid, run_id uuid, status text, coalesced boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    created uuid[];
    new_orgs uuid[];
BEGIN
    PERFORM retention.check_request(enqueue_purges.requested_by, enqueue_purges.reason);
    WITH made AS (
        INSERT INTO retention.purge_runs AS r (org_id, trigger, requested_by, reason, urgent)
        SELECT o.id, 'purge_now', enqueue_purges.requested_by, enqueue_purges.reason, true
        FROM main_app.organizations o WHERE o.id = ANY (enqueue_purges.org_ids)
        ON CONFLICT DO NOTHING
        RETURNING r.id, r.org_id
    )
    SELECT coalesce(array_agg(id), '{}'), coalesce(array_agg(org_id), '{}') INTO created, new_orgs FROM made;
    PERFORM retention.deliver(created);
    RETURN QUERY SELECT made.org_id, made.id, 'queued', false FROM unnest(new_orgs, created) AS made (org_id, id);
    -- The others have a live run. Each of them is woken.
    RETURN QUERY SELECT o.id, e.run_id, e.status, e.coalesced
                 FROM main_app.organizations o
                 CROSS JOIN LATERAL retention.enqueue_run(o.id, 'purge_now', enqueue_purges.requested_by,
                                                          enqueue_purges.reason, NULL) e
                 WHERE o.id = ANY (enqueue_purges.org_ids) AND o.id <> ALL (new_orgs);
END;
$$;

-- Many organizations of one slot, set-based, for the scheduler.
CREATE FUNCTION retention.enqueue_slot(slot timestamptz, org_ids uuid[])
RETURNS TABLE (enqueued bigint, coalesced bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    created uuid[];
    woken uuid[];
BEGIN
    WITH made AS (
        INSERT INTO retention.purge_runs AS r (org_id, trigger, requested_by, scheduled_for)
        SELECT o, 'schedule', 'scheduler', enqueue_slot.slot FROM unnest(enqueue_slot.org_ids) AS o
        ON CONFLICT DO NOTHING
        RETURNING r.id
    )
    SELECT coalesce(array_agg(id), '{}') INTO created FROM made;

    -- Organizations with a waiting run: that run is this slot's too, and starts now.
    WITH waiting AS (
        UPDATE retention.purge_runs r SET next_attempt_at = NULL
        WHERE r.org_id = ANY (enqueue_slot.org_ids) AND r.status IN ('queued', 'retrying')
          AND r.next_attempt_at > now()
        RETURNING r.id
    )
    SELECT coalesce(array_agg(id), '{}') INTO woken FROM waiting;

    PERFORM retention.deliver(created || woken);
    enqueued := cardinality(created);
    coalesced := cardinality(enqueue_slot.org_ids) - cardinality(created);
    RETURN NEXT;
END;
$$;

-- Nobody may call these unless told so (deploy/postgres/roles.sql).
REVOKE ALL ON FUNCTION
    retention.deliver(uuid[], text),
    retention.worker_is_silent(text, interval),
    retention.acknowledge_cancelled(uuid[]),
    retention.urge_running(uuid),
    retention.enqueue_run(uuid, text, text, text, uuid, text),
    retention.check_request(text, text),
    retention.enqueue_purge(uuid, text, text),
    retention.enqueue_purges(uuid[], text, text),
    retention.enqueue_slot(timestamptz, uuid[])
FROM PUBLIC;

DROP FUNCTION retention.enqueue_slot(timestamptz, uuid[]);
DROP FUNCTION retention.enqueue_purges(uuid[], text, text);
DROP FUNCTION retention.enqueue_purge(uuid, text, text);
DROP FUNCTION retention.enqueue_run(uuid, text, text, text, uuid, text);
DROP FUNCTION retention.check_request(text, text);
DROP FUNCTION retention.urge_running(uuid);
DROP FUNCTION retention.acknowledge_cancelled(uuid[]);
DROP FUNCTION retention.worker_is_silent(text, interval);
DROP FUNCTION retention.deliver(uuid[], text);
-- The runs that these deliveries carry go with the next step back.
DELETE FROM apalis.jobs WHERE job_type = 'drift-retention.purge';

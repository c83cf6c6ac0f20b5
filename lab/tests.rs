//! An oracle that never fails proves nothing. These tests break each promise and see that its check finds it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    panic::AssertUnwindSafe,
};

use chrono::{DateTime, Utc};
use drift_retention::postgres::local::StopMode;
use futures::FutureExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    oracle,
    server::{Database, Server},
};

/// What the product would do: a run of the one organization, which is on `pro`, with one batch and its counts. Every
/// breakage follows it. Without a breakage the oracle finds nothing.
const GOOD: &str = "
    CREATE TABLE public.it AS
        SELECT o.id AS org, e.id AS env FROM public.organizations o JOIN public.environments e ON e.org_id = o.id
        WHERE o.plan = 'pro' ORDER BY o.id, e.id LIMIT 1;
    DELETE FROM public.approvals;
    DELETE FROM public.incident_payloads;
    DELETE FROM public.incidents;
    DELETE FROM public.drift_checks;
    INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
        SELECT org, env, now() - make_interval(days => age), 'drift' FROM public.it, unnest(ARRAY[40, 35, 10, 1]) AS age;
    INSERT INTO public.incidents (org_id, env_id, title, status, closed_at)
        SELECT org, env, 'old', 'closed', now() - interval '200 days' FROM public.it
        UNION ALL SELECT org, env, 'young', 'closed', now() - interval '100 days' FROM public.it
        UNION ALL SELECT org, env, 'open', 'detected', now() - interval '200 days' FROM public.it;
    INSERT INTO public.incident_payloads (incident_id, payload_json) SELECT id, '{}' FROM public.incidents;
    INSERT INTO public.approvals (org_id, incident_id, action, status, requested_by, created_at)
        SELECT i.org_id, i.id, 'rollback', s, 'sam', now() - interval '200 days'
        FROM public.incidents i, unnest(ARRAY['pending', 'approved']) AS s;
    INSERT INTO chaos.processes VALUES ('good', 4711);
    SET chaos.process = 'good';
    INSERT INTO retention.purge_runs (org_id, trigger, requested_by) SELECT org, 'purge_now', 'sam' FROM public.it;
    UPDATE retention.purge_runs SET status = 'running', token = 1, delivery_id = 'job', worker = 'host:4711:x', started_at = now(), attempts = 1;
    UPDATE retention.purge_runs SET plan = 'pro', policy = '{}';
    INSERT INTO retention.purge_run_steps (run_id, table_name)
        SELECT id, unnest(ARRAY['drift_checks', 'workflow_drift_flags', 'incident_payloads', 'approvals'])
        FROM retention.purge_runs;
    BEGIN;
    DELETE FROM public.drift_checks WHERE checked_at < now() - interval '30 days';
    UPDATE public.incidents SET payload_purged_at = now() WHERE title = 'old';
    DELETE FROM public.incident_payloads USING public.incidents i WHERE i.id = incident_id AND i.title = 'old';
    DELETE FROM public.approvals a USING public.incidents i WHERE i.id = a.incident_id AND a.status = 'approved' AND i.status = 'closed';
    UPDATE retention.purge_run_steps SET rows_purged = 2 WHERE table_name = 'drift_checks';
    UPDATE retention.purge_run_steps SET rows_purged = 1 WHERE table_name = 'incident_payloads';
    UPDATE retention.purge_run_steps SET rows_purged = 2 WHERE table_name = 'approvals';
    COMMIT";
/// Ends the run as promised.
const CLOSE: &str = "
    SET chaos.process = 'good';
    UPDATE retention.purge_runs SET status = 'succeeded', finished_at = now(), verified_at = now() WHERE status = 'running';";

/// One transaction purges two more organizations and ends their runs, which is allowed. `{together}` in a breakage.
const TOGETHER: &str = "
    SET chaos.process = '';
    WITH two AS (INSERT INTO public.organizations (name, plan) VALUES ('two', 'pro'), ('three', 'pro') RETURNING id),
         env AS (INSERT INTO public.environments (org_id, name) SELECT id, 'e' FROM two RETURNING id, org_id)
    INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
        SELECT org_id, id, now() - make_interval(days => age), 'drift' FROM env, unnest(ARRAY[40, 35, 1]) AS age;
    INSERT INTO retention.purge_runs (org_id, trigger, requested_by)
        SELECT id, 'purge_now', 'sam' FROM public.organizations WHERE name IN ('two', 'three');
    SET chaos.process = 'good';
    BEGIN;
    DELETE FROM public.drift_checks WHERE checked_at < now() - interval '30 days';
    INSERT INTO retention.purge_run_steps (run_id, table_name, rows_purged)
        SELECT r.id, 'drift_checks', 2 FROM retention.purge_runs r WHERE r.status = 'queued';
    UPDATE retention.purge_runs SET status = 'succeeded', token = 1, worker = 'host:4711:x', plan = 'pro', policy = '{}',
        started_at = now(), verified_at = now(), finished_at = now(), attempts = 1 WHERE status = 'queued';
    COMMIT;";

/// The run deletes one more check, as `pro` allows. Before that the organization was on `agency`, which has longer
/// windows. `agency` was committed after the run had read the plan, so the run never saw it. This is allowed.
const UNSEEN: &str = "
    BEGIN; UPDATE retention.purge_runs SET policy = '{}';
    SET chaos.process = ''; UPDATE public.organizations SET plan = 'agency' WHERE id IN (SELECT org FROM public.it); COMMIT;
    {back}";
/// The plan is `pro` again, and the run purges by it. `{back}` in a breakage.
const BACK: &str = "
    SET chaos.process = ''; UPDATE public.organizations SET plan = 'pro' WHERE id IN (SELECT org FROM public.it);
    INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
        SELECT org, env, now() - interval '40 days', 'drift' FROM public.it;
    SET chaos.process = 'good';
    BEGIN; DELETE FROM public.drift_checks WHERE checked_at < now() - interval '30 days';
    UPDATE retention.purge_run_steps SET rows_purged = 3 WHERE table_name = 'drift_checks'; COMMIT;";

/// Another process deletes a batch of the good run and has not committed yet. `{stale}` in a breakage.
const STALE: &str = "
    INSERT INTO chaos.processes VALUES ('stale', 4712);
    SET chaos.process = ''; INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
        SELECT org, env, now() - interval '40 days', 'drift' FROM public.it;
    SET chaos.process = 'stale';
    BEGIN; DELETE FROM public.drift_checks WHERE checked_at < now() - interval '30 days';
    UPDATE retention.purge_run_steps SET rows_purged = 3 WHERE table_name = 'drift_checks';";

/// Each breakage: the check that must find it, and the SQL that breaks the promise.
const BREAKAGES: &[(&str, &str)] = &[
    ("newest_check_stayed",
     "UPDATE public.drift_checks SET checked_at = checked_at - interval '60 days';
      BEGIN; DELETE FROM public.drift_checks;
      UPDATE retention.purge_run_steps SET rows_purged = 4 WHERE table_name = 'drift_checks'; COMMIT;"),
    ("only_expired_rows_went",
     "BEGIN; DELETE FROM public.drift_checks WHERE checked_at < now() - interval '5 days';
      UPDATE retention.purge_run_steps SET rows_purged = 3 WHERE table_name = 'drift_checks'; COMMIT;"),
    // After an upgrade, a batch deletes rows that only `pro` allowed it to delete.
    ("only_expired_rows_went",
     "INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
          SELECT org, env, now() - interval '40 days', 'drift' FROM public.it;
      SET chaos.process = ''; UPDATE public.organizations SET plan = 'agency'; SET chaos.process = 'good';
      BEGIN; DELETE FROM public.drift_checks WHERE checked_at < now() - interval '30 days';
      UPDATE retention.purge_run_steps SET rows_purged = 3 WHERE table_name = 'drift_checks'; COMMIT;"),
    // After a downgrade, a batch deletes rows that the run had to keep on `pro`.
    ("only_expired_rows_went",
     "SET chaos.process = ''; UPDATE public.organizations SET plan = 'free'; SET chaos.process = 'good';
      BEGIN; DELETE FROM public.drift_checks WHERE checked_at < now() - interval '8 days';
      UPDATE retention.purge_run_steps SET rows_purged = 3 WHERE table_name = 'drift_checks'; COMMIT;"),
    // The run recorded a longer window and must keep to it.
    ("only_expired_rows_went",
     "SET chaos.process = ''; UPDATE public.organizations SET plan = 'agency'; SET chaos.process = 'good';
      UPDATE retention.purge_runs SET policy = '{}'; {back}"),
    // On an unknown plan nothing may be deleted.
    ("only_expired_rows_went",
     "SET chaos.process = ''; UPDATE public.organizations SET plan = 'platinum';
      INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
          SELECT org, env, now() - interval '900 days', 'drift' FROM public.it;
      SET chaos.process = 'good';
      BEGIN; DELETE FROM public.drift_checks WHERE checked_at < now() - interval '800 days';
      UPDATE retention.purge_run_steps SET rows_purged = 3 WHERE table_name = 'drift_checks'; COMMIT;"),
    ("payloads_of_open_incidents_stayed",
     "BEGIN; DELETE FROM public.incident_payloads USING public.incidents i WHERE i.id = incident_id AND i.title = 'open';
      UPDATE retention.purge_run_steps SET rows_purged = 2 WHERE table_name = 'incident_payloads'; COMMIT;"),
    ("live_approvals_stayed",
     "BEGIN; DELETE FROM public.approvals WHERE status = 'pending';
      UPDATE retention.purge_run_steps SET rows_purged = 5 WHERE table_name = 'approvals'; COMMIT;"),
    ("live_approvals_stayed",
     "BEGIN; DELETE FROM public.approvals a USING public.incidents i
          WHERE i.id = a.incident_id AND i.title = 'open' AND a.status = 'approved';
      UPDATE retention.purge_run_steps SET rows_purged = 3 WHERE table_name = 'approvals'; COMMIT;"),
    ("nothing_else_was_touched", "UPDATE public.incidents SET updated_at = now() WHERE title = 'old';"),
    ("nothing_else_was_touched", "UPDATE public.incidents SET payload_purged_at = now() WHERE title = 'young';"),
    ("nothing_else_was_touched",
     "UPDATE public.incidents SET payload_purged_at = now() + interval '1 second' WHERE title = 'old';"),
    ("purged_incidents_are_stamped", "UPDATE public.incidents SET payload_purged_at = NULL WHERE title = 'old';"),
    ("every_deletion_is_counted",
     "INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
          SELECT org, env, now() - interval '40 days', 'drift' FROM public.it;
      DELETE FROM public.drift_checks WHERE checked_at < now() - interval '30 days';"),
    ("records_equal_what_went",
     "UPDATE retention.purge_run_steps SET rows_purged = rows_purged + 1 WHERE table_name = 'drift_checks';"),
    ("records_equal_what_went",
     "ALTER TABLE retention.purge_run_steps DISABLE TRIGGER append_only;
      UPDATE retention.purge_run_steps SET rows_purged = rows_purged - 1 WHERE table_name = 'approvals';"),
    // One run counts a row of the other run.
    ("records_equal_what_went",
     "{together}
      ALTER TABLE retention.purge_run_steps DISABLE TRIGGER append_only;
      UPDATE retention.purge_run_steps s SET rows_purged = CASE o.name WHEN 'two' THEN 1 ELSE 3 END
          FROM retention.purge_runs r JOIN public.organizations o ON o.id = r.org_id
          WHERE r.id = s.run_id AND o.name IN ('two', 'three');"),
    ("runs_purge_their_own_organization",
     "WITH other AS (INSERT INTO public.organizations (name, plan) VALUES ('other', 'pro') RETURNING id),
           env AS (INSERT INTO public.environments (org_id, name) SELECT id, 'e' FROM other RETURNING id, org_id)
      INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
          SELECT org_id, id, now() - make_interval(days => age), 'drift' FROM env, unnest(ARRAY[40, 1]) AS age;
      BEGIN; DELETE FROM public.drift_checks WHERE checked_at < now() - interval '30 days';
      UPDATE retention.purge_run_steps SET rows_purged = 3 WHERE table_name = 'drift_checks'; COMMIT;"),
    // Another process owned the run by then.
    ("superseded_attempts_commit_nothing", "{stale} COMMIT;"),
    // It even ends the run.
    ("superseded_attempts_commit_nothing",
     "{stale}
      UPDATE retention.purge_runs SET status = 'succeeded', token = 2, worker = 'host:4712:x', finished_at = now(),
          verified_at = now() WHERE status = 'running'; COMMIT;"),
    ("every_run_is_final", "UPDATE retention.purge_runs SET status = 'retrying';"),
    ("final_runs_stay_final",
     "UPDATE retention.purge_runs SET status = 'failed', finished_at = now(), error_kind = 'database', error = 'x';
      ALTER TABLE retention.purge_runs DISABLE TRIGGER append_only;
      UPDATE retention.purge_runs SET status = 'running';"),
    ("failures_say_why", "UPDATE retention.purge_runs SET status = 'failed', finished_at = now();"),
    ("failures_say_why", "UPDATE retention.purge_runs SET attempts = 9;"),
    ("no_run_is_lost", "INSERT INTO chaos.promises VALUES (gen_random_uuid(), true);"),
    ("what_rolled_back_never_existed", "INSERT INTO chaos.promises SELECT id, false FROM retention.purge_runs;"),
    ("one_live_run_per_organization",
     "DROP INDEX retention.purge_runs_one_live_per_org;
      INSERT INTO retention.purge_runs (org_id, trigger, requested_by, started_at) SELECT org, 'purge_now', 'sam', now() FROM public.it;
      UPDATE retention.purge_runs SET status = 'running' WHERE status = 'queued';"),
    ("each_organization_and_slot_once",
     "DROP INDEX retention.purge_runs_one_per_slot; DROP INDEX retention.purge_runs_one_live_per_org;
      INSERT INTO retention.purge_runs (org_id, trigger, requested_by, scheduled_for, status, started_at)
          SELECT org, 'schedule', 'scheduler', now(), 'running', now() FROM public.it, generate_series(1, 2);"),
    ("each_organization_and_slot_once",
     "INSERT INTO retention.schedule_slots (slot, started_at, completed_at, enqueued, coalesced)
          VALUES (now(), now() - interval '2 days', now() - interval '1 day', 0, 1);"),
    ("each_organization_and_slot_once",
     "INSERT INTO retention.schedule_slots (slot, completed_at, enqueued) VALUES (now(), now(), 1);"),
    ("everybody_is_purged_in_the_end",
     "UPDATE retention.purge_runs SET status = 'failed', finished_at = now(), error_kind = 'database', error = 'x';"),
    ("everybody_is_purged_in_the_end", "UPDATE retention.purge_runs SET started_at = now() - interval '1 day';"),
    ("expired_checks_are_gone",
     "SET chaos.process = ''; INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
          SELECT org, env, now() - interval '31 days', 'drift' FROM public.it;"),
    ("expired_payloads_are_gone_and_stamped",
     "SET chaos.process = ''; UPDATE public.incidents SET closed_at = now() - interval '181 days' WHERE title = 'young';"),
    ("expired_payloads_are_gone_and_stamped",
     "SET chaos.process = ''; INSERT INTO public.incident_payloads (incident_id, payload_json)
          SELECT id, '{}' FROM public.incidents WHERE title = 'old';"),
    ("expired_approvals_are_gone",
     "SET chaos.process = ''; UPDATE public.approvals SET status = 'approved';"),
    ("journal_has_every_row",
     "ALTER TABLE public.drift_checks DISABLE TRIGGER chaos_journal; DELETE FROM public.drift_checks;"),
];

/// Runs the statements one by one. Each is a transaction of its own unless the SQL begins one.
async fn run(conn: &mut PgConnection, sql: &str) {
    for statement in sql.split(';') {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut *conn)
            .await
            .unwrap_or_else(|error| panic!("{error}: {statement}"));
    }
}

/// The checks that find something after `breakage` follows the good run.
async fn verdict(database: &Database, healed: DateTime<Utc>, breakage: &str) -> Vec<&'static str> {
    let mut conn = database.connect().await.unwrap();
    let breakage = breakage
        .replace("{together}", TOGETHER)
        .replace("{back}", BACK)
        .replace("{stale}", STALE);
    for sql in ["SET chaos.process = 'good'", &breakage, CLOSE] {
        run(&mut conn, sql).await;
    }
    let found = oracle::judge(&mut conn, healed).await.unwrap();
    conn.close().await.unwrap();
    found.into_iter().map(|violation| violation.check).collect()
}

/// The breakages that the oracle missed, and good runs in which it found something.
async fn missed(server: &Server, template: Database) -> Vec<String> {
    let mut conn = template.connect().await.unwrap();
    let healed: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    run(&mut conn, GOOD).await;
    conn.close().await.unwrap();
    let mut conn = server.database("postgres").connect().await.unwrap();
    let mut missed = Vec::new();
    for (number, (check, breakage)) in [("", ""), ("", "{together}"), ("", UNSEEN)]
        .iter()
        .chain(BREAKAGES)
        .enumerate()
    {
        let database = format!("case_{number}");
        run(
            &mut conn,
            &format!("CREATE DATABASE {database} TEMPLATE template"),
        )
        .await;
        let found = verdict(&server.database(&database), healed, breakage).await;
        let is_right = if check.is_empty() {
            found.is_empty()
        } else {
            found.contains(check)
        };
        if !is_right {
            missed.push(format!("{check}: {breakage} found {found:?}"));
        }
    }
    missed
}

#[tokio::test]
async fn own_server_oracle_is_content_with_a_good_run_and_finds_every_breakage() {
    let dir = tempfile::tempdir().unwrap();
    // When the tests run as root the server runs as another user, who must reach the directory.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let mut server = Server::start(&dir.path().join("postgres"), None)
        .await
        .unwrap();
    let template = server.create("template", 1).await.unwrap();
    // The server must stop even if this panics.
    let missed = AssertUnwindSafe(missed(&server, template))
        .catch_unwind()
        .await;
    server.stop(StopMode::Immediate).await.unwrap();
    let missed = missed.unwrap();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_check_of_the_oracle_has_a_breakage() {
    for name in oracle::names() {
        // This check guards against a server that records no commit times. The test's server always records them.
        if name != "journal_has_every_commit" {
            assert!(BREAKAGES.iter().any(|(check, _)| *check == name), "{name}");
        }
    }
}

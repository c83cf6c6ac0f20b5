//! Mappings that look right and would purge wrongly: each is refused by name before a row goes.

use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    attach::{
        Refusal, accepted, problems, refused, refused_alone, replace_view, report, with_rows,
    },
    ledger, product, runs,
};

/// The body of `erase_payloads`, around what it does besides.
async fn erase_payloads(db: &TestDatabase, besides: &str) {
    db.execute(&format!(
        "CREATE OR REPLACE FUNCTION main_app.erase_payloads(incident_ids uuid[]) RETURNS bigint
         LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
         DECLARE erased bigint;
         BEGIN
             DELETE FROM public.incident_payloads p WHERE p.incident_id = ANY (erase_payloads.incident_ids);
             GET DIAGNOSTICS erased = ROW_COUNT;
             {besides}
             RETURN erased;
         END $$"
    ))
    .await;
}

/// One more incident of the organization, open and with its payload.
async fn open_incident(db: &TestDatabase, org: Uuid) {
    let app = App::on(&db.pool);
    let env = app.env(org).await;
    let incident = app.incident(org, env, "detected", None).await;
    app.payload(incident).await;
}

#[tokio::test]
async fn erase_payloads_that_does_more_than_it_is_asked_for_is_refused() {
    let (db, org) = with_rows().await;
    open_incident(&db, org).await;
    for (besides, what) in [
        (
            "DELETE FROM public.incident_payloads;",
            "it erased payloads of incidents that were not passed to it",
        ),
        (
            "UPDATE public.incidents i SET status = 'purged' WHERE i.id = ANY (erase_payloads.incident_ids);",
            "it changed other columns of incidents",
        ),
        (
            "DELETE FROM public.approvals a WHERE a.incident_id = ANY (erase_payloads.incident_ids);",
            "it deleted approvals",
        ),
    ] {
        erase_payloads(&db, besides).await;
        let harmful = Refusal {
            object: "erase_payloads",
            what,
            remedy: "correct the function",
        };
        refused_alone(&db, harmful).await;
    }
}

#[tokio::test]
async fn second_key_of_the_flags_to_the_checks_is_refused() {
    let (db, _) = with_rows().await;
    db.execute(
        "ALTER TABLE workflow_drift_flags
         ADD COLUMN first_seen bigint REFERENCES drift_checks (id) ON DELETE CASCADE",
    )
    .await;
    let second = || Refusal {
        object: "drift_checks",
        what: "rows of public.workflow_drift_flags, which is mapped itself, would also be deleted",
        remedy: "SET NULL",
    };
    refused_alone(&db, second()).await;
    let leave = [(
        "DRIFT_RETENTION_ATTACH__CASCADES",
        "public.workflow_drift_flags",
    )];
    refused(&db, &db.url, &leave, second()).await;
}

#[tokio::test]
async fn mapped_table_that_would_go_along_is_refused_whatever_is_acknowledged() {
    let (db, _) = with_rows().await;
    db.execute("ALTER TABLE incidents ADD COLUMN check_id bigint REFERENCES drift_checks (id) ON DELETE CASCADE")
        .await;
    let leave = [(
        "DRIFT_RETENTION_ATTACH__CASCADES",
        "public.incidents, public.incident_payloads, public.approvals",
    )];
    let mapped = Refusal {
        object: "drift_checks",
        what: "rows of public.incidents, which is mapped itself, would also be deleted",
        remedy: "drop the foreign key",
    };
    refused(&db, &db.url, &leave, mapped).await;
}

#[tokio::test]
async fn disabled_foreign_key_is_refused() {
    let (db, _) = with_rows().await;
    db.execute("ALTER TABLE drift_checks DISABLE TRIGGER ALL")
        .await;
    let disabled = Refusal {
        object: "drift_checks",
        what: "the foreign key workflow_drift_flags_check_id_fkey of public.workflow_drift_flags is disabled",
        remedy: "ENABLE TRIGGER ALL",
    };
    refused_alone(&db, disabled).await;
}

#[tokio::test]
async fn trigger_that_could_keep_flags_is_refused() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER keep BEFORE DELETE ON workflow_drift_flags FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await;
    let keeps = Refusal {
        object: "workflow_drift_flags",
        what: "the trigger keep on public.workflow_drift_flags runs before a flag is deleted",
        remedy: "make it an AFTER trigger",
    };
    refused_alone(&db, keeps).await;
}

#[tokio::test]
async fn id_that_is_no_key_is_refused() {
    let (db, _) = with_rows().await;
    db.execute("ALTER TABLE approvals DROP CONSTRAINT approvals_pkey")
        .await;
    let repeated = Refusal {
        object: "approvals",
        what: "id is not unique in public.approvals",
        remedy: "CREATE UNIQUE INDEX CONCURRENTLY ON public.approvals (id)",
    };
    refused_alone(&db, repeated).await;
}

#[tokio::test]
async fn partition_is_refused_as_its_table_is() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE TABLE all_approvals (LIKE approvals INCLUDING DEFAULTS) PARTITION BY LIST (status);
         CREATE TABLE some_approvals PARTITION OF all_approvals DEFAULT;
         CREATE UNIQUE INDEX ON some_approvals (id)",
    )
    .await;
    replace_view(
        &db,
        "approvals",
        "SELECT ctid, id, org_id, incident_id, action, status, requested_by, decided_by, notes, created_at, decided_at
         FROM public.some_approvals",
    )
    .await;
    let partition = Refusal {
        object: "approvals",
        what: "public.some_approvals is a partition",
        remedy: "select from the ordinary table",
    };
    refused_alone(&db, partition).await;
}

#[tokio::test]
async fn trigger_of_ours_that_names_no_column_is_refused() {
    let (db, _) = with_rows().await;
    db.execute(
        "DROP TRIGGER note_rewritten_payload ON incident_payloads;
         CREATE TRIGGER note_rewritten_payload AFTER INSERT OR UPDATE ON incident_payloads FOR EACH ROW
             EXECUTE FUNCTION retention.note_rewritten_payload('incident')",
    )
    .await;
    let misspelt = Refusal {
        object: "incident_payloads",
        what: "the argument of the trigger note_rewritten_payload is not a column of public.incident_payloads",
        remedy: "DROP TRIGGER note_rewritten_payload",
    };
    refused_alone(&db, misspelt).await;
}

#[tokio::test]
async fn payloads_that_look_something_up_are_mapped_without_a_word_about_it() {
    let (db, org) = with_rows().await;
    replace_view(
        &db,
        "incident_payloads",
        "SELECT p.incident_id, p.payload_json || jsonb_build_object('environment', e.name) AS payload_json, p.created_at
         FROM public.incident_payloads p JOIN public.incidents i ON i.id = p.incident_id
         JOIN public.environments e ON e.id = i.env_id",
    )
    .await;
    // The trigger is on the payloads' own table only, and should be on the incidents' too where columns of it are payload.
    let warnings = accepted(&db.url, &[]).await;
    assert!(
        warnings.iter().all(|w| w.what.contains("notes payloads")),
        "{warnings:#?}"
    );
    product::purge(&db.url, org).await;
}

#[tokio::test]
async fn approval_that_is_pending_in_another_spelling_stays_even_where_no_sample_showed_it() {
    let (db, org) = with_rows().await;
    db.execute(
        "ALTER TABLE approvals DROP CONSTRAINT approvals_status_check;
         INSERT INTO approvals (org_id, incident_id, action, status, requested_by, created_at)
         SELECT org_id, id, 'accept_drift', 'approved', 'sam', now() - interval '900 days'
         FROM incidents, generate_series(1, 30) WHERE status = 'closed';
         INSERT INTO approvals (org_id, incident_id, action, status, requested_by, created_at)
         SELECT org_id, id, 'accept_drift', 'PENDING', 'sam', now() - interval '900 days'
         FROM incidents WHERE status = 'closed' LIMIT 1",
    )
    .await;
    let run = product::purge(&db.url, org).await;
    let left = "SELECT count(*) FROM approvals WHERE status = 'PENDING'";
    assert_eq!(db.value::<i64>(left).await, 1);
    assert_eq!(runs::step(&db, run, "approvals").await["rows_kept"], 1);
}

#[tokio::test]
async fn flags_that_a_trigger_of_the_checks_deletes_are_counted() {
    let (db, org) = with_rows().await;
    db.execute(
        "CREATE FUNCTION take_flags() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN DELETE FROM public.workflow_drift_flags WHERE check_id = OLD.id; RETURN OLD; END';
         CREATE TRIGGER take_flags BEFORE DELETE ON drift_checks FOR EACH ROW EXECUTE FUNCTION take_flags()",
    )
    .await;
    let before = ledger::rows(&db.pool).await;
    product::purge(&db.url, org).await;
    ledger::assert_exact(&db.pool, &before).await;
}

#[tokio::test]
async fn check_without_an_environment_stays_and_the_preview_says_so() {
    let (db, org) = with_rows().await;
    db.execute("ALTER TABLE drift_checks ALTER env_id DROP NOT NULL; UPDATE drift_checks SET env_id = NULL")
        .await;
    let preview = product::json(&db.url, &["preview", "--org", &org.to_string(), "--json"]).await;
    assert_eq!(preview["organizations"][0]["tables"]["drift_checks"], 0);
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(&db, run).await[..2], [0, 0]);
}

#[tokio::test]
async fn trigger_that_fails_on_the_stamp_or_on_a_deletion_is_told_before_the_first_purge() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS
             'BEGIN UPDATE touches SET at = now(); RETURN NEW; END'",
    )
    .await;
    for (table, event, object) in [
        ("incidents", "UPDATE", "main_app.erase_payloads"),
        ("drift_checks", "DELETE", "main_app.drift_checks"),
        ("approvals", "DELETE", "main_app.approvals"),
    ] {
        db.execute(&format!(
            "CREATE TRIGGER touch AFTER {event} ON {table} FOR EACH ROW EXECUTE FUNCTION touch()"
        ))
        .await;
        let (code, report) = report(&db.url, &[]).await;
        assert_eq!(code, Some(1));
        let found = problems(&report);
        let fails =
            "it fails: relation \"touches\" does not exist (in PL/pgSQL function public.touch()";
        let problem = found
            .iter()
            .find(|p| p.object == object && p.what.starts_with(fails))
            .unwrap_or_else(|| panic!("{table}: {found:#?}"));
        assert!(problem.remedy.contains("SECURITY DEFINER SET search_path"));
        db.execute(&format!("DROP TRIGGER touch ON {table}")).await;
    }
}

#[tokio::test]
async fn trigger_that_refuses_today_keeps_no_worker_from_starting() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE FUNCTION not_today() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $m$not today$m$; END';
         CREATE TRIGGER not_today BEFORE DELETE ON incident_payloads FOR EACH ROW EXECUTE FUNCTION not_today()",
    )
    .await;
    let (code, _) = report(&db.url, &[]).await;
    assert_eq!(code, Some(1), "attach check tells it");
    let worker = product::Service::start(&db.url, "worker", &[]);
    worker.ready().await;
    worker.kill().await;
}

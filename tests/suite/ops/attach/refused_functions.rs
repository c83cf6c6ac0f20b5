//! Functions of the mapping that do not do what they are for are refused by name before a row goes: they are tried on a few
//! rows, and that is taken back.

use crate::support::{
    TestDatabase,
    app::App,
    attach::{Refusal, accepted, refused_alone, replace_view, with_rows},
    product, runs,
};

async fn lock_plan(db: &TestDatabase, language: &str, body: &str) {
    db.execute(&format!(
        "CREATE OR REPLACE FUNCTION main_app.lock_plan(org_id uuid) RETURNS text
         LANGUAGE {language} SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ {body} $$"
    ))
    .await;
}

async fn erase_payloads(db: &TestDatabase, body: &str) {
    db.execute(&format!(
        "CREATE OR REPLACE FUNCTION main_app.erase_payloads(incident_ids uuid[]) RETURNS bigint
         LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
         DECLARE erased bigint;
         BEGIN {body} END; $$"
    ))
    .await;
}

const LOCK: &str = "PERFORM FROM public.organizations o WHERE o.id = lock_plan.org_id FOR SHARE;";
const DELETE: &str = "DELETE FROM public.incident_payloads p WHERE p.incident_id = ANY (erase_payloads.incident_ids);
                      GET DIAGNOSTICS erased = ROW_COUNT;";

/// A part of the payload of every incident in a column of the incident.
async fn with_payloads_in_two_places() -> (TestDatabase, uuid::Uuid) {
    let (db, org) = with_rows().await;
    let app = App::on(&db.pool);
    let env = app.env(org).await;
    app.incident(org, env, "closed", Some("181 days")).await;
    db.execute("ALTER TABLE incidents ADD drift_summary jsonb NOT NULL DEFAULT '[]'; UPDATE incidents SET drift_summary = '[1]'")
        .await;
    replace_view(
        &db,
        "incident_payloads",
        "SELECT i.id AS incident_id, coalesce(p.payload_json, i.drift_summary) AS payload_json,
                coalesce(p.created_at, i.created_at) AS created_at
         FROM public.incidents i LEFT JOIN public.incident_payloads p ON p.incident_id = i.id
         WHERE p.incident_id IS NOT NULL OR i.drift_summary <> '[]'",
    )
    .await;
    (db, org)
}

#[tokio::test]
async fn erase_payloads_that_forgets_a_column_is_refused() {
    let (db, org) = with_payloads_in_two_places().await;
    let forgets = || Refusal {
        object: "erase_payloads",
        what: "it fails: main_app.erase_payloads left the payloads of 2 incidents in main_app.incident_payloads",
        remedy: "correct the function",
    };
    refused_alone(&db, forgets()).await;
    // Nor is it enough to forget the table.
    let emptied = "UPDATE public.incidents i SET drift_summary = '[]' WHERE i.id = ANY (erase_payloads.incident_ids);
                   GET DIAGNOSTICS erased = ROW_COUNT; RETURN erased;";
    erase_payloads(&db, emptied).await;
    let table = Refusal {
        what: "left the payloads of 1 incidents",
        ..forgets()
    };
    refused_alone(&db, table).await;

    erase_payloads(&db, &format!("{DELETE} {emptied}")).await;
    accepted(&db.url, &[]).await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(&db, run).await, [4, 8, 2, 1]);
    let left =
        "SELECT count(*) FROM incidents WHERE drift_summary <> '[]' OR payload_purged_at IS NULL";
    assert_eq!(db.value::<i64>(left).await, 0);
}

#[tokio::test]
async fn erase_payloads_that_deletes_the_incident_is_refused() {
    let (db, _) = with_rows().await;
    erase_payloads(
        &db,
        "DELETE FROM public.approvals a WHERE a.incident_id = ANY (erase_payloads.incident_ids);
         DELETE FROM public.incidents i WHERE i.id = ANY (erase_payloads.incident_ids);
         GET DIAGNOSTICS erased = ROW_COUNT; RETURN erased;",
    )
    .await;
    let deletes = Refusal {
        object: "erase_payloads",
        what: "it deleted 1 incidents, which must stay without their payloads",
        remedy: "correct the function",
    };
    refused_alone(&db, deletes).await;
}

#[tokio::test]
async fn erase_payloads_that_counts_wrong_is_refused() {
    let (db, _) = with_rows().await;
    for (returns, what) in [
        (
            "0",
            "it fails: main_app.erase_payloads says that 0 of 1 incidents had a payload, and 1 had one",
        ),
        (
            "erased + 1",
            "it fails: main_app.erase_payloads says that 2 of 1 incidents had a payload, and 1 had one",
        ),
        ("-1", "says that -1 of 1 incidents had a payload"),
        ("NULL", "says that null of 1 incidents had a payload"),
    ] {
        erase_payloads(&db, &format!("{DELETE} RETURN {returns};")).await;
        let wrong = Refusal {
            object: "erase_payloads",
            what,
            remedy: "correct the function",
        };
        refused_alone(&db, wrong).await;
    }
}

#[tokio::test]
async fn erase_payloads_that_fails_is_refused_with_what_postgres_says() {
    let (db, _) = with_rows().await;
    erase_payloads(&db, "DELETE FROM public.payloads; RETURN 1;").await;
    let fails = Refusal {
        object: "erase_payloads",
        what: "it fails: relation \"public.payloads\" does not exist",
        remedy: "correct the function",
    };
    refused_alone(&db, fails).await;
}

#[tokio::test]
async fn lock_plan_that_disagrees_is_refused() {
    let (db, org) = with_rows().await;
    for (says, what) in [
        (
            "'free'",
            format!(
                "it returns 'free' for organization {org}, but main_app.organizations has 'pro'"
            ),
        ),
        (
            "NULL",
            format!("it returns NULL for organization {org}, but main_app.organizations has 'pro'"),
        ),
    ] {
        lock_plan(&db, "plpgsql", &format!("BEGIN {LOCK} RETURN {says}; END;")).await;
        let disagrees = Refusal {
            object: "lock_plan",
            what: &what,
            remedy: "correct the function",
        };
        refused_alone(&db, disagrees).await;
    }
}

#[tokio::test]
async fn lock_plan_that_locks_nothing_is_refused() {
    let (db, org) = with_rows().await;
    let read = "SELECT o.plan FROM public.organizations o WHERE o.id = lock_plan.org_id";
    for (language, body) in [
        ("plpgsql", format!("BEGIN RETURN ({read}); END;")),
        ("sql", read.to_owned()),
    ] {
        db.execute("DROP FUNCTION main_app.lock_plan(uuid)").await;
        lock_plan(&db, language, &body).await;
        let locks_nothing = Refusal {
            object: "lock_plan",
            what: &format!(
                "it locks no row: the plan of organization {org} could change while a batch deletes"
            ),
            remedy: "correct the function",
        };
        refused_alone(&db, locks_nothing).await;
    }
}

#[tokio::test]
async fn lock_plan_that_is_not_volatile_is_refused() {
    let (db, _) = with_rows().await;
    for volatility in ["STABLE", "IMMUTABLE"] {
        db.execute(&format!(
            "ALTER FUNCTION main_app.lock_plan(uuid) {volatility}"
        ))
        .await;
        let stable = Refusal {
            object: "lock_plan",
            what: "the function is not VOLATILE",
            remedy: "ALTER FUNCTION main_app.lock_plan(uuid) VOLATILE",
        };
        let remedy = refused_alone(&db, stable).await;
        db.execute(&remedy).await;
        accepted(&db.url, &[]).await;
    }
}

#[tokio::test]
async fn function_of_another_type_is_refused() {
    let (db, _) = with_rows().await;
    for (function, arguments, returns, wanted) in [
        (
            "lock_plan",
            "uuid",
            "varchar",
            "it returns character varying, not text",
        ),
        (
            "erase_payloads",
            "uuid[]",
            "integer",
            "it returns integer, not bigint",
        ),
        (
            "erase_payloads",
            "uuid[]",
            "SETOF bigint",
            "there is no function main_app.erase_payloads(uuid[])",
        ),
    ] {
        db.execute(&format!(
            "ALTER FUNCTION main_app.{function}({arguments}) RENAME TO kept;
             CREATE FUNCTION main_app.{function}(ids {arguments}) RETURNS {returns} LANGUAGE sql AS 'SELECT NULL::{}'",
            returns.trim_start_matches("SETOF ")
        ))
        .await;
        let other = Refusal {
            object: function,
            what: wanted,
            remedy: "",
        };
        refused_alone(&db, other).await;
        db.execute(&format!(
            "DROP FUNCTION main_app.{function}({arguments});
             ALTER FUNCTION main_app.kept({arguments}) RENAME TO {function}"
        ))
        .await;
    }
    accepted(&db.url, &[]).await;
}

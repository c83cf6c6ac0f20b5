//! Views that cannot be purged through are refused by name, before a row goes and without a trace.

use crate::support::{
    attach::{Refusal, accepted, find, of, refused, refused_alone, replace_view, with_rows},
    product,
};

/// The columns of a purge view of the reference main app, in their order.
const CHECKS: &str = "ctid, id, org_id, env_id, checked_at, status, modified_count, not_in_git_count, unknown_count, summary_json";
const APPROVALS: &str = "ctid, id, org_id, incident_id, action, status, requested_by, decided_by, notes, created_at, decided_at";
/// How a view that is not plain is refused, whatever it is instead.
const NOT_PLAIN: Refusal<'static> = Refusal {
    object: "drift_checks",
    what: "the view is not a plain view of one table",
    remedy: "without DISTINCT, LIMIT, UNION or grouping",
};

fn columns_of(table: &str, columns: &str) -> String {
    let columns: Vec<_> = columns
        .split(", ")
        .map(|column| format!("{table}.{column}"))
        .collect();
    columns.join(", ")
}

#[tokio::test]
async fn security_barrier_is_refused_however_it_is_written_and_the_remedy_mends_it() {
    let (db, org) = with_rows().await;
    for on in ["", " = t", " = 'ON'", " = yes", " = 1"] {
        db.execute(&format!(
            "ALTER VIEW main_app.drift_checks SET (security_barrier{on})"
        ))
        .await;
        let remedy = refused_alone(
            &db,
            Refusal {
                object: "drift_checks",
                what: "security_barrier",
                remedy: "ALTER VIEW main_app.drift_checks RESET (security_barrier)",
            },
        )
        .await;
        db.execute(&remedy).await;
        accepted(&db.url, &[]).await;
    }
    db.execute("ALTER VIEW main_app.drift_checks SET (security_barrier = off)")
        .await;
    accepted(&db.url, &[]).await;
    product::purge(&db.url, org).await;
}

#[tokio::test]
async fn security_invoker_is_refused() {
    let (db, _) = with_rows().await;
    db.execute("ALTER VIEW main_app.approvals SET (security_invoker = 'Yes')")
        .await;
    let remedy = refused_alone(
        &db,
        Refusal {
            object: "approvals",
            what: "security_invoker",
            remedy: "RESET (security_invoker)",
        },
    )
    .await;
    db.execute(&remedy).await;
    accepted(&db.url, &[]).await;
}

#[tokio::test]
async fn join_is_refused_as_a_purge_view() {
    let (db, _) = with_rows().await;
    let approvals = columns_of("a", APPROVALS);
    let from = "FROM public.approvals a JOIN public.incidents i ON i.id = a.incident_id";
    replace_view(&db, "approvals", &format!("SELECT {approvals} {from}")).await;
    let joined = Refusal {
        object: "approvals",
        what: "the view reads public.approvals and public.incidents",
        remedy: "without a join or a sub-select",
    };
    refused(&db, &db.url, &[], joined).await;
    // Nor is one that only looks another table up.
    let only = "WHERE EXISTS (SELECT FROM public.incidents i WHERE i.id = a.incident_id)";
    let select = format!("SELECT {approvals} FROM public.approvals a {only}");
    replace_view(&db, "approvals", &select).await;
    let looked_up = Refusal {
        object: "approvals",
        what: "the view reads public.approvals and public.incidents",
        remedy: "without a join or a sub-select",
    };
    refused(&db, &db.url, &[], looked_up).await;
}

#[tokio::test]
async fn distinct_limit_and_union_are_refused() {
    let (db, _) = with_rows().await;
    let columns = columns_of("c", CHECKS);
    let all = format!("SELECT {columns} FROM public.drift_checks c");
    for select in [
        format!("SELECT DISTINCT {columns} FROM public.drift_checks c"),
        format!("{all} LIMIT 1000000"),
        format!("{all} UNION ALL {all}"),
        format!("{all} EXCEPT {all}"),
        format!("{all} GROUP BY {columns}"),
    ] {
        replace_view(&db, "drift_checks", &select).await;
        refused(&db, &db.url, &[], NOT_PLAIN).await;
    }
    // The planner leaves these out, and Postgres still deletes nothing through them.
    for select in [
        format!("{all} OFFSET 0"),
        format!("SELECT {columns} FROM public.drift_checks c TABLESAMPLE SYSTEM (100)"),
    ] {
        replace_view(&db, "drift_checks", &select).await;
        let not_updatable = Refusal {
            object: "drift_checks",
            what: "",
            remedy: "without DISTINCT, LIMIT, UNION or grouping",
        };
        refused(&db, &db.url, &[], not_updatable).await;
    }
}

#[tokio::test]
async fn union_of_two_tables_is_refused() {
    let (db, _) = with_rows().await;
    db.execute("CREATE TABLE public.old_checks (LIKE public.drift_checks)")
        .await;
    let columns = columns_of("c", CHECKS);
    let union = format!(
        "SELECT {columns} FROM public.drift_checks c UNION ALL SELECT {columns} FROM public.old_checks c"
    );
    replace_view(&db, "drift_checks", &union).await;
    let two = Refusal {
        object: "drift_checks",
        what: "the view reads public.drift_checks and public.old_checks",
        remedy: "select from the one table",
    };
    refused(&db, &db.url, &[], two).await;
}

#[tokio::test]
async fn table_with_children_by_inheritance_is_refused() {
    let (db, _) = with_rows().await;
    db.execute("CREATE TABLE public.old_checks () INHERITS (public.drift_checks)")
        .await;
    refused(&db, &db.url, &[], NOT_PLAIN).await;
}

#[tokio::test]
async fn key_behind_a_cast_is_refused() {
    let (db, _) = with_rows().await;
    for (column, behind, shown) in [
        ("id", "(c.id::text)::bigint", "column id is the expression"),
        ("id", "c.id + 0", "column id is the expression"),
        (
            "org_id",
            "(c.org_id::text)::uuid",
            "column org_id is the expression",
        ),
        (
            "checked_at",
            "c.checked_at + interval '0'",
            "column checked_at is the expression",
        ),
    ] {
        let columns = columns_of("c", CHECKS)
            .replace(&format!("c.{column},"), &format!("{behind} AS {column},"));
        let select = format!("SELECT {columns} FROM public.drift_checks c");
        replace_view(&db, "drift_checks", &select).await;
        refused_alone(
            &db,
            Refusal {
                object: "drift_checks",
                what: shown,
                remedy: &format!("select the column itself AS {column}, without a cast"),
            },
        )
        .await;
    }
}

#[tokio::test]
async fn place_of_a_row_must_be_the_tables_own() {
    let (db, _) = with_rows().await;
    let columns = columns_of("c", CHECKS).replace("c.ctid,", "'(0,1)'::tid AS ctid,");
    let select = format!("SELECT {columns} FROM public.drift_checks c");
    replace_view(&db, "drift_checks", &select).await;
    let place = Refusal {
        object: "drift_checks",
        what: "column ctid is",
        remedy: "select the",
    };
    refused_alone(&db, place).await;
}

#[tokio::test]
async fn partitioned_table_is_refused() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE TABLE public.parted (LIKE public.drift_checks) PARTITION BY RANGE (checked_at);
         CREATE TABLE public.parted_all PARTITION OF public.parted DEFAULT;
         INSERT INTO public.parted SELECT * FROM public.drift_checks;",
    )
    .await;
    let columns = columns_of("c", CHECKS);
    let select = format!("SELECT {columns} FROM public.parted c");
    replace_view(&db, "drift_checks", &select).await;
    let partitioned = Refusal {
        object: "drift_checks",
        what: "public.parted is a partitioned table",
        remedy: "ordinary table",
    };
    refused(&db, &db.url, &[], partitioned).await;
}

#[tokio::test]
async fn view_over_a_view_is_refused() {
    let (db, _) = with_rows().await;
    db.execute(&format!(
        "CREATE VIEW public.live_checks AS SELECT {CHECKS} FROM public.drift_checks"
    ))
    .await;
    let select = format!("SELECT {CHECKS} FROM public.live_checks");
    replace_view(&db, "drift_checks", &select).await;
    let over_a_view = Refusal {
        object: "drift_checks",
        what: "public.live_checks is a view",
        remedy: "ordinary table",
    };
    refused(&db, &db.url, &[], over_a_view).await;
}

#[tokio::test]
async fn instead_of_trigger_on_a_view_is_refused() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
         CREATE TRIGGER keep INSTEAD OF DELETE ON main_app.approvals FOR EACH ROW EXECUTE FUNCTION keep();",
    )
    .await;
    let instead = Refusal {
        object: "approvals",
        what: "the trigger keep",
        remedy: "DROP TRIGGER keep ON main_app.approvals",
    };
    let remedy = refused_alone(&db, instead).await;
    db.execute(&remedy).await;
    accepted(&db.url, &[]).await;
}

#[tokio::test]
async fn instead_rule_is_refused_on_the_table_and_on_the_view() {
    let (db, _) = with_rows().await;
    for on in ["public.approvals", "main_app.approvals"] {
        for action in ["NOTHING", "(SELECT 1)"] {
            db.execute(&format!(
                "CREATE RULE keep AS ON DELETE TO {on} DO INSTEAD {action}"
            ))
            .await;
            let rule = Refusal {
                object: "approvals",
                what: &format!("the rule keep on {on}"),
                remedy: if on.starts_with("main_app") {
                    "DROP RULE keep ON main_app.approvals"
                } else {
                    "write it as a trigger, or drop it"
                },
            };
            refused_alone(&db, rule).await;
            db.execute(&format!("DROP RULE keep ON {on}")).await;
        }
    }
    accepted(&db.url, &[]).await;
}

#[tokio::test]
async fn what_is_missing_is_refused_by_name() {
    for (drop, object, what, remedy) in [
        (
            "DROP VIEW main_app.environments",
            "environments",
            "there is no view main_app.environments",
            "attach template",
        ),
        (
            "DROP VIEW main_app.incidents",
            "incidents",
            "there is no view main_app.incidents",
            "attach template",
        ),
        (
            "DROP DOMAIN main_app.check_key",
            "check_key",
            "there is no domain main_app.check_key",
            "CREATE DOMAIN main_app.check_key",
        ),
        (
            "DROP FUNCTION main_app.lock_plan(uuid)",
            "lock_plan",
            "there is no function main_app.lock_plan(uuid)",
            "attach template",
        ),
        (
            "DROP FUNCTION main_app.erase_payloads(uuid[])",
            "erase_payloads",
            "there is no function main_app.erase_payloads(uuid[])",
            "attach template",
        ),
        (
            "DROP VIEW main_app.organizations;
             CREATE VIEW main_app.organizations AS SELECT id, name, created_at FROM public.organizations",
            "organizations",
            "column plan is missing",
            "NULL::text AS plan",
        ),
        (
            "DROP VIEW main_app.organizations;
             CREATE TABLE main_app.organizations AS SELECT * FROM public.organizations",
            "organizations",
            "there is no view main_app.organizations",
            "attach template",
        ),
    ] {
        let (db, _) = with_rows().await;
        db.execute(drop).await;
        let missing = Refusal { object, what, remedy };
        refused(&db, &db.url, &[], missing).await;
    }
}

#[tokio::test]
async fn view_with_a_condition_is_accepted_and_the_condition_is_told() {
    let (db, _) = with_rows().await;
    let columns = columns_of("c", CHECKS);
    let select = format!("SELECT {columns} FROM public.drift_checks c WHERE c.status <> 'unknown'");
    replace_view(&db, "drift_checks", &select).await;
    let warnings = accepted(&db.url, &[]).await;
    find(
        &warnings,
        "drift_checks",
        "other rows of the table are never purged",
    );
    assert_eq!(of(&warnings, "drift_checks").len(), 1, "{warnings:#?}");
}

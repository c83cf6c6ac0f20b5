//! Foreign keys to the tables that lose rows: what stands in the way, and what would go along uncounted, is refused by name
//! before a row goes.

use serde_json::json;

use crate::support::{
    attach::{Refusal, accepted, find, problems, refused, refused_alone, report, with_rows},
    product, runs,
};

const CASCADES: &str = "DRIFT_RETENTION_ATTACH__CASCADES";

#[tokio::test]
async fn restrict_is_refused_and_set_null_by_its_remedy_is_only_a_warning() {
    for action in [
        "",
        "ON DELETE RESTRICT",
        "ON UPDATE CASCADE ON DELETE NO ACTION",
        "DEFERRABLE INITIALLY DEFERRED",
    ] {
        let (db, org) = with_rows().await;
        db.execute(&format!(
            "CREATE TABLE public.\"Notes\" (id int PRIMARY KEY, check_id bigint);
             ALTER TABLE public.\"Notes\" ADD CONSTRAINT \"of the check\" FOREIGN KEY (check_id)
                 REFERENCES public.drift_checks (id) {action};
             INSERT INTO public.\"Notes\" SELECT 1, id FROM drift_checks ORDER BY checked_at LIMIT 1"
        ))
        .await;
        let remedy = refused_alone(
            &db,
            Refusal {
                object: "drift_checks",
                what: "rows of public.Notes prevent the deletion through the foreign key \"of the check\"",
                remedy: "ON DELETE SET NULL",
            },
        )
        .await;
        let kept: String = db.value("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'of the check'").await;
        db.execute(&remedy).await;
        let warnings = accepted(&db.url, &[]).await;
        find(
            &warnings,
            "drift_checks",
            "rows of public.Notes lose their reference",
        );
        // The rest of the constraint is as it was.
        let now: String = db.value("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'of the check'").await;
        for part in ["ON UPDATE CASCADE", "DEFERRABLE INITIALLY DEFERRED"] {
            assert_eq!(kept.contains(part), now.contains(part), "{kept}: {now}");
        }
        product::purge(&db.url, org).await;
        let loose = "SELECT count(*) FROM public.\"Notes\" WHERE check_id IS NULL";
        assert_eq!(db.value::<i64>(loose).await, 1);
    }
}

#[tokio::test]
async fn cascade_is_refused_until_the_table_is_named() {
    let (db, org) = with_rows().await;
    db.execute(
        "CREATE SCHEMA audit;
         CREATE TABLE audit.approvals (approval_id uuid REFERENCES public.approvals (id) ON DELETE CASCADE)",
    )
    .await;
    let cascade = || Refusal {
        object: "approvals",
        what: "rows of audit.approvals would also be deleted through the foreign key approvals_approval_id_fkey",
        remedy: "attach.cascades = [\"audit.approvals\"]",
    };
    let remedy = refused_alone(&db, cascade()).await;
    // Another table's name, or the same without its schema, is no leave.
    for other in [
        "audit.approval",
        "approvals",
        "public.approvals",
        "AUDIT.APPROVALS",
    ] {
        refused(&db, &db.url, &[(CASCADES, other)], cascade()).await;
    }
    accepted(&db.url, &[(CASCADES, "public.other, audit.approvals")]).await;

    let (_, statement) = remedy.split_once("if not: ").unwrap();
    db.execute(statement).await;
    accepted(&db.url, &[]).await;
    product::purge(&db.url, org).await;
}

#[tokio::test]
async fn cascade_of_a_cascade_is_refused_until_both_tables_are_named() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE TABLE audit (id int PRIMARY KEY, approval_id uuid REFERENCES public.approvals (id) ON DELETE CASCADE);
         CREATE TABLE audit_line (audit_id int REFERENCES audit (id) ON DELETE CASCADE)",
    )
    .await;
    let first = Refusal {
        object: "approvals",
        what: "rows of public.audit would also be deleted",
        remedy: "attach.cascades = [\"public.audit\"]",
    };
    let (_, beside) = refused(&db, &db.url, &[], first).await;
    assert_eq!(beside.len(), 1, "{beside:#?}");
    let second = Refusal {
        object: "approvals",
        what: "rows of public.audit_line would also be deleted",
        remedy: "attach.cascades = [\"public.audit_line\"]",
    };
    let env = [(CASCADES, "public.audit")];
    let (_, beside) = refused(&db, &db.url, &env, second).await;
    assert!(beside.is_empty(), "{beside:#?}");
    accepted(&db.url, &[(CASCADES, "public.audit,public.audit_line")]).await;
}

#[tokio::test]
async fn restrict_behind_a_cascade_is_refused() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE TABLE audit (id int PRIMARY KEY, approval_id uuid REFERENCES public.approvals (id) ON DELETE CASCADE);
         CREATE TABLE audit_line (audit_id int REFERENCES audit (id))",
    )
    .await;
    let behind = Refusal {
        object: "approvals",
        what: "rows of public.audit_line prevent the deletion",
        remedy: "ON DELETE SET NULL",
    };
    refused(&db, &db.url, &[(CASCADES, "public.audit")], behind).await;
}

#[tokio::test]
async fn cascade_from_flags_and_from_payloads_is_refused_too() {
    let (db, _) = with_rows().await;
    db.execute(
        "CREATE TABLE flag_notes (check_id bigint, workflow_id text,
             FOREIGN KEY (check_id, workflow_id) REFERENCES workflow_drift_flags ON DELETE CASCADE);
         CREATE TABLE payload_notes (incident_id uuid REFERENCES incident_payloads ON DELETE CASCADE)",
    )
    .await;
    let flags = Refusal {
        object: "drift_checks",
        what: "rows of public.flag_notes would also be deleted",
        remedy: "attach.cascades = [\"public.flag_notes\"]",
    };
    let (_, beside) = refused(&db, &db.url, &[], flags).await;
    find(
        &beside,
        "incident_payloads",
        "rows of public.payload_notes would also be deleted",
    );
    assert_eq!(beside.len(), 1, "{beside:#?}");
}

#[tokio::test]
async fn foreign_key_to_an_incident_is_none_of_our_business() {
    let (db, org) = with_rows().await;
    db.execute("CREATE TABLE notes (incident_id uuid REFERENCES incidents (id) ON DELETE CASCADE); INSERT INTO notes SELECT id FROM incidents")
        .await;
    accepted(&db.url, &[]).await;
    product::purge(&db.url, org).await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM notes").await, 1);
}

const FLAGS_KEY: &str = "workflow_drift_flags_check_id_fkey";

#[tokio::test]
async fn flags_key_without_cascade_is_refused_with_the_statement_that_mends_it() {
    let (db, org) = with_rows().await;
    db.execute(&format!(
        "ALTER TABLE workflow_drift_flags DROP CONSTRAINT {FLAGS_KEY},
             ADD CONSTRAINT {FLAGS_KEY} FOREIGN KEY (check_id) REFERENCES drift_checks (id)"
    ))
    .await;
    let remedy = refused_alone(
        &db,
        Refusal {
            object: "drift_checks",
            what: &format!("flags are not deleted with their check: the foreign key {FLAGS_KEY} of public.workflow_drift_flags has no CASCADE"),
            remedy: "ON DELETE CASCADE",
        },
    )
    .await;
    db.execute(&remedy).await;
    accepted(&db.url, &[]).await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(&db, run).await, [4, 8, 1, 1]);
}

#[tokio::test]
async fn flags_key_that_forgets_the_check_is_refused() {
    let (db, _) = with_rows().await;
    db.execute(&format!(
        "ALTER TABLE workflow_drift_flags DROP CONSTRAINT workflow_drift_flags_pkey, DROP CONSTRAINT {FLAGS_KEY};
         ALTER TABLE workflow_drift_flags ALTER check_id DROP NOT NULL,
             ADD CONSTRAINT {FLAGS_KEY} FOREIGN KEY (check_id) REFERENCES drift_checks (id) ON DELETE SET NULL"
    ))
    .await;
    let forgets = Refusal {
        object: "drift_checks",
        what: "flags are not deleted with their check",
        remedy: "ON DELETE CASCADE",
    };
    let remedy = refused_alone(&db, forgets).await;
    db.execute(&remedy).await;
    accepted(&db.url, &[]).await;
}

#[tokio::test]
async fn flags_without_any_key_are_refused() {
    let (db, org) = with_rows().await;
    db.execute(&format!(
        "ALTER TABLE workflow_drift_flags DROP CONSTRAINT {FLAGS_KEY}"
    ))
    .await;
    let remedy = refused_alone(
        &db,
        Refusal {
            object: "workflow_drift_flags",
            what: "public.workflow_drift_flags has no foreign key to public.drift_checks: flags would be left behind",
            remedy: "ON DELETE CASCADE",
        },
    )
    .await;
    let (statement, _) = remedy.split_once(", with your columns' names").unwrap();
    db.execute(statement).await;
    accepted(&db.url, &[]).await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(runs::purged(&db, run).await, [4, 8, 1, 1]);
}

#[tokio::test]
async fn main_app_without_flags_maps_them_to_nothing_as_the_template_says() {
    for key in ["NULL::main_app.check_key", "NULL::bigint"] {
        let (db, org) = with_rows().await;
        db.execute(&format!(
            "DROP VIEW main_app.workflow_drift_flags;
             DROP TABLE workflow_drift_flags;
             CREATE VIEW main_app.workflow_drift_flags (check_id, workflow_id, workflow_name, flag) AS
             SELECT {key}, ''::text, ''::text, ''::text WHERE false"
        ))
        .await;
        accepted(&db.url, &[]).await;
        let (_, report) = report(&db.url, &[]).await;
        assert_eq!(problems(&report), []);
        let preview =
            product::json(&db.url, &["preview", "--org", &org.to_string(), "--json"]).await;
        let tables = json!({"drift_checks": 4, "workflow_drift_flags": 0, "incident_payloads": 1, "approvals": 1});
        assert_eq!(preview["organizations"][0]["tables"], tables);
        let run = product::purge(&db.url, org).await;
        assert_eq!(runs::purged(&db, run).await, [4, 0, 1, 1]);
    }
}

//! A main app with other tables than ours, and who may do what: the worker no more than it must, the owner of the tables
//! and whoever migrates may be two, and rows that are hidden are an error.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{TestDatabase, product, roles, workflowops};

#[tokio::test]
async fn role_of_the_worker_purges_by_the_rules_and_has_no_right_on_the_tables() {
    let db = workflowops::database().await;
    roles::apply(&db).await;
    let worker = roles::user_in(&db, "drift_retention_worker").await;
    workflowops::apply_the_rules(&db).await;
    assert_eq!(
        workflowops::previewed(&worker).await,
        workflowops::expected(&db).await
    );

    workflowops::purge_all(&worker).await;

    workflowops::assert_purged_by_the_rules(&db).await;
    let rights: Value = db
        .value(
            "SELECT coalesce(jsonb_agg(c.relname), '[]') FROM pg_class c
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
               AND has_any_column_privilege('drift_retention_worker', c.oid, 'SELECT, INSERT, UPDATE')",
        )
        .await;
    assert_eq!(rights, Value::Array(Vec::new()));
    // The main app writes payloads again, and the worker takes them.
    db.execute("UPDATE drift_incidents SET summary = '{}' WHERE payload_purged_at IS NOT NULL")
        .await;
    let tenant = workflowops::tenant(&db, "on pro").await;
    let as_worker = TestDatabase {
        pool: roles::pool_of(&worker),
        url: worker,
    };
    workflowops::purge(&as_worker, tenant).await;
    let left = format!(
        "SELECT count(*) FROM drift_incidents WHERE tenant_id = '{tenant}' AND summary = '{{}}'"
    );
    assert_eq!(db.value::<i64>(&left).await, 0);
}

/// Fewer rights than the tables' owner, and policies that hide every subscription.
async fn hide_subscriptions(db: &TestDatabase) {
    let role = format!("test_{}", Uuid::new_v4().simple());
    db.execute(&format!(
        "CREATE ROLE {role};
         GRANT USAGE ON SCHEMA main_app TO {role};
         GRANT SELECT ON main_app.organizations TO {role};
         GRANT SELECT, UPDATE ON tenants, tenant_provider_subscriptions, provider_plans, plans TO {role};
         GRANT CREATE ON SCHEMA main_app TO {role};
         ALTER FUNCTION main_app.lock_plan(uuid) OWNER TO {role};
         ALTER POLICY everybody ON tenant_provider_subscriptions USING (false)"
    ))
    .await;
}

#[tokio::test]
async fn hidden_subscriptions_are_an_error_and_not_the_free_plan() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on enterprise").await;
    hide_subscriptions(&db).await;
    let lock = format!("SELECT main_app.lock_plan('{tenant}')");
    assert_eq!(
        roles::refusal(&db.pool, &lock).await.as_deref(),
        Some("42501")
    );
}

/// A database whose tables belong to one role and whose schemas `retention` and `apalis` to another, and the owner of the
/// tables.
async fn of_two_owners() -> (TestDatabase, TestDatabase) {
    let db = TestDatabase::empty().await;
    db.execute(workflowops::SCHEMA).await;
    db.execute(workflowops::SEED).await;
    let keeper = roles::user_in(&db, "").await;
    let owner = roles::user_in(&db, "").await;
    let [keeper_name, owner_name] = [&keeper, &owner].map(|url| {
        let (_, rest) = url.split_once("://").unwrap();
        rest.split_once(':').unwrap().0.to_owned()
    });
    db.execute(&format!(
        "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {keeper_name}, {owner_name}', current_database()); END $$;
         GRANT CREATE ON SCHEMA public TO {owner_name};
         DO $$ DECLARE moved text; BEGIN
             FOR moved IN SELECT format('ALTER TABLE public.%I OWNER TO {owner_name}', relname)
                          FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
                 EXECUTE moved;
             END LOOP;
         END $$"
    ))
    .await;
    let migrated = product::run(&keeper, &["migrate", "up"]).await;
    assert!(migrated.status.success(), "{migrated:?}");
    // What the head of the mapping says.
    let keeper = TestDatabase {
        pool: roles::pool_of(&keeper),
        url: keeper,
    };
    for grant in [
        "GRANT USAGE ON SCHEMA retention TO the_owner",
        "GRANT SELECT, INSERT ON retention.rewritten_payloads TO the_owner",
        "GRANT EXECUTE ON FUNCTION retention.note_rewritten_payload() TO the_owner",
    ] {
        assert!(workflowops::MAPPING.contains(grant), "{grant}");
        keeper
            .execute(&grant.replace("the_owner", &owner_name))
            .await;
    }
    let owner = TestDatabase {
        pool: roles::pool_of(&owner),
        url: owner,
    };
    (db, owner)
}

#[tokio::test]
async fn tables_and_records_may_belong_to_two_roles() {
    let (db, owner) = of_two_owners().await;
    workflowops::map(&owner, workflowops::MAPPING).await;
    roles::apply(&db).await;
    let url = roles::user_in(&db, "drift_retention_worker").await;
    workflowops::apply_the_rules(&db).await;

    workflowops::purge_all(&url).await;

    workflowops::assert_purged_by_the_rules(&db).await;
    // The main app's own writes call a function of the other role.
    owner
        .execute("UPDATE drift_incidents SET summary = '{}' WHERE payload_purged_at IS NOT NULL")
        .await;
    let written: i64 = db
        .value("SELECT count(*) FROM drift_incidents WHERE summary = '{}'")
        .await;
    let noted: i64 = db
        .value("SELECT count(*) FROM retention.rewritten_payloads")
        .await;
    assert!(noted >= written && written > 100, "{noted} of {written}");
}

//! The app that WorkflowOps grew from: its schema with every trap, tenants of every kind, the mapping that
//! `deploy/postgres/main_app.workflowops.sql` gives it, and the rules once more, in plain SQL over its own tables.

use std::{io::Write, process::Output};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{TestDatabase, product};

/// The tables of the app.
pub const SCHEMA: &str = include_str!("workflowops/schema.sql");
/// Its tenants and their rows.
pub const SEED: &str = include_str!("workflowops/seed.sql");
const MODEL: &str = include_str!("workflowops/model.sql");
/// The mapping that operators are given.
pub const MAPPING: &str = include_str!("../../../deploy/postgres/main_app.workflowops.sql");

/// The setting that lets rows of the audit trail go with their approvals.
pub const CASCADES: (&str, &str) = ("DRIFT_RETENTION_ATTACH__CASCADES", "public.approval_audit");

/// How one main app of this kind differs from the next.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The type of the key of checks.
    pub check_key: &'static str,
    /// Whether the status of incidents is an enum.
    pub has_enum: bool,
}

/// The app as it is.
pub const AS_IT_IS: Shape = Shape {
    check_key: "uuid",
    has_enum: false,
};

impl Shape {
    /// The type and default of the key of checks.
    fn key_column(self) -> &'static str {
        match self.check_key {
            "bigint" => "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
            "integer" => "integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
            "text" => "text PRIMARY KEY DEFAULT 'chk_' || gen_random_uuid()",
            _ => "uuid PRIMARY KEY DEFAULT gen_random_uuid()",
        }
    }

    fn schema(self) -> String {
        let keys = replaced(
            SCHEMA,
            "uuid PRIMARY KEY DEFAULT gen_random_uuid(), -- the key of a check",
            &format!("{}, -- the key of a check", self.key_column()),
        );
        let reference = "NOT NULL REFERENCES public.drift_check_history";
        let keys = replaced(
            &keys,
            &format!("uuid {reference}"),
            &format!("{} {reference}", self.check_key),
        );
        if !self.has_enum {
            return keys;
        }
        let status = "text NOT NULL DEFAULT 'open'";
        format!(
            "CREATE TYPE public.incident_status AS ENUM ('open', 'acknowledged', 'closed');\n{}",
            replaced(
                &keys,
                status,
                &status.replace("text", "public.incident_status")
            )
        )
    }

    fn seed(self) -> String {
        if self.has_enum {
            replaced(
                SEED,
                "k.status, k.stored",
                "k.status::public.incident_status, k.stored",
            )
        } else {
            SEED.to_owned()
        }
    }

    /// The mapping as its operator would change it.
    fn mapping(self) -> String {
        let key = format!("check_key AS {};", self.check_key);
        let mapping = replaced(MAPPING, "check_key AS uuid;", &key);
        if self.has_enum {
            replaced(&mapping, "i.status,", "i.status::text AS status,")
        } else {
            mapping
        }
    }
}

/// The text with one thing replaced, which must be in it.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} has gone");
    text.replace(from, to)
}

/// The app's database with its tenants, the product's schemas and the mapping.
pub async fn database() -> TestDatabase {
    database_of(AS_IT_IS).await
}

/// The same, of another shape.
pub async fn database_of(shape: Shape) -> TestDatabase {
    let db = unmapped(shape).await;
    map(&db, &shape.mapping()).await;
    db
}

/// The app's database with its tenants and the product's schemas, and no mapping yet.
pub async fn unmapped(shape: Shape) -> TestDatabase {
    let db = TestDatabase::empty().await;
    db.execute(&shape.schema()).await;
    db.execute(&shape.seed()).await;
    let migrated = product::run(&db.url, &["migrate", "up"]).await;
    assert!(migrated.status.success(), "{migrated:?}");
    db
}

/// Applies a mapping as an operator does: it has statements that no transaction can hold.
pub async fn map(db: &TestDatabase, mapping: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(mapping.as_bytes()).unwrap();
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file"]);
    let applied = psql.arg(file.path()).arg(&db.url).output().await.unwrap();
    assert!(applied.status.success(), "{applied:?}");
}

/// The tenant of this name.
pub async fn tenant(db: &TestDatabase, name: &str) -> Uuid {
    db.value(&format!("SELECT id FROM tenants WHERE name = '{name}'"))
        .await
}

/// Puts a tenant on a plan of the first provider, by the subscription that it has there or by a new one.
pub fn subscribe(tenant: Uuid, plan: &str) -> String {
    format!(
        "INSERT INTO tenant_provider_subscriptions (tenant_id, provider_id, plan_id)
         SELECT '{tenant}', pp.provider_id, pp.id
         FROM provider_plans pp JOIN providers p ON p.id = pp.provider_id
         WHERE p.name = 'n8n' AND pp.name = '{plan}'
         ON CONFLICT (tenant_id, provider_id) DO UPDATE SET plan_id = EXCLUDED.plan_id"
    )
}

/// So many checks of a new environment, one a minute, the newest so old; `flags` flags each.
pub async fn many_checks(db: &TestDatabase, tenant: Uuid, count: i64, newest: &str, flags: i64) {
    db.execute(&format!(
        "WITH env AS (INSERT INTO environments (tenant_id, n8n_name) VALUES ('{tenant}', 'busy') RETURNING id),
         made AS (
             INSERT INTO drift_check_history (tenant_id, environment_id, checked_at, drift_status)
             SELECT '{tenant}', env.id, now() - interval '{newest}' - make_interval(mins => n), 'IN_SYNC'
             FROM env, generate_series(0, {count} - 1) n RETURNING id)
         INSERT INTO drift_check_workflow_flags (check_id, workflow_id, drift_flag)
         SELECT id, gen_random_uuid(), 'DRIFTED' FROM made, generate_series(1, {flags})"
    ))
    .await;
}

/// Keeps all that there is, and writes down what the rules say of it.
pub async fn apply_the_rules(db: &TestDatabase) {
    db.execute(MODEL).await;
}

/// By tenant and table: the rows that go by the rules.
pub async fn expected(db: &TestDatabase) -> Value {
    db.value(
        "SELECT jsonb_object_agg(tenant_id, to_jsonb(c) - 'tenant_id' - 'approval_audit') FROM expected.counts c",
    )
    .await
}

/// By tenant and table: the rows that the product says would go. Tenants without a known plan are left out.
pub async fn previewed(url: &str) -> Value {
    let preview = product::command(url)
        .args(["preview", "--all", "--json"])
        .envs([CASCADES])
        .output()
        .await
        .unwrap();
    let preview: Value = read(&preview);
    let organizations = preview["organizations"].as_array().unwrap().iter();
    organizations
        .filter(|org| org["error_kind"].is_null())
        .map(|org| {
            (
                org["org_id"].as_str().unwrap().to_owned(),
                org["tables"].clone(),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn read(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Purges every tenant: those without a known plan fail.
pub async fn purge_all(url: &str) {
    let purge = product::command(url)
        .args(["purge", "--all", "--work", "--json"])
        .envs([CASCADES])
        .output()
        .await
        .unwrap();
    assert!(read(&purge)["runs"].is_array(), "{purge:?}");
}

/// Purges one tenant.
pub async fn purge(db: &TestDatabase, tenant: Uuid) {
    let purge = product::command(&db.url)
        .args(["purge", "--org", &tenant.to_string(), "--work"])
        .envs([CASCADES])
        .output()
        .await
        .unwrap();
    assert!(purge.status.success(), "{purge:?}");
}

/// By tenant and table: the rows that the succeeded runs have recorded.
pub async fn recorded(db: &TestDatabase) -> Value {
    db.value(
        "SELECT jsonb_object_agg(org_id, tables)
         FROM (SELECT org_id, jsonb_object_agg(table_name, rows) AS tables
               FROM (SELECT r.org_id, s.table_name, sum(s.rows_purged) AS rows
                     FROM retention.purge_runs r JOIN retention.purge_run_steps s ON s.run_id = r.id
                     WHERE r.status = 'succeeded' GROUP BY 1, 2) steps
               GROUP BY org_id) orgs",
    )
    .await
}

/// Fails unless every row is there, or gone, or changed, exactly as the rules say, and is recorded so.
pub async fn assert_purged_by_the_rules(db: &TestDatabase) {
    let differences: Value = db
        .value(
            "SELECT coalesce(jsonb_agg(to_jsonb(d)), '[]') FROM (SELECT * FROM expected.differences LIMIT 5) d",
        )
        .await;
    assert_eq!(
        differences,
        json!([]),
        "what is there, and what the rules say"
    );
    assert_eq!(
        recorded(db).await,
        expected(db).await,
        "recorded, and by the rules"
    );
    let audit: Vec<i64> = db
        .value(
            "SELECT ARRAY[(SELECT sum(approval_audit)::bigint FROM expected.counts),
                          (SELECT coalesce(sum((cascaded ->> 'public.approval_audit')::bigint), 0)::bigint
                           FROM retention.purge_run_steps WHERE table_name = 'approvals')]",
        )
        .await;
    assert_eq!(audit[0], audit[1], "rows of the audit trail, and recorded");
}

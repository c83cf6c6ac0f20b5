//! `attach check` as an operator reads it, and refusals that must leave no trace.

use std::process::Output;

use serde_json::Value;
use uuid::Uuid;

use super::{TestDatabase, app::App, checksum, product, text};

/// What somebody is told who is to be refused.
pub struct Refusal<'a> {
    /// The object's name in schema `main_app`.
    pub object: &'a str,
    /// A part of what is wrong.
    pub what: &'a str,
    /// A part of what mends it.
    pub remedy: &'a str,
}

/// A problem as `attach check --json` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub object: String,
    pub severity: String,
    pub what: String,
    pub remedy: String,
}

/// A migrated database with something of every kind to purge; the organization.
pub async fn with_rows() -> (TestDatabase, Uuid) {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_all_kinds_expired(5).await;
    (db, org)
}

/// The report of `attach check --json` and its exit code.
pub async fn report(url: &str, env: &[(&str, &str)]) -> (Option<i32>, Value) {
    let output = product::command(url)
        .args(["attach", "check", "--json"])
        .envs(env.iter().copied())
        .output()
        .await
        .unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", text::shown(&output)));
    (output.status.code(), report)
}

/// Every problem of a report.
pub fn problems(report: &Value) -> Vec<Problem> {
    let mut all = Vec::new();
    for object in report["objects"].as_array().unwrap() {
        for problem in object["problems"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            all.push(Problem {
                object: text(&object["name"]),
                severity: text(&problem["severity"]),
                what: text(&problem["what"]),
                remedy: text(&problem["remedy"]),
            });
        }
    }
    all
}

/// One object of a report.
pub fn object<'a>(report: &'a Value, name: &str) -> &'a Value {
    let objects = report["objects"].as_array().unwrap();
    let full = format!("main_app.{name}");
    objects.iter().find(|o| o["name"] == full.as_str()).unwrap()
}

/// The report of a mapping that can be used; its warnings.
pub async fn accepted(url: &str, env: &[(&str, &str)]) -> Vec<Problem> {
    let (code, report) = report(url, env).await;
    let problems = problems(&report);
    assert_eq!(
        (code, &report["ok"]),
        (Some(0), &true.into()),
        "{problems:#?}"
    );
    assert!(
        problems.iter().all(|p| p.severity == "warn"),
        "{problems:#?}"
    );
    problems
}

/// The warnings of `problems` about one object.
pub fn of<'a>(problems: &'a [Problem], object: &str) -> Vec<&'a Problem> {
    let full = format!("main_app.{object}");
    problems.iter().filter(|p| p.object == full).collect()
}

/// Fails unless there is a problem of `object` with `what` in it; returns it.
#[track_caller]
pub fn find<'a>(problems: &'a [Problem], object: &str, what: &str) -> &'a Problem {
    let found = of(problems, object)
        .into_iter()
        .find(|p| p.what.contains(what));
    found.unwrap_or_else(|| panic!("{object}: {what}: {problems:#?}"))
}

/// Fails unless `attach check`, `purge --work` and `serve` refuse, each by the object's name, and the database is as it was.
/// Returns the problem, and everything that was refused beside it.
pub async fn refused(
    db: &TestDatabase,
    url: &str,
    env: &[(&str, &str)],
    refusal: Refusal<'_>,
) -> (Problem, Vec<Problem>) {
    let before = checksum::of(db).await;
    let (code, report) = report(url, env).await;
    let all = problems(&report);
    assert_eq!((code, &report["ok"]), (Some(1), &false.into()), "{all:#?}");
    let found = find(&all, refusal.object, refusal.what).clone();
    assert_eq!(found.severity, "refuse", "{found:?}");
    assert!(found.remedy.contains(refusal.remedy), "{found:?}");
    checksum::assert_same(&before, &checksum::of(db).await, "attach check");

    let says = format!("main_app.{}: {}", refusal.object, found.what);
    for args in [
        ["purge", "--all", "--work"].as_slice(),
        &["serve", "--roles", "worker"],
        &["serve"],
    ] {
        let output = start(url, args, env).await;
        let stderr = text::stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(
            stderr.contains("`drift-retention attach check`"),
            "{args:?}: {stderr}"
        );
        assert!(stderr.contains(&says), "{args:?}: {stderr}");
        checksum::assert_same(&before, &checksum::of(db).await, &format!("{args:?}"));
    }
    let beside = all
        .into_iter()
        .filter(|p| p.severity == "refuse" && *p != found)
        .collect();
    (found, beside)
}

/// The same, where nothing else is wrong; returns the remedy.
pub async fn refused_alone(db: &TestDatabase, refusal: Refusal<'_>) -> String {
    let (found, beside) = refused(db, &db.url, &[], refusal).await;
    assert!(beside.is_empty(), "{found:?}, and: {beside:#?}");
    found.remedy
}

/// Runs a command that must end by itself: it is given thirty seconds.
async fn start(url: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let output = product::command(url)
        .args(args)
        .env("DRIFT_RETENTION_HTTP__LISTEN", "127.0.0.1:0")
        .envs(env.iter().copied())
        .output();
    let limit = std::time::Duration::from_secs(30);
    tokio::time::timeout(limit, output)
        .await
        .unwrap_or_else(|_| panic!("{args:?} was not refused"))
        .unwrap()
}

/// A new role without login that owns the mapping, and no table; what it may do with the tables is up to the test.
pub async fn owner_of_views(db: &TestDatabase) -> String {
    let role = format!("owner_{}", Uuid::new_v4().simple());
    db.execute(&format!(
        "CREATE ROLE {role};
         ALTER SCHEMA main_app OWNER TO {role};
         ALTER VIEW main_app.organizations OWNER TO {role};
         ALTER VIEW main_app.environments OWNER TO {role};
         ALTER VIEW main_app.drift_checks OWNER TO {role};
         ALTER VIEW main_app.workflow_drift_flags OWNER TO {role};
         ALTER VIEW main_app.incidents OWNER TO {role};
         ALTER VIEW main_app.incident_payloads OWNER TO {role};
         ALTER VIEW main_app.approvals OWNER TO {role};
         ALTER FUNCTION main_app.lock_plan(uuid) OWNER TO {role};
         ALTER FUNCTION main_app.erase_payloads(uuid[]) OWNER TO {role};"
    ))
    .await;
    role
}

/// The rights that the template names for a role that owns the views and not the tables.
pub async fn grant_all(db: &TestDatabase, role: &str) {
    db.execute(&format!(
        "GRANT SELECT ON organizations, environments, workflow_drift_flags, incident_payloads TO {role};
         GRANT SELECT, UPDATE, DELETE ON drift_checks, approvals TO {role};
         GRANT SELECT, UPDATE ON incidents TO {role};
         GRANT UPDATE ON organizations TO {role};
         GRANT DELETE ON incident_payloads TO {role};"
    ))
    .await;
}

/// Puts another view in place of one of the mapping.
pub async fn replace_view(db: &TestDatabase, name: &str, select: &str) {
    db.execute(&format!(
        "DROP VIEW main_app.{name}; CREATE VIEW main_app.{name} AS {select}"
    ))
    .await;
}

//! The environment as platforms leave it: variables that nobody filled in, and those that Kubernetes adds.

use std::process::Output;

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, SECRET, serve},
    product::{self, Service},
    text::{shown, stderr, stdout},
};

async fn run(url: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = product::command(url);
    command.args(args).envs(env.iter().copied());
    command.output().await.unwrap()
}

/// The environment name of every setting, as the documentation has it.
async fn variables() -> Vec<String> {
    let reference = stdout(&product::run("", &["config", "reference"]).await);
    let rows = reference.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split('`').nth(3).unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn every_setting_that_is_empty_is_as_good_as_not_set() {
    let db = TestDatabase::new().await;
    let variables = variables().await;
    assert!(variables.len() > 25, "{variables:?}");
    let empty: Vec<_> = variables.iter().map(|name| (name.as_str(), "")).collect();
    let filled_in = run(&db.url, &["config", "show"], &empty).await;
    let left_out = run(&db.url, &["config", "show"], &[]).await;
    assert_eq!(shown(&filled_in), shown(&left_out));
    let checked = run(&db.url, &["config", "check"], &empty).await;
    assert!(checked.status.success(), "{}", shown(&checked));

    // A file's value stays where the environment has nothing to say.
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), "[auth]\nissuer = \"https://id.example\"\n").unwrap();
    let args = ["config", "show", "--config", file.path().to_str().unwrap()];
    let text = stdout(&run(&db.url, &args, &empty).await);
    assert!(text.contains("issuer = \"https://id.example\""), "{text}");
}

#[tokio::test]
async fn service_and_purge_are_none_the_worse_for_settings_that_are_empty() {
    let db = TestDatabase::new().await;
    let org: Uuid = App::on(&db.pool).org_with_expired(4).await;
    let variables = variables().await;
    let empty: Vec<_> = variables
        .iter()
        .map(String::as_str)
        // Those that a test sets itself.
        .filter(|name| {
            *name != SECRET.0 && !name.contains("_HTTP__") && !name.contains("_WORKER__")
        })
        .map(|name| (name, ""))
        .collect();
    let service = serve(&db, "api", &empty).await;
    let client = Client::operator(&service).await;
    let preview = client.read(&format!("/orgs/{org}/retention/preview")).await;
    assert_eq!(preview["tables"]["drift_checks"], 3);

    let args = ["purge", "--org", &org.to_string(), "--work"];
    let output = run(&db.url, &args, &empty).await;
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM drift_checks").await,
        1
    );
}

#[tokio::test]
async fn empty_name_of_who_signs_or_for_whom_is_refused_in_a_file() {
    for (key, setting) in [
        ("issuer", "auth.issuer"),
        ("audience", "auth.audience"),
        ("jwks", "auth.jwks"),
    ] {
        let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        std::fs::write(file.path(), format!("[auth]\n{key} = \"\"\n")).unwrap();
        let path = file.path().to_str().unwrap();
        let output = product::run("", &["config", "check", "--config", path]).await;
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        let says = format!("{setting} must be absent or set to a value, not empty");
        assert!(stderr(&output).contains(&says), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn variables_of_a_kubernetes_service_are_named_with_what_turns_them_off() {
    for (variable, value) in [
        ("DRIFT_RETENTION_PORT", "tcp://10.0.0.1:8080"),
        ("DRIFT_RETENTION_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("DRIFT_RETENTION_SERVICE_HOST", "10.0.0.1"),
        ("DRIFT_RETENTION_SERVICE_PORT_HTTP", "8080"),
        ("DRIFT_RETENTION_WORKER_PORT", "tcp://10.0.0.1:8080"),
    ] {
        for args in [
            ["config", "check"].as_slice(),
            &["serve"],
            &["runs", "list"],
        ] {
            let output = run("postgres://db/app", args, &[(variable, value)]).await;
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{text}");
            let says = format!("error: {variable} is no setting");
            assert!(text.starts_with(&says), "{text}");
            assert!(text.contains("enableServiceLinks: false"), "{text}");
        }
    }
}

/// What the service has logged once it was ready, for a given `RUST_LOG`.
async fn logged(db: &TestDatabase, rust_log: &str) -> Vec<Value> {
    let env = [("RUST_LOG", rust_log), SECRET];
    let (service, log) = Service::logged(&db.url, "api", &env);
    service.ready().await;
    service.kill().await;
    let text = std::fs::read_to_string(log.path()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn says(lines: &[Value], level: &str, text: &str) -> bool {
    lines.iter().any(|line| {
        line["level"] == level && line["message"].as_str().is_some_and(|m| m.contains(text))
    })
}

#[tokio::test]
async fn log_filter_that_is_empty_or_misspelled_silences_nothing_and_is_told() {
    let db = TestDatabase::new().await;
    for mistaken in ["", "inof", "drift-retention=debug", "info,sqlx=wran"] {
        let lines = logged(&db, mistaken).await;
        assert!(says(&lines, "INFO", "serving"), "{mistaken:?}: {lines:?}");
        assert!(says(&lines, "WARN", "RUST_LOG"), "{mistaken:?}: {lines:?}");
    }
    let meant = logged(&db, "info").await;
    assert!(says(&meant, "INFO", "serving"), "{meant:?}");
    assert!(!says(&meant, "WARN", "RUST_LOG"), "{meant:?}");
    assert!(logged(&db, "off").await.is_empty());
    // A command is as quiet as ever, but for the warning.
    let output = run(&db.url, &["runs", "list"], &[("RUST_LOG", "inof")]).await;
    assert!(output.status.success(), "{}", shown(&output));
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("RUST_LOG"), "{text}");
}

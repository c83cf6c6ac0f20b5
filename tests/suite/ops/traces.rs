//! Traces: from the request to every batch, over gRPC and over HTTP, and never in the purge's way.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, id, serve},
    collector::{self, Collector, Protocol, attribute, environment, hex},
    console::{Console, Who},
    product::{self, Service, until_status},
    visitor::Visitor,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

async fn traced(db: &TestDatabase, roles: &str, env: &[(&'static str, String)]) -> Service {
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    serve(db, roles, &env).await
}

/// Asks for a purge in the caller's trace.
async fn purge_in_trace(client: &Client, org: Uuid) -> Uuid {
    let request = client
        .request(Method::POST, &format!("/orgs/{org}/retention/purge"))
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    id(&response.json::<Value>().await.unwrap()["run_id"])
}

#[tokio::test]
async fn request_enqueue_run_steps_and_batches_are_one_trace() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let db = TestDatabase::new().await;
        let org = App::on(&db.pool).org_with_expired(11).await;
        let (collector, env) = Collector::start(protocol).await;
        let service = traced(&db, "api,worker", &env).await;
        let client = Client::operator(&service).await;

        let run = purge_in_trace(&client, org).await;
        until_status(&db.pool, run, "succeeded").await;

        // Spans come in when they end: the outer ones last.
        let job = collector.one("purge run").await;
        let request = collector.one("POST /orgs/{orgId}/retention/purge").await;
        let enqueue = collector.one("enqueue").await;
        let verify = collector.one("verify").await;
        let steps = collector.named("step");
        let step = steps
            .iter()
            .find(|step| attribute(step, "table").as_deref() == Some("drift_checks"))
            .unwrap();
        let batches = collector.named("batch");
        let batch = batches
            .iter()
            .find(|batch| batch.parent_span_id == step.span_id)
            .unwrap();

        assert_eq!(hex(&request.trace_id), TRACE, "{protocol:?}");
        assert_eq!(hex(&request.parent_span_id), CALLER);
        assert_eq!(enqueue.parent_span_id, request.span_id);
        assert_eq!(job.parent_span_id, enqueue.span_id);
        assert_eq!(job.trace_id, request.trace_id);
        assert_eq!(attribute(&job, "run_id"), Some(run.to_string()));
        assert_eq!(steps.len(), 1, "the datasets with rows due");
        assert_eq!(step.parent_span_id, job.span_id);
        assert_eq!(attribute(step, "rows").as_deref(), Some("30"));
        assert_eq!(attribute(batch, "rows").as_deref(), Some("30"));
        assert_eq!(attribute(batch, "table").as_deref(), Some("drift_checks"));
        assert_eq!(verify.parent_span_id, job.span_id);
    }
}

#[tokio::test]
async fn replay_is_a_trace_of_its_own_with_a_link_to_the_one_it_repeats() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("legacy").await;
    let (collector, env) = Collector::start(Protocol::Http).await;
    let service = traced(&db, "api,worker", &env).await;
    let client = Client::operator(&service).await;
    let failed = purge_in_trace(&client, org).await;
    until_status(&db.pool, failed, "failed").await;
    db.execute("UPDATE organizations SET plan = 'pro'").await;

    let path = format!("/retention/runs/{failed}/replay");
    let (_, replayed) = client.post(&path, &json!({})).await;
    until_status(&db.pool, id(&replayed["run_id"]), "succeeded").await;

    product::eventually("both runs are traced", async || {
        collector.named("purge run").len() == 2
    })
    .await;
    let jobs = collector.named("purge run");
    let (first, second) = (&jobs[0], &jobs[1]);
    assert_eq!(hex(&first.trace_id), TRACE);
    assert_ne!(second.trace_id, first.trace_id);
    assert_eq!(hex(&second.links[0].trace_id), TRACE);
    assert_eq!(attribute(second, "replay_of"), Some(failed.to_string()));
    assert!(first.links.is_empty());
    assert_eq!(attribute(first, "replay_of"), None);
}

#[tokio::test]
async fn main_apps_own_transaction_can_be_the_parent() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(3).await;
    let (collector, env) = Collector::start(Protocol::Http).await;
    let _service = traced(&db, "worker", &env).await;
    db.execute(&format!(
        "BEGIN;
         SELECT set_config('retention.traceparent', '00-{TRACE}-{CALLER}-01', true);
         SELECT retention.enqueue_purge('{org}', 'billing');
         COMMIT"
    ))
    .await;

    let job = collector.one("purge run").await;
    assert_eq!(hex(&job.trace_id), TRACE);
    assert_eq!(hex(&job.parent_span_id), CALLER);
}

#[tokio::test]
async fn log_lines_of_a_run_carry_its_trace() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(3).await;
    let (_collector, env) = Collector::start(Protocol::Http).await;
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut service = Service::start_logging(&db.url, "worker", &env, writer);
    db.execute(&format!(
        "BEGIN;
         SELECT set_config('retention.traceparent', '00-{TRACE}-{CALLER}-01', true);
         SELECT retention.enqueue_purge('{org}', 'billing');
         COMMIT"
    ))
    .await;
    let run: Uuid = db.value("SELECT id FROM retention.purge_runs").await;
    until_status(&db.pool, run, "succeeded").await;
    // Told once it is recorded: the worker drains before it ends.
    service.signal(Signal::SIGTERM);
    assert_eq!(service.ends_within(Duration::from_secs(20)).await, Some(0));

    let lines: Vec<Value> = BufReader::new(reader)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect();
    let purged = lines
        .iter()
        .find(|line| line["table"] == "drift_checks")
        .unwrap();
    assert_eq!(purged["span"]["trace_id"], TRACE, "{purged}");
    assert_eq!(purged["run_id"], run.to_string());
}

/// A service that sends to such a collector purges, and ends in time.
async fn purges_and_ends(env: &[(&'static str, String)]) {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(30).await;
    let mut service = traced(&db, "api,worker", env).await;

    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;

    service.signal(Signal::SIGTERM);
    assert_eq!(service.ends_within(Duration::from_secs(20)).await, Some(0));
}

#[tokio::test]
async fn collector_that_never_answers_holds_up_neither_a_purge_nor_the_end() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        // It accepts connections, and that is all it does.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        purges_and_ends(&environment(protocol, listener.local_addr().unwrap())).await;
    }
}

#[tokio::test]
async fn collector_that_is_not_there_holds_up_neither_a_purge_nor_the_end() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        // Nothing listens there: every connection is refused.
        purges_and_ends(&environment(protocol, ([127, 0, 0, 1], 1).into())).await;
    }
}

#[tokio::test]
async fn collector_that_answers_with_errors_holds_up_neither_a_purge_nor_the_end() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        purges_and_ends(&collector::refusing(protocol).await).await;
    }
}

/// Whether a run that is asked for in this environment belongs to a trace.
async fn is_traced(db: &TestDatabase, env: &[(&str, &str)]) -> bool {
    let org = App::on(&db.pool).org("pro").await.to_string();
    let asked = product::command(&db.url)
        .args(["purge", "--org", &org])
        .envs(env.iter().copied())
        .output()
        .await
        .unwrap();
    assert!(asked.status.success(), "{asked:?}");
    let traceparent = "SELECT traceparent IS NOT NULL FROM retention.purge_runs WHERE org_id = ";
    db.value(&format!("{traceparent}'{org}'")).await
}

#[tokio::test]
async fn standard_variables_switch_traces_on_and_off() {
    let db = TestDatabase::new().await;
    let exporter = |value| ("OTEL_TRACES_EXPORTER", value);
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    assert!(!is_traced(&db, &[]).await);
    assert!(is_traced(&db, &[exporter("otlp")]).await);
    assert!(is_traced(&db, &[endpoint]).await);
    assert!(!is_traced(&db, &[endpoint, exporter("none")]).await);
    assert!(!is_traced(&db, &[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).await);
}

#[tokio::test]
async fn collector_on_this_machine_is_meant_where_none_is_named() {
    // The standard's port of OTLP over HTTP. Where a collector of somebody's has it, there is nothing to look at.
    let Ok(listener) = tokio::net::TcpListener::bind("127.0.0.1:4318").await else {
        return;
    };
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(3).await;
    let collector = Collector::at(listener);
    let env = [("OTEL_TRACES_EXPORTER", "otlp".to_owned())];
    let service = traced(&db, "worker", &env).await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    service.signal(Signal::SIGTERM);
    let job = collector.one("purge run").await;
    assert_eq!(attribute(&job, "run_id"), Some(run.to_string()));
}

#[tokio::test]
async fn scheduled_run_belongs_to_the_trace_of_its_slot() {
    let db = TestDatabase::new().await;
    App::on(&db.pool).org_with_expired(3).await;
    let (collector, mut env) = Collector::start(Protocol::Http).await;
    env.push(("DRIFT_RETENTION_SCHEDULE__CRON", "* * * * * *".to_owned()));
    let _service = traced(&db, "scheduler,worker", &env).await;

    let job = collector.one("purge run").await;

    assert_eq!(attribute(&job, "trigger").as_deref(), Some("schedule"));
    let enqueue = collector.parent_of(&job).await;
    assert_eq!(enqueue.name, "enqueue");
    assert!(attribute(&enqueue, "slot").is_some());
}

#[tokio::test]
async fn commands_run_belongs_to_the_commands_trace() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(3).await.to_string();
    let (collector, env) = Collector::start(Protocol::Http).await;
    let purged = product::command(&db.url)
        .args(["purge", "--org", &org, "--work"])
        .envs(env)
        .output()
        .await
        .unwrap();
    assert!(purged.status.success(), "{purged:?}");

    let job = collector.one("purge run").await;
    let enqueue = collector.parent_of(&job).await;

    assert_eq!(enqueue.name, "enqueue");
    assert_eq!(attribute(&enqueue, "org_id"), Some(org));
}

#[tokio::test]
async fn run_asked_for_in_the_console_belongs_to_the_requests_trace() {
    let (collector, env) = Collector::start(Protocol::Http).await;
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let console = Console::on(TestDatabase::new().await, "api,worker", &env).await;
    let org = console.app.org_with_expired(3).await;
    let mut admin = Visitor::signed_in(&console, Who::Admin(org)).await;
    let page = format!("/console/orgs/{org}/retention/purge");
    let csrf = admin.csrf(&page).await;
    let asked = admin
        .post(&page, &[("csrf", &csrf), ("reason", "audit")])
        .await;
    assert_eq!(asked.status, 303, "{}", asked.text());

    let job = collector.one("purge run").await;
    let enqueue = collector.parent_of(&job).await;
    let request = collector.parent_of(&enqueue).await;

    assert!(
        request.name.starts_with("POST /console/orgs/"),
        "{}",
        request.name
    );
    assert_eq!(job.trace_id, request.trace_id);
}

#[tokio::test]
async fn collector_that_cannot_be_used_is_said_and_stops_nothing() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(3).await.to_string();
    let purged = product::command(&db.url)
        .args(["purge", "--org", &org, "--work"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
        .output()
        .await
        .unwrap();
    assert!(purged.status.success(), "{purged:?}");
    let log = String::from_utf8(purged.stderr).unwrap();
    assert!(
        log.contains("nothing is traced") && log.contains("carrier-pigeon"),
        "{log}"
    );
}

#[tokio::test]
async fn log_tells_nothing_of_a_collectors_url() {
    let db = TestDatabase::new().await;
    for protocol in ["http/protobuf", "grpc"] {
        for endpoint in [
            "http://hunter1:hunter2@127.0.0.1:1/?key=hunter3",
            "ht tp://hunter1:hunter2@127.0.0.1:1",
        ] {
            let env = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                ("RUST_LOG", "trace"),
            ];
            let (mut service, log) = Service::logged(&db.url, "api", &env);
            service.ready().await;
            service.get("/retention/runs").await.unwrap();
            // The last spans are sent, in vain.
            service.signal(Signal::SIGTERM);
            service.ends_within(Duration::from_secs(20)).await;
            let log = std::fs::read_to_string(log.path()).unwrap();
            let told = log.lines().find(|line| line.contains("hunter"));
            assert_eq!(told, None, "{protocol}, {endpoint}");
            let is_usable = endpoint.starts_with("http:");
            assert_eq!(log.contains("nothing is traced"), !is_usable, "{endpoint}");
        }
    }
}

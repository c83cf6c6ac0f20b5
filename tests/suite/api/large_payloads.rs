//! A payload of any size and shape that jsonb can hold is answered: as it is, as text, or as too large.

use std::fs;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    api::answer,
    client::Client,
    console::{Console, Who},
    scene::Scene,
    visitor::Visitor,
};

const MEGABYTE: usize = 1_000_000;
const TOO_LARGE: &str = "The drift details of this incident are too large to show.";

/// A service, and an incident whose payload is what a test writes.
struct Shown {
    console: Console,
    client: Client,
    operator: Visitor,
    org: Uuid,
    incident: Uuid,
}

impl Shown {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let scene = Scene::of(&db, "Nordwind").await;
        let console = Console::on(db, "api", &[]).await;
        Self {
            client: Client::operator(&console.service).await,
            operator: Visitor::signed_in(&console, Who::Operator).await,
            org: scene.org,
            incident: scene.incidents[0],
            console,
        }
    }

    /// What the API and the page say of this payload, an expression of SQL.
    async fn with(&mut self, payload: &str) -> (Value, String) {
        self.write(payload).await;
        let path = format!("/orgs/{}/incidents/{}", self.org, self.incident);
        let said = answer(self.client.request(Method::GET, &path)).await;
        assert_eq!(said.status, 200, "{}", said.text());
        assert!(said.body.len() <= MEGABYTE, "{} bytes", said.body.len());
        let page = self.operator.get(&format!("/console{path}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        assert!(page.body.len() <= MEGABYTE, "{} bytes", page.body.len());
        let said = said.json();
        assert_eq!(said["payload_available"], true);
        assert_eq!(said["payload_purged_at"], json!(null));
        (said, page.text())
    }

    async fn write(&self, payload: &str) {
        let sql = format!(
            "UPDATE incident_payloads SET payload_json = {payload} WHERE incident_id = '{}'",
            self.incident
        );
        self.console.db.execute(&sql).await;
    }

    /// The most memory that the service ever had, in bytes.
    fn peak(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.console.service.pid()));
        let status = status.unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes: usize = peak
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        kilobytes * 1024
    }
}

#[tokio::test]
async fn payload_that_is_too_large_is_said_to_be_there_and_not_read() {
    let mut shown = Shown::new().await;
    // Compressible, stored in a fraction of its size; and not.
    for payload in [
        "jsonb_build_object('diff', repeat('x', 20000000))",
        "jsonb_build_object('diff', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 20000) n))",
        "to_jsonb(repeat('\"', 140000))",
    ] {
        let (said, page) = shown.with(payload).await;
        assert_eq!(said["payload_state"], "too_large", "{payload}");
        assert_eq!(said["notice"], TOO_LARGE, "{payload}");
        assert_eq!(said.get("drift_summary"), None, "{payload}");
        assert!(page.contains(TOO_LARGE), "{payload}");
    }
}

#[tokio::test]
async fn payload_as_large_as_is_shown_is_answered_whole() {
    let mut shown = Shown::new().await;
    for payload in [
        "to_jsonb(repeat('x', 262142))",
        "to_jsonb(repeat('<', 262142))",
        "(SELECT jsonb_agg(''::text) FROM generate_series(1, 65000))",
        "(SELECT jsonb_build_object('workflows', jsonb_agg(0)) FROM generate_series(1, 80000))",
        "(SELECT jsonb_build_object('workflows', jsonb_build_array(jsonb_build_object('nodes', jsonb_agg('{}'::jsonb))))
          FROM generate_series(1, 60000))",
        "(repeat('[', 120) || repeat('0,', 30000) || '0' || repeat(']', 120))::jsonb",
    ] {
        let (said, _) = shown.with(payload).await;
        assert_eq!(said["payload_state"], "available", "{payload}");
        let written: Value = shown
            .console
            .db
            .value(&format!("SELECT {payload}"))
            .await;
        assert_eq!(said["drift_summary"], written, "{payload}");
    }
}

#[tokio::test]
async fn payload_that_no_parser_reads_is_answered_as_text() {
    let mut shown = Shown::new().await;
    for (payload, text) in [
        ("'{\"retries\": 1e400}'::jsonb", "{\"retries\": 1000"),
        (
            "(repeat('[', 2000) || '\"deep\"' || repeat(']', 2000))::jsonb",
            "[[[[[[",
        ),
    ] {
        let (said, page) = shown.with(payload).await;
        assert_eq!(said["payload_state"], "available", "{payload}");
        let summary = said["drift_summary"].as_str().unwrap();
        assert!(summary.starts_with(text), "{payload}");
        assert!(page.contains("This is their text"), "{payload}");
    }
}

/// The page of one such payload had 99 MB, ten at once took 3 GB of memory.
#[tokio::test]
async fn ten_readers_of_a_large_payload_cost_little_memory() {
    let shown = Shown::new().await;
    shown
        .write("jsonb_build_object('diff', repeat('\"', 10000000))")
        .await;
    let path = format!("/orgs/{}/incidents/{}", shown.org, shown.incident);
    let read = async |mut reader: Visitor| {
        let page = reader.get(&format!("/console{path}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let said = answer(shown.client.request(Method::GET, &path)).await;
        assert_eq!(said.status, 200, "{}", said.text());
    };
    join_all((0..10).map(|_| read(shown.operator.clone()))).await;
    let peak = shown.peak();
    assert!(peak < 300_000_000, "{peak} bytes");
}

//! Replaying more than one request may take: a bounded number at a time, and repeating it comes to the end.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    TestDatabase,
    client::{Client, serve},
};

fn replayed(answer: &Value) -> BTreeSet<String> {
    let runs = answer["runs"].as_array().unwrap().iter();
    runs.map(|run| run["replay_of"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_thousand_runs_are_replayed_at_once_and_the_next_request_takes_the_rest() {
    let db = TestDatabase::new().await;
    db.execute(
        "WITH org AS (INSERT INTO organizations (name, plan)
                      SELECT 'Org ' || n, 'pro' FROM generate_series(1, 1003) n RETURNING id)
         INSERT INTO retention.purge_runs (org_id, trigger, requested_by, status, error_kind, finished_at)
         SELECT id, 'schedule', 'scheduler', 'failed', 'database', now() FROM org",
    )
    .await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;
    let replay = async |dry_run| {
        let (status, answer) = client
            .post("/retention/runs/replay", &json!({"dry_run": dry_run}))
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["matching"], 1003);
        replayed(&answer)
    };

    let (would, first, second) = (replay(true).await, replay(false).await, replay(false).await);

    assert_eq!(would, first, "what was shown is what was replayed");
    assert_eq!(first.len(), 1000);
    assert_eq!(first.union(&second).count(), 1003);
    let live: i64 = db
        .value("SELECT count(*) FROM retention.purge_runs WHERE status = 'queued'")
        .await;
    assert_eq!(live, 1003);
}

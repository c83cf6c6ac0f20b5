//! What failed is repeated from the console: one run, the selected ones, or all that match, and never another.

use std::collections::BTreeSet;

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    browser::Browser,
    console::{Console, Who},
    product::{self, eventually, until_status},
};

/// A run of an organization whose plan nobody knows: it fails at once.
async fn failed(console: &Console, org: Uuid) -> Uuid {
    let run = product::enqueue(&console.db.pool, org).await;
    until_status(&console.db.pool, run, "failed").await;
    run
}

/// A past run that failed this way.
async fn past(console: &Console, error_kind: &str) -> (Uuid, Uuid) {
    let org = console.app.org("pro").await;
    let run = console
        .db
        .value(&format!(
            "INSERT INTO retention.purge_runs (org_id, trigger, requested_by, status, error_kind, finished_at)
             VALUES ('{org}', 'purge_now', 'test', 'failed', '{error_kind}', now()) RETURNING id"
        ))
        .await;
    (org, run)
}

/// The runs that the table on the page names.
async fn listed(browser: &Browser) -> BTreeSet<Uuid> {
    let ids = "return [...document.querySelectorAll('main table a.id')].map(a => a.href.split('/').pop())";
    let ids = browser.execute(ids).await;
    ids.as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().parse().unwrap())
        .collect()
}

/// What has been replayed: the old runs.
async fn replayed(console: &Console) -> BTreeSet<Uuid> {
    let all: Vec<Uuid> = console
        .db
        .value("SELECT coalesce(array_agg(replay_of), '{}') FROM retention.purge_runs WHERE trigger = 'replay'")
        .await;
    all.into_iter().collect()
}

#[tokio::test]
async fn failed_run_is_replayed_once_its_plan_is_corrected_and_succeeds() {
    let console = Console::working().await;
    let org = console.app.org("legacy-2019").await;
    let run = failed(&console, org).await;
    let browser = console.open_for(Who::Operator).await;
    browser
        .go(&console.url("/console/runs?status=failed"))
        .await;
    browser.click_link(&run.simple().to_string()[..8]).await;
    browser.wait_for_text("policy_unresolved").await;
    assert!(
        browser.has_text("legacy-2019").await,
        "what is wrong: {}",
        browser.text().await
    );

    console
        .db
        .execute(&format!(
            "UPDATE organizations SET plan = 'pro' WHERE id = '{org}'"
        ))
        .await;
    browser.click_link("Replay…").await;
    browser.wait_for_heading("Replay runs?").await;
    assert_eq!(listed(&browser).await, BTreeSet::from([run]));
    browser.fill("Reason", "the plan is corrected").await;
    browser.click_button("Replay 1 run").await;
    browser.wait_for_text("Verified").await;

    let new: Uuid = browser
        .path()
        .await
        .strip_prefix("/console/runs/")
        .unwrap()
        .parse()
        .unwrap();
    assert_ne!(new, run, "a run of its own");
    assert!(browser.has_text("the plan is corrected").await);
    assert_eq!(product::status(&console.db.pool, new).await, "succeeded");
    assert_eq!(
        product::status(&console.db.pool, run).await,
        "failed",
        "the record stays"
    );
}

#[tokio::test]
async fn replay_of_all_that_match_is_previewed_exactly_then_done() {
    let console = Console::start().await;
    let (_, one) = past(&console, "database").await;
    let (_, other) = past(&console, "database").await;
    let (_, of_another_kind) = past(&console, "lease_lost").await;
    let browser = console.open_for(Who::Operator).await;
    browser.go(&console.url("/console/runs")).await;
    browser.fill("Error kind", "database").await;
    browser.choose("Status", "failed").await;
    browser.click_button("Filter").await;
    browser.wait_for_path("error_kind=database").await;
    assert_eq!(listed(&browser).await, BTreeSet::from([one, other]));

    browser.click_link("Replay all that match…").await;
    browser.wait_for_heading("Replay runs?").await;
    let previewed = listed(&browser).await;
    assert_eq!(previewed, BTreeSet::from([one, other]));
    assert!(
        replayed(&console).await.is_empty(),
        "a preview does nothing"
    );
    browser.fill("Reason", "the database is back").await;
    browser.click_button("Replay 2 runs").await;
    browser.wait_for_text("2 runs replayed").await;

    assert_eq!(replayed(&console).await, previewed);
    assert!(!previewed.contains(&of_another_kind));
    let reasons: Value = console
        .db
        .value("SELECT jsonb_agg(DISTINCT reason) FROM retention.operator_actions")
        .await;
    assert_eq!(reasons, serde_json::json!(["the database is back"]));
}

#[tokio::test]
async fn run_that_fails_after_the_preview_is_not_replayed_with_it() {
    let console = Console::start().await;
    let (_, one) = past(&console, "database").await;
    let (_, other) = past(&console, "database").await;
    let browser = console.open_for(Who::Operator).await;
    browser
        .go(&console.url("/console/runs/replay?error_kind=database"))
        .await;
    let previewed = listed(&browser).await;

    past(&console, "database").await;
    browser.click_button("Replay 2 runs").await;
    browser.wait_for_text("2 runs replayed").await;

    assert_eq!(previewed, BTreeSet::from([one, other]));
    assert_eq!(replayed(&console).await, previewed);
}

#[tokio::test]
async fn selected_runs_are_replayed_and_no_other() {
    let console = Console::start().await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(past(&console, "database").await.1);
    }
    let browser = console.open_for(Who::Operator).await;
    browser.go(&console.url("/console/runs")).await;

    for run in &runs[..2] {
        browser.toggle(&format!("Select run {run}")).await;
    }
    browser.click_button("Replay selected…").await;
    browser.wait_for_heading("Replay runs?").await;
    assert_eq!(listed(&browser).await, runs[..2].iter().copied().collect());
    browser.click_button("Replay 2 runs").await;
    browser.wait_for_text("2 runs replayed").await;

    assert_eq!(
        replayed(&console).await,
        runs[..2].iter().copied().collect()
    );
}

#[tokio::test]
async fn nothing_selected_replays_nothing() {
    let console = Console::start().await;
    past(&console, "database").await;
    let browser = console.open_for(Who::Operator).await;
    browser.go(&console.url("/console/runs")).await;

    browser.click_button("Replay selected…").await;

    // One click more must not replay everything.
    eventually("there is an answer", async || {
        browser.path().await != "/console/runs"
    })
    .await;
    browser.settled().await;
    assert_eq!(
        listed(&browser).await,
        BTreeSet::new(),
        "{}",
        browser.text().await
    );
    assert!(!browser.has_button("Replay 1 run").await);
}

#[tokio::test]
async fn failed_runs_are_grouped_by_what_went_wrong() {
    let console = Console::start().await;
    for kind in ["database", "database", "lease_lost"] {
        past(&console, kind).await;
    }
    let browser = console.open_for(Who::Operator).await;
    browser.go(&console.url("/console/runs")).await;
    assert!(browser.has_text("2 runs of 2 organizations").await);
    assert!(
        browser.has_text("1 run of 1 organization").await,
        "{}",
        browser.text().await
    );

    browser.click_link("lease_lost").await;
    browser
        .wait_for_path("/console/runs?status=failed&error_kind=lease_lost")
        .await;

    assert_eq!(listed(&browser).await.len(), 1);
}

#[tokio::test]
async fn runs_are_found_by_time_and_organization() {
    let console = Console::start().await;
    let (org, run) = past(&console, "database").await;
    past(&console, "database").await;
    let browser = console.open_for(Who::Operator).await;
    browser.go(&console.url("/console/runs")).await;
    browser.fill("Organization", &org.to_string()).await;
    browser.click_button("Filter").await;
    browser.wait_for_path(&format!("org={org}")).await;
    assert_eq!(listed(&browser).await, BTreeSet::from([run]));

    for (field, expected) in [("since", 2), ("until", 0)] {
        let page = format!("/console/runs?{field}=2000-01-01T00:00");
        browser.go(&console.url(&page)).await;
        assert_eq!(listed(&browser).await.len(), expected, "{field}");
        let kept = format!("return document.querySelector('[name={field}]').value");
        assert_eq!(browser.execute(&kept).await, "2000-01-01T00:00", "{field}");
    }
}

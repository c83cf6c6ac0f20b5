//! Purge now in the console: the numbers first, then the run, followed until it is verified.

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    browser::Browser,
    console::{Console, Who},
    ledger,
    product::{self, eventually, until_status},
    runs, trouble,
};

/// The run whose page the browser shows.
async fn run_of(browser: &Browser) -> Uuid {
    let path = browser.path().await;
    path.strip_prefix("/console/runs/")
        .unwrap_or_else(|| panic!("{path}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn purge_now_repeats_the_previews_numbers_and_records_who_and_why() {
    let console = Console::working().await;
    let org = console.app.org_with_expired(1_235).await;
    let browser = console.open_for(Who::Admin(org)).await;
    browser.click_link("Retention").await;
    browser.wait_for_heading("Retention").await;
    // All but the newest check, two flags each; in the preview and again before it goes.
    for _ in 0..2 {
        browser.wait_for_text("1 234").await;
        browser.wait_for_text("2 468").await;
        if browser.has_link("Purge now").await {
            browser.click_link("Purge now").await;
            browser.wait_for_heading("Purge now?").await;
        }
    }

    browser.fill("Reason", "the audit is tomorrow").await;
    browser.click_button("Purge now").await;
    browser.wait_for_text("Verified").await;

    let run = runs::run(&console.db, run_of(&browser).await).await;
    assert_eq!(run["requested_by"], "ada");
    assert_eq!(run["reason"], "the audit is tomorrow");
    assert_eq!(run["status"], "succeeded");
    assert_eq!(runs::counts(&console.db, org).await, [1, 2, 0, 0]);
}

#[tokio::test]
async fn runs_page_follows_it_to_verified_without_being_loaded_again() {
    let console = Console::working().await;
    let org = console.app.org_with_expired(2_001).await;
    let browser = console.open_for(Who::Admin(org)).await;
    trouble::deletes_take(&console.db.pool, 0.2).await;
    browser
        .go(&console.url(&format!("/console/orgs/{org}/retention/purge")))
        .await;
    browser.click_button("Purge now").await;
    browser.wait_for_text("A worker is on it.").await;
    browser.execute("window.loadedOnce = true").await;

    let shown = async || {
        let rows = "return document.querySelector('#progress tfoot .number')?.innerText ?? '0'";
        let rows = browser.execute(rows).await;
        rows.as_str()
            .unwrap()
            .replace(|c: char| !c.is_ascii_digit(), "")
            .parse::<u32>()
            .unwrap()
    };
    eventually("the page shows rows that went", async || shown().await > 0).await;
    let first = shown().await;
    assert!(first < 6_000, "it is not over: {first}");
    eventually("the page shows more of them", async || {
        shown().await > first
    })
    .await;
    trouble::deletes_take(&console.db.pool, 0.0).await;
    browser.wait_for_text("Verified").await;

    assert_eq!(shown().await, 6_000, "2 000 checks and their flags");
    assert_eq!(browser.execute("return window.loadedOnce").await, true);
    let asks = "return document.querySelector('#progress').hasAttribute('hx-get')";
    assert_eq!(
        browser.execute(asks).await,
        false,
        "it is over: nothing more to ask for"
    );
    assert_eq!(browser.console_errors().await, [""; 0]);
}

#[tokio::test]
async fn button_pressed_twice_makes_one_run() {
    let console = Console::start().await;
    let org = console.app.org_with_expired(3).await;
    let browser = console.open_for(Who::Admin(org)).await;
    browser
        .go(&console.url(&format!("/console/orgs/{org}/retention/purge")))
        .await;
    // The same form, sent again while its first answer is on the way.
    let twice = "const form = new URLSearchParams(new FormData(document.querySelector('main form')));
                 const send = () => fetch(location.href, {method: 'POST', body: form}).then(r => r.url);
                 return Promise.all([send(), send()])";

    let led_to = browser.execute(twice).await;

    assert_eq!(led_to[0], led_to[1]);
    let runs: i64 = console
        .db
        .value("SELECT count(*) FROM retention.purge_runs")
        .await;
    assert_eq!(runs, 1);
}

#[tokio::test]
async fn run_is_cancelled_after_a_second_look() {
    let console = Console::working().await;
    let org = console.app.org_with_expired(2_001).await;
    trouble::deletes_take(&console.db.pool, 0.3).await;
    let run = product::enqueue(&console.db.pool, org).await;
    let browser = console.open_for(Who::Operator).await;
    browser
        .go(&console.url(&format!("/console/runs/{run}")))
        .await;
    eventually("the run is going", async || {
        ledger::progress(&console.db.pool, run).await > 0
    })
    .await;

    browser.click_link("Cancel…").await;
    browser.wait_for_heading("Cancel this run?").await;
    browser.fill("Reason", "too slow today").await;
    browser.click_button("Cancel run").await;
    browser.wait_for_text("cancelled").await;

    trouble::deletes_take(&console.db.pool, 0.0).await;
    assert!(browser.heading().await.starts_with("Run "));
    assert!(browser.has_text("too slow today").await);
    until_status(&console.db.pool, run, "cancelled").await;
    let actions: serde_json::Value = console
        .db
        .value("SELECT jsonb_agg(jsonb_build_array(actor, action, run_id, reason)) FROM retention.operator_actions")
        .await;
    assert_eq!(actions, json!([["oda", "cancel", run, "too slow today"]]));
}

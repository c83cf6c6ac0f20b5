//! The console without a mouse: everything can be reached, in an order that makes sense, and seen when it is.

use crate::support::{
    browser::{Browser, Key},
    console::{Console, Who},
};

#[tokio::test]
async fn keyboard_alone_signs_in_and_purges_now() {
    let console = Console::working().await;
    let org = console.app.org_with_expired(11).await;
    let browser = Browser::open(1440, 900).await;
    browser.go(&console.url("/signin")).await;

    browser.tab_to("Token").await;
    browser.press(Who::Admin(org).token().await.chars()).await;
    browser.tab_to("Sign in").await;
    browser.press([Key::Enter.into()]).await;
    browser.wait_for_heading("Environments").await;
    browser.tab_to("Retention").await;
    browser.press([Key::Enter.into()]).await;
    browser.wait_for_heading("Retention").await;
    browser.tab_to("Purge now").await;
    browser.press([Key::Enter.into()]).await;
    browser.wait_for_heading("Purge now?").await;
    browser.tab_to("Reason").await;
    browser.press("no mouse".chars()).await;
    browser.tab_to("Purge now").await;
    browser.press([Key::Enter.into()]).await;

    browser.wait_for_text("Verified").await;
    assert!(browser.has_text("no mouse").await);
}

#[tokio::test]
async fn first_stop_of_a_page_skips_to_its_content() {
    let console = Console::start().await;
    let browser = console.open_for(Who::Operator).await;
    browser.go(&console.url("/console/runs")).await;

    browser.press([Key::Tab.into()]).await;
    assert_eq!(browser.active_element_name().await, "Skip to content");
    assert!(browser.focus_shows().await);
    browser.press([Key::Enter.into()]).await;
    browser.press([Key::Tab.into()]).await;

    let is_inside = "return document.querySelector('main').contains(document.activeElement)";
    assert_eq!(
        browser.execute(is_inside).await,
        true,
        "{}",
        browser.active_element_name().await
    );
}

#[tokio::test]
async fn live_progress_leaves_the_focus_where_it_is() {
    let console = Console::start().await;
    let org = console.app.org("pro").await;
    let run = crate::support::product::enqueue(&console.db.pool, org).await;
    let browser = console.open_for(Who::Operator).await;
    browser
        .go(&console.url(&format!("/console/runs/{run}")))
        .await;
    browser
        .execute("document.querySelector('#progress').before = true")
        .await;
    browser.tab_to("Cancel…").await;

    // The region has been exchanged at least once: the mark on the old one is gone.
    let exchanged = "return document.querySelector('#progress').before !== true";
    crate::support::product::eventually("the progress is asked for", async || {
        browser.execute(exchanged).await == true
    })
    .await;

    assert_eq!(browser.active_element_name().await, "Cancel…");
}

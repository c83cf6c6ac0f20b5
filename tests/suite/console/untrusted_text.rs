//! What customers and failing servers wrote is shown as they wrote it, and never becomes a part of the page.

use crate::support::{
    console::{Console, Who},
    visitor::Visitor,
};

/// Runs if it is taken for HTML in a text, in an attribute of either quote, or in a script.
const HOSTILE: &str = r#"</script><script>window.__xss=1</script>"><img src=x onerror="window.__xss=1">'&amp;{{7*7}}"#;

#[tokio::test]
async fn text_of_others_is_shown_as_it_was_written_on_every_page() {
    let (console, scene) = Console::showing(HOSTILE).await;
    let browser = console.open_for(Who::Operator).await;
    let mut shown_on = Vec::new();

    for page in scene.pages() {
        browser.go(&console.url(&page)).await;
        browser.settled().await;
        // Folded away is on the page as well.
        browser
            .execute("document.querySelectorAll('details').forEach(d => d.open = true)")
            .await;

        assert_eq!(
            browser.execute("return typeof window.__xss").await,
            "undefined",
            "{page}"
        );
        let made = "return document.querySelectorAll('img, script:not([src]), [onerror]').length";
        assert_eq!(browser.execute(made).await, 0, "{page}");
        assert_eq!(browser.console_errors().await, [""; 0], "{page}");
        if browser.text().await.contains(HOSTILE) {
            shown_on.push(page);
        }
    }

    // Wherever there is a name, a title, a payload, a note, a reason or an error.
    let (org, env, incident) = (scene.org, scene.envs[0], scene.incidents[0]);
    let failed = scene.runs.failed.unwrap();
    for page in [
        "/console/orgs".to_owned(),
        "/console/unresolved".to_owned(),
        "/console/runs".to_owned(),
        "/console/actions".to_owned(),
        format!("/console/orgs/{org}/environments"),
        format!("/console/orgs/{org}/environments/{env}"),
        format!("/console/orgs/{org}/incidents"),
        format!("/console/orgs/{org}/incidents/{incident}?tab=summary"),
        format!("/console/orgs/{org}/incidents/{incident}?tab=approvals"),
        format!("/console/orgs/{org}/retention/purge"),
        format!("/console/runs/{failed}"),
        format!("/console/runs/replay?run={failed}"),
    ] {
        assert!(
            shown_on.contains(&page),
            "{page} shows it otherwise; these as it is: {shown_on:#?}"
        );
    }
}

#[tokio::test]
async fn payloads_keys_and_values_stand_in_the_raw_json() {
    let (console, scene) = Console::showing(HOSTILE).await;
    let browser = console.open_for(Who::Admin(scene.org)).await;
    browser
        .go(&console.url(&format!(
            "/console/orgs/{}/incidents/{}",
            scene.org, scene.incidents[0]
        )))
        .await;

    browser.toggle("Raw JSON").await;

    let json = serde_json::to_string(HOSTILE).unwrap();
    browser.wait_for_text(&format!("{json}: {json}")).await;
}

#[tokio::test]
async fn what_somebody_types_comes_back_as_text() {
    let console = Console::start().await;
    let browser = console.open_for(Who::Operator).await;
    for field in [
        "/console/orgs?search",
        "/console/runs?error_kind",
        "/console/runs?org",
        "/signin?next",
    ] {
        let page = reqwest::Url::parse_with_params(
            &console.url(field.split_once('?').unwrap().0),
            [(field.split_once('?').unwrap().1, HOSTILE)],
        );
        browser.go(page.unwrap().as_str()).await;
        let made = "return document.querySelectorAll('img, script:not([src]), [onerror]').length";
        assert_eq!(browser.execute(made).await, 0, "{field}");
        assert_eq!(
            browser.execute("return typeof window.__xss").await,
            "undefined",
            "{field}"
        );
    }
}

#[tokio::test]
async fn reason_typed_into_the_form_is_shown_as_text_with_its_run() {
    let console = Console::start().await;
    let org = console.app.org("pro").await;
    let browser = console.open_for(Who::Admin(org)).await;
    browser
        .go(&console.url(&format!("/console/orgs/{org}/retention/purge")))
        .await;
    browser.fill("Reason", HOSTILE).await;
    browser.click_button("Purge now").await;

    browser.wait_for_text(HOSTILE).await;

    assert!(browser.heading().await.starts_with("Run "));
    assert_eq!(
        browser.execute("return typeof window.__xss").await,
        "undefined"
    );
}

#[tokio::test]
async fn page_runs_no_script_but_its_own_file_and_is_framed_and_kept_by_nobody() {
    let (console, scene) = Console::showing("Nordwind").await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    let mut pages = scene.pages();
    pages.push("/console/nothing".to_owned());
    for page in pages {
        let answer = operator.get(&page).await;
        let policy = answer.header("content-security-policy").unwrap();
        for directive in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'self'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(directive), "{page}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{page}: {policy}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{page}");
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{page}"
        );
        assert_eq!(
            answer.header("referrer-policy"),
            Some("no-referrer"),
            "{page}"
        );
        let html = answer.text();
        for within in [
            "<style",
            " style=",
            " onclick=",
            " onload=",
            " onsubmit=",
            "javascript:",
            "<script>",
        ] {
            assert!(!html.contains(within), "{page}: {within}");
        }
    }
}

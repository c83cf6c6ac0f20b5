//! Every page of the console in a real browser: nothing breaks, nothing is loaded from elsewhere, nothing sticks out,
//! and nobody is kept from reading it, with no rows, with one of each, and with a hundred thousand runs.

use crate::support::{
    TestDatabase,
    browser::Browser,
    console::{Console, Runs, Who, pages},
    scene::{self, Scene},
};

/// A text as long as customers' are, with a word that does not break.
const LONG: &str = "Invoices, credit notes and dunning letters of EMEA: \
                    sync_of_supplier_invoices_from_netsuite_to_the_warehouse_v2_final_reviewed_2026_11_23";

/// Opens page after page, and returns what `faults` says about each.
async fn walk(
    browser: &Browser,
    console: &Console,
    pages: &[String],
    faults: impl AsyncFn(&Browser) -> Vec<String>,
) -> Vec<String> {
    let mut found = Vec::new();
    for page in pages {
        browser.go(&console.url(page)).await;
        browser.settled().await;
        let heading = browser.heading().await;
        assert!(
            !heading.is_empty(),
            "{page} has no heading: {}",
            browser.text().await
        );
        for fault in faults(browser).await {
            found.push(format!("{page} ({heading}): {fault}"));
        }
    }
    found
}

/// What a page must never do, whatever it shows.
async fn troubles(browser: &Browser, origin: &str) -> Vec<String> {
    let mut troubles = browser.console_errors().await;
    let elsewhere = |url: &String| !url.starts_with(&format!("{origin}/"));
    troubles.extend(browser.requests().await.into_iter().filter(elsewhere));
    troubles.extend(browser.overflow().await);
    troubles
}

#[tokio::test]
async fn page_says_nothing_in_the_browsers_console_and_asks_no_other_machine() {
    let (console, scene) = Console::showing("Nordwind").await;
    let browser = console.open_for(Who::Operator).await;
    let origin = console.origin();

    let found = walk(&browser, &console, &scene.pages(), async |browser| {
        troubles(browser, &origin).await
    })
    .await;

    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn check_for_errors_and_foreign_requests_finds_them() {
    let console = Console::start().await;
    let browser = console.open_for(Who::Operator).await;
    let origin = console.origin();
    assert_eq!(troubles(&browser, &origin).await, [""; 0]);

    browser
        .execute(
            "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/pixel'}))",
        )
        .await;
    browser
        .execute(
            "document.querySelector('h1').innerHTML += '<div style=\"width: 5000px\">wide</div>'",
        )
        .await;

    let found = troubles(&browser, &origin).await.join("\n");
    assert!(found.contains("Content Security Policy"), "{found}");
    assert!(found.contains("http://127.0.0.1:9/pixel"), "{found}");
}

#[tokio::test]
async fn page_fits_a_phone_and_a_desk_however_long_the_names_are() {
    let (console, scene) = Console::showing(LONG).await;
    let browser = console.open_for(Who::Operator).await;
    let mut found = Vec::new();

    for width in [360, 1440] {
        browser.resize(width, 800).await;
        let wide = walk(&browser, &console, &scene.pages(), async |browser| {
            browser.overflow().await
        })
        .await;
        found.extend(wide.into_iter().map(|fault| format!("{width} px: {fault}")));
    }

    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn axe_finds_nothing_serious_in_light_or_dark() {
    let (console, scene) = Console::showing("Nordwind").await;
    let browser = console.open_for(Who::Operator).await;
    let mut pages = scene.pages();
    pages.extend([
        "/console/nothing".to_owned(),
        "/signin?token=nonsense".to_owned(),
    ]);

    let found = walk(&browser, &console, &pages, async |browser| {
        let mut found = browser.axe().await;
        browser.dark(true).await;
        found.extend(
            browser
                .axe_contrast()
                .await
                .into_iter()
                .map(|fault| format!("dark: {fault}")),
        );
        browser.dark(false).await;
        found
    })
    .await;

    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn axe_itself_finds_what_it_is_there_for() {
    let console = Console::start().await;
    let browser = console.open_for(Who::Operator).await;
    browser
        .execute("document.querySelector('main').innerHTML += '<p><input></p><button></button>'")
        .await;

    let found = browser.axe().await.join("\n");

    assert!(found.contains("label (critical)"), "{found}");
    assert!(found.contains("button-name (critical)"), "{found}");
}

#[tokio::test]
async fn page_of_an_empty_database_says_that_there_is_nothing() {
    let console = Console::start().await;
    let browser = console.open_for(Who::Operator).await;
    let origin = console.origin();

    let found = walk(
        &browser,
        &console,
        &pages(None, &[], &[], &Runs::default()),
        async |browser| troubles(browser, &origin).await,
    )
    .await;

    assert!(found.is_empty(), "{found:#?}");
    browser.go(&console.url("/console/orgs")).await;
    assert!(browser.has_text("There is no organization yet.").await);
    browser.go(&console.url("/console/runs")).await;
    assert!(browser.has_text("There is no run yet").await);
}

#[tokio::test]
async fn page_of_an_organization_without_anything_says_so() {
    let console = Console::start().await;
    let org = console.app.org("pro").await;
    let browser = console.open_for(Who::Admin(org)).await;

    for (page, says) in [
        ("environments", "This organization has no environment yet."),
        ("incidents", "No drift incident yet."),
        ("incidents?status=closed", "No incident matches."),
        ("dashboard", "Mean time to close"),
        ("retention", "Nothing has been purged yet."),
    ] {
        browser
            .go(&console.url(&format!("/console/orgs/{org}/{page}")))
            .await;
        browser.settled().await;
        assert!(
            browser.has_text(says).await,
            "{page}: {}",
            browser.text().await
        );
        assert_eq!(
            troubles(&browser, &console.origin()).await,
            [""; 0],
            "{page}"
        );
    }
}

#[tokio::test]
async fn page_holds_with_a_hundred_thousand_runs() {
    let db = TestDatabase::new().await;
    let scene = Scene::of(&db, "Nordwind").await;
    scene::many_runs(&db, 100_000).await;
    let console = Console::on(db, "api", &[]).await;
    let browser = console.open_for(Who::Operator).await;
    let origin = console.origin();

    let found = walk(&browser, &console, &scene.pages(), async |browser| {
        troubles(browser, &origin).await
    })
    .await;

    assert!(found.is_empty(), "{found:#?}");
    browser
        .go(&console.url("/console/runs?status=failed&error_kind=database"))
        .await;
    let first = browser.text().await;
    browser.click_link("Next page").await;
    browser.wait_for_path("cursor=").await;
    assert!(browser.path().await.contains("status=failed"));
    assert_ne!(browser.text().await, first);
}

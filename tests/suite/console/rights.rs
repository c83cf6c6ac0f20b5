//! Who sees and does what in the console: the API's rights, as pages.

use uuid::Uuid;

use crate::support::{
    console::{Console, Who},
    visitor::Visitor,
};

async fn number_of_runs(console: &Console) -> i64 {
    console
        .db
        .value("SELECT count(*) FROM retention.purge_runs")
        .await
}

#[tokio::test]
async fn viewer_has_no_purge_button_and_pressing_it_by_hand_is_refused() {
    let console = Console::start().await;
    let org = console.app.org_with_expired(3).await;
    let browser = console.open_for(Who::Viewer(org)).await;
    browser.click_link("Retention").await;
    browser.wait_for_heading("Retention").await;
    browser.settled().await;
    assert!(!browser.has_link("Purge now").await && !browser.has_button("Purge now").await);

    // With all that the page has: the session, and the token of the form that is there to sign out.
    let by_hand = "const csrf = document.querySelector('[name=csrf]').value;
        return fetch(location.pathname + '/purge', {method: 'POST', body: new URLSearchParams({csrf, reason: 'please'})})
            .then(answer => answer.status)";
    assert_eq!(browser.execute(by_hand).await, 403);
    browser
        .go(&console.url(&format!("/console/orgs/{org}/retention/purge")))
        .await;
    assert_eq!(browser.heading().await, "Forbidden");

    assert_eq!(number_of_runs(&console).await, 0);
}

#[tokio::test]
async fn admin_sees_no_page_that_is_the_operators() {
    let (console, scene) = Console::showing("Nordwind").await;
    for who in [Who::Admin(scene.org), Who::Viewer(scene.org)] {
        let mut visitor = Visitor::signed_in(&console, who).await;
        for page in [
            "overview".to_owned(),
            "overdue".to_owned(),
            "unresolved".to_owned(),
            "orgs".to_owned(),
            "runs".to_owned(),
            "runs/replay?status=failed".to_owned(),
            "actions".to_owned(),
            format!("runs/{}/cancel", scene.runs.live.unwrap()),
        ] {
            let answer = visitor.get(&format!("/console/{page}")).await;
            assert_eq!(answer.status, 403, "{page}");
            assert!(
                answer.text().contains("<h1>Forbidden</h1>"),
                "{page}: {}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn admin_does_nothing_that_is_the_operators() {
    let (console, scene) = Console::showing("Nordwind").await;
    let before = number_of_runs(&console).await;
    let mut admin = Visitor::signed_in(&console, Who::Admin(scene.org)).await;
    let csrf = admin
        .csrf(&format!("/console/orgs/{}/retention", scene.org))
        .await;
    let (failed, live) = (
        scene.runs.failed.unwrap().to_string(),
        scene.runs.live.unwrap(),
    );

    let replay = admin
        .post("/console/runs/replay", &[("csrf", &csrf), ("run", &failed)])
        .await;
    let cancel = admin
        .post(&format!("/console/runs/{live}/cancel"), &[("csrf", &csrf)])
        .await;

    assert_eq!((replay.status, cancel.status), (403, 403));
    assert_eq!(number_of_runs(&console).await, before);
    assert_eq!(
        crate::support::product::status(&console.db.pool, live).await,
        "queued"
    );
}

#[tokio::test]
async fn another_organizations_pages_are_not_there() {
    let (console, scene) = Console::showing("Nordwind").await;
    let org = console.app.org("pro").await;
    let mut admin = Visitor::signed_in(&console, Who::Admin(org)).await;
    let csrf = admin.csrf(&format!("/console/orgs/{org}/retention")).await;
    let theirs = scene.pages();
    let of_theirs = theirs.iter().filter(|page| {
        page.contains(&scene.org.to_string())
            || scene
                .runs
                .ended
                .iter()
                .any(|run| **page == format!("/console/runs/{run}"))
    });

    let mut seen = 0;
    for page in of_theirs {
        let answer = admin.get(page).await;
        assert_eq!(answer.status, 404, "{page}");
        assert!(!answer.text().contains("Nordwind"), "{page}");
        seen += 1;
    }
    assert!(seen > 10, "the pages were found: {seen}");
    let purge = format!("/console/orgs/{}/retention/purge", scene.org);
    assert_eq!(admin.post(&purge, &[("csrf", &csrf)]).await.status, 404);
}

#[tokio::test]
async fn own_environment_is_not_found_below_another_organization() {
    let (console, scene) = Console::showing("Nordwind").await;
    let org = console.app.org("pro").await;
    let mut admin = Visitor::signed_in(&console, Who::Admin(org)).await;
    for thing in [
        format!("environments/{}", scene.envs[0]),
        format!("incidents/{}", scene.incidents[0]),
    ] {
        let answer = admin.get(&format!("/console/orgs/{org}/{thing}")).await;
        assert_eq!(answer.status, 404, "{thing}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_as_a_page() {
    let console = Console::start().await;
    let nothing = Uuid::new_v4();
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    for path in [
        "/console/nothing".to_owned(),
        format!("/console/runs/{nothing}"),
        "/console/runs/not-an-id".to_owned(),
        format!("/console/runs/{nothing}/cancel"),
        format!("/console/orgs/{nothing}/incidents"),
        format!("/console/orgs/{nothing}/retention/purge"),
    ] {
        let answer = operator.get(&path).await;
        assert_eq!(answer.status, 404, "{path}");
        let kind = answer.header("content-type").unwrap();
        assert!(kind.starts_with("text/html"), "{path}: {kind}");
        assert!(answer.text().contains("<h1>Not found</h1>"), "{path}");
    }
}

#[tokio::test]
async fn query_that_makes_no_sense_is_answered_as_a_page_never_as_a_fault() {
    let console = Console::start().await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    for query in [
        "runs?status=lost",
        "runs?since=yesterday",
        "runs?since=99999-01-01T00:00",
        "runs?org=nobody",
        "runs?cursor=nonsense",
        "runs?error_kind=%00",
        "runs/replay?run=nonsense",
        "runs/replay?status=succeeded",
        "orgs?cursor=nonsense",
        "orgs?search=%00",
        "orgs?search=%FF%FE",
        "actions?cursor=nonsense",
    ] {
        let answer = operator.get(&format!("/console/{query}")).await;
        assert!(
            answer.status == 400 || answer.status == 200,
            "{query}: {}",
            answer.status
        );
        assert!(answer.text().contains("<h1>"), "{query}: {}", answer.text());
    }
}

//! The pictures in `docs/screenshots/`: every page on the sample data after a purge of some of it.

use std::path::Path;

use drift_retention::demo::sample_data;
use uuid::Uuid;

use crate::support::{
    browser::Browser,
    console::{Console, Who},
    product::until_status,
    visitor::Visitor,
};

/// A picture's name, and the page that it shows.
type Picture = (&'static str, String);

#[tokio::test]
#[ignore = "make screenshots"]
async fn every_page_light_and_dark() {
    let console = Console::working().await;
    sample_data::load(&console.db.pool).await.unwrap();
    let pictures = pictures(&console).await;
    // The overview shows the database as it was when the service started, for half a minute.
    let console = Console::on(console.db, "api", &[]).await;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screenshots");
    std::fs::create_dir_all(&dir).unwrap();
    let browser = Browser::open(1440, 900).await;
    let take = async |name: &str, page: &str| {
        browser.go(&console.url(page)).await;
        for (scheme, is_dark) in [("light", false), ("dark", true)] {
            browser.dark(is_dark).await;
            browser.settled().await;
            browser
                .screenshot(&dir.join(format!("{name}-{scheme}.png")))
                .await;
        }
    };

    take("sign-in", "/signin").await;
    console.sign_in(&browser, Who::Operator).await;
    for (name, page) in &pictures {
        take(name, page).await;
    }
    browser.resize(360, 740).await;
    for (name, page) in &pictures {
        if ["environments", "incident", "run"].contains(name) {
            take(&format!("{name}-phone"), page).await;
        }
    }
}

/// Purges what the pages are to show as purged, and leaves the rest as it is.
async fn pictures(console: &Console) -> Vec<Picture> {
    let pool = &console.db.pool;
    let shown = organization(console, "pro", 0).await;
    let unpurged = organization(console, "pro", 1).await;
    let mut operator = Visitor::signed_in(console, Who::Operator).await;
    let mut last = Uuid::nil();
    for (plan, reason) in [
        ("free", "the customer asked for it"),
        ("agency", "before the audit"),
        ("enterprise", ""),
        ("pro", "support ticket 4711"),
    ] {
        let org = organization(console, plan, 0).await;
        last = purge_now(&mut operator, org, reason).await;
        until_status(pool, last, "succeeded").await;
    }
    let unknown = organization(console, "legacy-2019", 0).await;
    let failed = purge_now(&mut operator, unknown, "").await;
    until_status(pool, failed, "failed").await;
    let purged = incident(console, shown, "payload_purged_at IS NOT NULL").await;
    let kept = incident(
        console,
        unpurged,
        "EXISTS (SELECT FROM incident_payloads p WHERE p.incident_id = i.id AND payload_json @> '{\"workflows\": [{\"flag\": \"modified\"}]}')",
    )
    .await;
    let env: Uuid = console
        .db
        .value(&format!(
            "SELECT e.id FROM environments e WHERE org_id = '{unpurged}'
             ORDER BY (SELECT count(*) FROM workflow_drift_flags f WHERE f.check_id =
                       (SELECT c.id FROM drift_checks c WHERE c.env_id = e.id ORDER BY checked_at DESC, id DESC LIMIT 1)) DESC
             LIMIT 1"
        ))
        .await;
    let of = |org: Uuid, page: &str| format!("/console/orgs/{org}/{page}");
    vec![
        ("overview", "/console/overview".into()),
        ("overdue", "/console/overdue".into()),
        ("unresolved", "/console/unresolved".into()),
        ("organizations", "/console/orgs".into()),
        ("environments", of(unpurged, "environments")),
        ("environment", of(unpurged, &format!("environments/{env}"))),
        ("incidents", of(shown, "incidents")),
        ("incident", of(unpurged, &format!("incidents/{kept}"))),
        ("incident-purged", of(shown, &format!("incidents/{purged}"))),
        (
            "incident-timeline",
            of(shown, &format!("incidents/{purged}?tab=timeline")),
        ),
        (
            "incident-approvals",
            of(unpurged, &format!("incidents/{kept}?tab=approvals")),
        ),
        ("dashboard", of(shown, "dashboard")),
        ("retention", of(unpurged, "retention")),
        ("retention-purged", of(shown, "retention")),
        ("purge-now", of(unpurged, "retention/purge")),
        ("runs", "/console/runs".into()),
        ("run", format!("/console/runs/{last}")),
        ("run-failed", format!("/console/runs/{failed}")),
        ("replay", format!("/console/runs/replay?run={failed}")),
        ("actions", "/console/actions".into()),
    ]
}

/// As an operator does it in the console; the run.
async fn purge_now(operator: &mut Visitor, org: Uuid, reason: &str) -> Uuid {
    let page = format!("/console/orgs/{org}/retention/purge");
    let csrf = operator.csrf(&page).await;
    let answer = operator
        .post(&page, &[("csrf", &csrf), ("reason", reason)])
        .await;
    let run = answer
        .header("location")
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap();
    run.parse().unwrap()
}

/// The nth of the sample organizations on a plan.
async fn organization(console: &Console, plan: &str, nth: u32) -> Uuid {
    let sql = format!(
        "SELECT id FROM organizations WHERE plan = '{plan}' ORDER BY name OFFSET {nth} LIMIT 1"
    );
    console.db.value(&sql).await
}

/// The newest incident of an organization that is so.
async fn incident(console: &Console, org: Uuid, is: &str) -> Uuid {
    let sql = format!(
        "SELECT id FROM incidents i WHERE org_id = '{org}' AND NOT is_deleted AND {is}
         ORDER BY EXISTS (SELECT FROM approvals a WHERE a.incident_id = i.id) DESC, detected_at DESC LIMIT 1"
    );
    console.db.value(&sql).await
}

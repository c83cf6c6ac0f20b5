//! What customers see of their drift before a purge and after it.

use uuid::Uuid;

use crate::support::{
    browser::Browser,
    console::{Console, Who},
    product::{self, until_status},
};

const BANNER: &str = "Incident drift details were purged per retention policy.";

struct Customer {
    console: Console,
    org: Uuid,
    env: Uuid,
    incident: Uuid,
    browser: Browser,
}

impl Customer {
    /// With an incident closed so long ago that a purge takes its details.
    async fn new() -> Self {
        let console = Console::working().await;
        let org = console.app.org("pro").await;
        let env = console.app.env(org).await;
        let incident = console
            .app
            .incident(org, env, "closed", Some("2 years"))
            .await;
        console
            .db
            .execute(&format!(
                r#"INSERT INTO incident_payloads (incident_id, payload_json) VALUES ('{incident}',
                   '{{"workflows": [{{"name": "Invoice sync", "nodes": [{{"change": "parameter_changed",
                      "node": {{"name": "HTTP Request"}}, "parameter": "timeout", "before": 10, "after": 60}}]}}]}}')"#
            ))
            .await;
        console
            .app
            .approval(org, incident, "approved", "1 day")
            .await;
        let browser = console.open_for(Who::Admin(org)).await;
        Self {
            console,
            org,
            env,
            incident,
            browser,
        }
    }

    async fn open_incident(&self) {
        let url = format!("/console/orgs/{}/incidents/{}", self.org, self.incident);
        self.browser.go(&self.console.url(&url)).await;
    }
}

#[tokio::test]
async fn environment_shows_its_drift_and_the_workflows_that_the_newest_check_flagged() {
    let customer = Customer::new().await;
    let (app, org, env) = (&customer.console.app, customer.org, customer.env);
    app.check(org, env, "2 hours", &["Dunning letters"]).await;
    app.check(org, env, "1 hour", &["Invoice sync"]).await;
    let browser = &customer.browser;

    browser.click_link("Environments").await;
    browser.wait_for_heading("Environments").await;
    let listed = browser.text().await;
    browser.click_link("production").await;
    browser.wait_for_text("Invoice sync").await;

    assert!(listed.contains("drift"), "{listed}");
    assert!(browser.heading().await.starts_with("production"));
    assert!(!browser.has_text("Dunning letters").await);
}

#[tokio::test]
async fn incident_shows_its_details_until_a_purge_and_the_banner_from_then_on() {
    let customer = Customer::new().await;
    let browser = &customer.browser;
    customer.open_incident().await;
    browser.wait_for_heading("Drift in production").await;
    for shown in ["Invoice sync", "HTTP Request", "timeout", "10", "60"] {
        assert!(
            browser.has_text(shown).await,
            "{shown}: {}",
            browser.text().await
        );
    }
    assert!(!browser.has_text(BANNER).await);

    let run = product::enqueue(&customer.console.db.pool, customer.org).await;
    until_status(&customer.console.db.pool, run, "succeeded").await;
    customer.open_incident().await;

    browser.wait_for_text(BANNER).await;
    assert_eq!(browser.heading().await, "Drift in production");
    assert!(!browser.has_text("HTTP Request").await);
    assert!(
        browser.has_link(&run.simple().to_string()[..8]).await,
        "who took them"
    );
}

#[tokio::test]
async fn purge_leaves_an_incidents_other_tabs_as_they_were() {
    let customer = Customer::new().await;
    let browser = &customer.browser;
    let run = product::enqueue(&customer.console.db.pool, customer.org).await;
    until_status(&customer.console.db.pool, run, "succeeded").await;
    customer.open_incident().await;

    browser.click_link("Timeline").await;
    browser.wait_for_text("details purged").await;
    assert!(browser.has_text("closed").await);
    browser.click_link("Approvals (1)").await;
    browser.wait_for_text("accept drift").await;
    browser.click_link("Drift Summary").await;
    browser.wait_for_text(BANNER).await;
}

#[tokio::test]
async fn incident_without_details_says_that_no_purge_took_them() {
    let customer = Customer::new().await;
    let (app, org, env) = (&customer.console.app, customer.org, customer.env);
    let without = app.incident(org, env, "detected", None).await;

    let url = format!("/console/orgs/{org}/incidents/{without}");
    customer.browser.go(&customer.console.url(&url)).await;

    customer
        .browser
        .wait_for_text("No drift details are recorded for this incident.")
        .await;
    assert!(!customer.browser.has_text(BANNER).await);
}

#[tokio::test]
async fn incidents_are_filtered_by_status_and_severity() {
    let customer = Customer::new().await;
    let (app, org, env) = (&customer.console.app, customer.org, customer.env);
    let open = app.incident(org, env, "detected", None).await;
    customer
        .console
        .db
        .execute(&format!(
            "UPDATE incidents SET title = 'Hotfix never merged', severity = 'low' WHERE id = '{open}'"
        ))
        .await;
    let browser = &customer.browser;
    browser.click_link("Incidents").await;
    browser.wait_for_text("Hotfix never merged").await;

    for (label, option, query) in [
        ("Status", "closed", "status=closed"),
        ("Severity", "high", "severity=high"),
    ] {
        browser.choose(label, option).await;
        browser.click_button("Filter").await;
        browser.wait_for_path(query).await;
        assert!(browser.has_text("Drift in production").await, "{option}");
        assert!(!browser.has_text("Hotfix never merged").await, "{option}");
        browser.choose(label, "all").await;
    }
}

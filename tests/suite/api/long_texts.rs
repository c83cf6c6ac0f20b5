//! Texts of megabytes in every row: no answer and no page grows with them, and a list leaves nothing out.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestDatabase,
    api::answer,
    client::{Client, serve},
    console::{Console, Who},
    hostile::{HOSTILE, Hostile, MEGABYTE},
    product,
    scene::Scene,
    visitor::Visitor,
};

#[tokio::test]
async fn no_page_and_no_answer_of_the_api_takes_more_than_a_megabyte() {
    let Hostile { db, scene, other } = Hostile::new().await;
    let console = Console::on(db, "api", &[]).await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    let mut pages = scene.pages();
    let org = scene.org;
    pages.extend([
        format!("/console/orgs/{org}/retention/preview"),
        format!("/console/orgs/{other}/retention"),
        format!("/console/orgs/{other}/retention/purge"),
        "/console/runs/replay?status=cancelled".to_owned(),
    ]);
    for page in pages {
        let answer = operator.get(&page).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.text());
        let bytes = answer.body.len();
        assert!(bytes <= MEGABYTE, "{page}: {bytes} bytes");
    }

    let client = Client::operator(&console.service).await;
    let (env, incident) = (scene.envs[0], scene.incidents[0]);
    let failed = scene.runs.failed.unwrap();
    for path in [
        "/retention/runs?limit=200".to_owned(),
        format!("/retention/runs/{failed}"),
        format!("/retention/runs/{failed}/events"),
        format!("/orgs/{org}/retention/runs?limit=200"),
        format!("/orgs/{org}/retention/policy"),
        format!("/orgs/{org}/retention/preview"),
        format!("/orgs/{org}/environments?limit=200"),
        format!("/orgs/{org}/environments/{env}"),
        format!("/orgs/{org}/incidents?limit=200"),
        format!("/orgs/{org}/incidents/{incident}"),
        format!("/orgs/{org}/drift/dashboard"),
        format!("/orgs/{other}/retention/policy"),
        format!("/orgs/{other}/retention/preview"),
        format!("/orgs/{other}/retention/runs?limit=200"),
        "/readyz".to_owned(),
        "/metrics".to_owned(),
    ] {
        let answer = answer(client.request(Method::GET, &path)).await;
        let is_refused = answer.status == 409 && path.ends_with("/policy");
        assert!(
            answer.status == 200 || is_refused,
            "{path}: {}",
            answer.text()
        );
        let bytes = answer.body.len();
        assert!(bytes <= MEGABYTE, "{path}: {bytes} bytes");
    }
}

/// A page that ends early leaves nothing out: the next one goes on where it ended.
#[tokio::test]
async fn list_that_takes_more_pages_than_asked_for_leaves_nothing_out() {
    let Hostile { db, scene, other } = Hostile::new().await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;
    let org = scene.org;
    // Runs have the longest texts: two pages have no room for them.
    for (path, all, fewest_pages) in [
        (format!("/orgs/{org}/incidents"), 253, 2),
        (format!("/orgs/{org}/environments"), 251, 2),
        (format!("/orgs/{other}/retention/runs"), 251, 3),
    ] {
        let (mut ids, mut pages) = (std::collections::BTreeSet::new(), 0);
        let mut next = Some(String::new());
        while let Some(cursor) = next {
            let page = client.read(&format!("{path}?limit=200{cursor}")).await;
            let items = page["items"].as_array().unwrap();
            ids.extend(items.iter().map(|item| item["id"].to_string()));
            pages += 1;
            next = page["next_cursor"]
                .as_str()
                .map(|cursor| format!("&cursor={cursor}"));
        }
        assert_eq!(ids.len(), all, "{path}");
        assert!(pages >= fewest_pages, "{path}: {pages} pages");
    }
}

#[tokio::test]
async fn text_that_is_cut_says_so() {
    let Hostile { db, scene, .. } = Hostile::new().await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;
    let (org, incident) = (scene.org, scene.incidents[0]);
    let incident = client
        .read(&format!("/orgs/{org}/incidents/{incident}"))
        .await;
    let length = |text: &Value| {
        let text = text.as_str().unwrap();
        assert!(
            text.starts_with(HOSTILE) && text.ends_with("..."),
            "{text:?}"
        );
        text.chars().count()
    };
    for name in [
        &incident["title"],
        &incident["owner"],
        &incident["severity"],
    ] {
        assert_eq!(length(name), 203);
    }
    assert_eq!(length(&incident["approvals"][0]["requested_by"]), 203);
    assert_eq!(length(&incident["approvals"][0]["notes"]), 2003);
}

/// What other logins may have written into our own records, as jsonb that no parser reads.
#[tokio::test]
async fn record_whose_json_cannot_be_read_is_shown_without_it() {
    let db = TestDatabase::new().await;
    let scene = Scene::of(&db, "Nordwind").await;
    let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
    let run = scene.runs.ended[1];
    db.execute(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         UPDATE retention.purge_runs SET policy = '{{\"incident_payloads\": 1e400}}' WHERE id = '{run}';
         UPDATE retention.purge_run_steps SET cascaded = '{{\"public.audit\": {deep}}}' WHERE run_id = '{run}';
         UPDATE retention.purge_run_steps SET started_at = now() - interval '2 days' WHERE run_id = '{run}';
         UPDATE retention.operator_actions SET details = '{{\"run_id\": 1e400, \"more\": {deep}}}';
         COMMIT"
    ))
    .await;
    let id = run.to_string();
    let shown = product::json(&db.url, &["runs", "show", &id, "--json"]).await;
    assert_eq!(shown["policy"], json!(null));
    assert_eq!(shown["steps"][0]["cascaded"], json!(null));
    let console = Console::on(db, "api", &[]).await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    for page in scene.pages() {
        let answer = operator.get(&page).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.text());
    }
}

//! Operators over HTTP: find runs of all organizations, replay and cancel them; who did what, and why, is kept.

use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, id, serve},
    ledger,
    product::{self, Service, eventually, until_status},
    runs, trouble,
};

struct Desk {
    db: TestDatabase,
    app: App,
    client: Client,
    _service: Service,
}

impl Desk {
    async fn new() -> Self {
        Self::serving("api").await
    }

    async fn serving(roles: &str) -> Self {
        let db = TestDatabase::new().await;
        let small_batches = [("DRIFT_RETENTION_PURGE__BATCH_SIZE", "50")];
        let service = serve(&db, roles, &small_batches).await;
        Self {
            app: App::on(&db.pool),
            client: Client::operator(&service).await,
            db,
            _service: service,
        }
    }

    /// A run as it could have ended so long ago.
    async fn past_run(&self, org: Uuid, status: &str, error_kind: &str, age: &str) -> Uuid {
        self.db
            .value(&format!(
                "INSERT INTO retention.purge_runs (org_id, trigger, requested_by, status, error_kind, created_at, finished_at)
                 VALUES ('{org}', 'purge_now', 'test', '{status}', nullif('{error_kind}', ''), now() - interval '{age}', now())
                 RETURNING id"
            ))
            .await
    }

    async fn actions(&self) -> Value {
        self.db
            .value(
                "SELECT coalesce(jsonb_agg(jsonb_build_array(actor, action, run_id, org_id, reason, details) ORDER BY id), '[]')
                 FROM retention.operator_actions",
            )
            .await
    }

    async fn number_of_runs(&self) -> i64 {
        self.db
            .value("SELECT count(*) FROM retention.purge_runs")
            .await
    }
}

fn ids(items: &[Value]) -> Vec<Uuid> {
    items.iter().map(|run| id(&run["id"])).collect()
}

#[tokio::test]
async fn every_filter_finds_its_runs() {
    let desk = Desk::new().await;
    let (one, other) = (desk.app.org("pro").await, desk.app.org("free").await);
    let succeeded = desk.past_run(one, "succeeded", "", "1 hour").await;
    let failed = desk.past_run(one, "failed", "database", "2 hours").await;
    let unresolved = desk
        .past_run(other, "failed", "policy_unresolved", "3 hours")
        .await;
    let cancelled = desk.past_run(other, "cancelled", "", "4 hours").await;
    let ago = |hours: &'static str| {
        desk.db.value::<String>(format!(
            "SELECT to_char((now() - interval '{hours}') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
        ).leak())
    };
    let (early, late) = (ago("3.5 hours").await, ago("1.5 hours").await);

    for (query, expected) in [
        (
            String::new(),
            vec![succeeded, failed, unresolved, cancelled],
        ),
        ("?status=failed".into(), vec![failed, unresolved]),
        ("?status=queued".into(), vec![]),
        ("?error_kind=policy_unresolved".into(), vec![unresolved]),
        (format!("?org_id={other}"), vec![unresolved, cancelled]),
        (
            format!("?since={early}"),
            vec![succeeded, failed, unresolved],
        ),
        (
            format!("?until={late}"),
            vec![failed, unresolved, cancelled],
        ),
        (
            format!("?since={early}&until={late}"),
            vec![failed, unresolved],
        ),
        (
            format!("?status=failed&org_id={one}&error_kind=database&since={early}&until={late}"),
            vec![failed],
        ),
    ] {
        let path = format!("/retention/runs{query}");
        let found = desk.client.read(&path).await;
        assert_eq!(ids(found["items"].as_array().unwrap()), expected, "{query}");
        assert_eq!(
            ids(&desk.client.pages(&path, 1).await),
            expected,
            "{query} one by one"
        );
    }
}

#[tokio::test]
async fn pages_show_every_run_once_even_those_of_one_instant() {
    let desk = Desk::new().await;
    let org = desk.app.org("pro").await;
    desk.db
        .execute(&format!(
            "INSERT INTO retention.purge_runs (org_id, trigger, requested_by, status, created_at)
             SELECT '{org}', 'purge_now', 'test', 'succeeded', now() - make_interval(hours => n / 10)
             FROM generate_series(1, 57) n"
        ))
        .await;
    let expected: Vec<Uuid> = desk
        .db
        .value("SELECT array_agg(id ORDER BY created_at DESC, id DESC) FROM retention.purge_runs")
        .await;
    for limit in [1, 10, 57, 200] {
        for path in [
            "/retention/runs".to_owned(),
            format!("/orgs/{org}/retention/runs"),
        ] {
            assert_eq!(ids(&desk.client.pages(&path, limit).await), expected);
        }
    }
}

#[tokio::test]
async fn one_run_is_shown_with_its_steps_and_an_unknown_one_is_not_there() {
    let desk = Desk::new().await;
    let org = desk.app.org_with_expired(3).await;
    let run = product::purge(&desk.db.url, org).await;

    let shown = desk.client.read(&format!("/retention/runs/{run}")).await;
    let (status, _) = desk
        .client
        .get(&format!("/retention/runs/{}", Uuid::new_v4()))
        .await;

    assert_eq!(shown["status"], "succeeded");
    assert_eq!(shown["steps"].as_array().unwrap().len(), 4);
    let printed = product::json(&desk.db.url, &["runs", "show", &run.to_string(), "--json"]).await;
    assert_eq!(shown, printed);
    assert_eq!(status, 404);
}

#[tokio::test]
async fn replay_makes_a_new_run_and_leaves_the_failed_one_as_it_was() {
    let desk = Desk::new().await;
    let org = desk.app.org("pro").await;
    let failed = desk.past_run(org, "failed", "database", "1 hour").await;
    let before = runs::run(&desk.db, failed).await;

    let because = json!({"reason": "the disk is larger now"});
    let (status, body) = desk
        .client
        .post(&format!("/retention/runs/{failed}/replay"), &because)
        .await;

    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    let new = id(&body["run_id"]);
    let enqueued = json!({"run_id": new, "org_id": org, "status": "queued", "coalesced": false});
    assert_eq!(runs::run(&desk.db, failed).await, before);
    let made = runs::run(&desk.db, new).await;
    assert_eq!(made["trigger"], "replay");
    assert_eq!(made["replay_of"], failed.to_string());
    assert_eq!(made["requested_by"], "oda");
    assert_eq!(body["replay_of"], failed.to_string());
    assert_eq!(
        desk.actions().await,
        json!([[
            "oda",
            "replay",
            failed,
            org,
            "the disk is larger now",
            enqueued
        ]])
    );
}

#[tokio::test]
async fn what_cannot_be_replayed_or_cancelled_says_so_and_records_nothing() {
    let desk = Desk::new().await;
    let org = desk.app.org("pro").await;
    let succeeded = desk.past_run(org, "succeeded", "", "1 hour").await;
    let failed = desk.past_run(org, "failed", "database", "2 hours").await;
    let cancelled = desk.past_run(org, "cancelled", "", "3 hours").await;
    let nothing = Uuid::new_v4();

    for (run, action, expected) in [
        (succeeded, "replay", 409),
        (nothing, "replay", 404),
        (succeeded, "cancel", 409),
        (failed, "cancel", 409),
        (cancelled, "cancel", 409),
        (nothing, "cancel", 404),
    ] {
        let path = format!("/retention/runs/{run}/{action}");
        let (status, problem) = desk.client.post(&path, &json!({})).await;
        assert_eq!(status.as_u16(), expected, "{action}: {problem}");
        assert_eq!(problem["status"], expected);
    }
    let path = "/retention/runs/replay";
    let (status, _) = desk
        .client
        .post(path, &json!({"status": "succeeded"}))
        .await;
    assert_eq!(status, 400);
    assert_eq!(desk.actions().await, json!([]));
    assert_eq!(desk.number_of_runs().await, 3);
}

/// Organizations with: a failed run, an older failed one too; a failed one and a live one; a success since; another
/// kind of failure. The first two are what a replay of `database` takes.
async fn troubled(desk: &Desk) -> [(Uuid, Uuid); 2] {
    let app = &desk.app;
    let (plain, live) = (app.org("pro").await, app.org("pro").await);
    desk.past_run(plain, "failed", "database", "2 hours").await;
    let of_plain = desk.past_run(plain, "failed", "database", "1 hour").await;
    let of_live = desk.past_run(live, "failed", "database", "1 hour").await;
    product::enqueue(&desk.db.pool, live).await;
    let mended = app.org("pro").await;
    desk.past_run(mended, "failed", "database", "2 hours").await;
    desk.past_run(mended, "succeeded", "", "1 hour").await;
    let unresolved = app.org("legacy").await;
    desk.past_run(unresolved, "failed", "policy_unresolved", "1 hour")
        .await;
    [(plain, of_plain), (live, of_live)]
}

fn taken(answer: &Value) -> Vec<(Uuid, Uuid, bool)> {
    let mut taken: Vec<_> = answer["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            (
                id(&run["org_id"]),
                id(&run["replay_of"]),
                run["coalesced"].as_bool().unwrap(),
            )
        })
        .collect();
    taken.sort_unstable();
    taken
}

#[tokio::test]
async fn dry_run_answers_what_the_replay_then_does_and_changes_nothing() {
    let desk = Desk::new().await;
    let [(plain, of_plain), (live, of_live)] = troubled(&desk).await;
    let before = desk.number_of_runs().await;
    let filter =
        |dry_run: bool| json!({"error_kind": "database", "dry_run": dry_run, "reason": "mended"});
    let path = "/retention/runs/replay";

    let (status, would) = desk.client.post(path, &filter(true)).await;
    assert_eq!(status, 200, "{would}");
    assert_eq!(would["dry_run"], true);
    assert!(
        would["runs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|run| run["run_id"].is_null())
    );
    assert_eq!(desk.number_of_runs().await, before);
    assert_eq!(desk.actions().await, json!([]));

    let (status, did) = desk.client.post(path, &filter(false)).await;
    assert_eq!(status, 200, "{did}");
    assert_eq!(did["dry_run"], false);
    assert_eq!(taken(&would), taken(&did));
    let mut expected = [(plain, of_plain, false), (live, of_live, true)];
    expected.sort_unstable();
    assert_eq!(taken(&did), expected);
    assert_eq!(
        desk.number_of_runs().await,
        before + 1,
        "the other one met a live run"
    );
    let actions = desk.actions().await;
    let actions = actions.as_array().unwrap();
    assert_eq!(actions.len(), 2);
    assert!(
        actions
            .iter()
            .all(|action| action[1] == "replay" && action[4] == "mended")
    );
}

#[tokio::test]
async fn replay_takes_only_what_each_filter_names() {
    let desk = Desk::new().await;
    let [(plain, of_plain), _] = troubled(&desk).await;
    let would = async |mut filter: Value| {
        filter["dry_run"] = true.into();
        let (status, body) = desk.client.post("/retention/runs/replay", &filter).await;
        assert_eq!(status, 200, "{body}");
        taken(&body)
    };
    let older: String = desk
        .db
        .value("SELECT to_char((now() - interval '90 minutes') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
        .await;

    assert_eq!(would(json!({})).await.len(), 3);
    assert_eq!(
        would(json!({"error_kind": "policy_unresolved"}))
            .await
            .len(),
        1
    );
    assert_eq!(
        would(json!({"org_id": plain})).await,
        [(plain, of_plain, false)]
    );
    assert_eq!(would(json!({"since": older})).await.len(), 3);
    let before = would(json!({"until": older})).await;
    assert_eq!(before.len(), 1, "nothing succeeded since: {before:?}");
    assert_eq!(before[0].0, plain);
    assert_ne!(before[0].1, of_plain, "the latest of that time");
    assert_eq!(would(json!({"status": "cancelled"})).await, []);
}

#[tokio::test]
async fn cancelled_run_stops_at_its_next_batch() {
    let desk = Desk::serving("api,worker").await;
    let org = desk.app.org_with_expired(2_001).await;
    let before = ledger::rows(&desk.db.pool).await;
    trouble::deletes_take(&desk.db.pool, 0.3).await;
    let run = product::enqueue(&desk.db.pool, org).await;
    eventually("the run is going", async || {
        ledger::progress(&desk.db.pool, run).await > 0
    })
    .await;

    let because = json!({"reason": "too slow today"});
    let path = format!("/retention/runs/{run}/cancel");
    let (status, body) = desk.client.post(&path, &because).await;

    assert_eq!(status, 200, "{body}");
    assert_eq!(body["status"], "cancelled");
    let purged = ledger::progress(&desk.db.pool, run).await;
    assert!((1..6_000).contains(&purged), "{purged}");
    trouble::deletes_take(&desk.db.pool, 0.0).await;
    // Whatever the worker takes up next, it has let go of this one.
    let next = product::enqueue(&desk.db.pool, desk.app.org_with_expired(3).await).await;
    until_status(&desk.db.pool, next, "succeeded").await;
    assert_eq!(ledger::progress(&desk.db.pool, run).await, purged);
    assert_eq!(product::status(&desk.db.pool, run).await, "cancelled");
    assert_eq!(
        desk.actions().await,
        json!([["oda", "cancel", run, org, "too slow today", null]])
    );
    // What was recorded is what went: the second organization's rows came after the count.
    let rows = ledger::rows(&desk.db.pool).await;
    let left_of_next = [0, 1, 0, 2];
    let gone: i64 = before
        .iter()
        .zip(&rows)
        .zip(left_of_next)
        .map(|((b, r), n)| b - r + n)
        .sum();
    assert_eq!(gone, purged);
}

//! How long the server takes for each page of the console at a hundred thousand runs: `make bench-console`.
//!
//! A server of its own with the sample data, purged once, and a history of runs of all its organizations; `serve` in
//! its release build with all roles; an operator with a session, who opens every page in turn, again and again.
//! Prints median, p99 and size per page, and names those that took longer than a page may.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench says what it measured, or stops"
)]

mod support;

use std::time::Instant;

use reqwest::{Client, header, redirect::Policy};
use sqlx::PgPool;

use support::{SampleData, percentile};

const RUNS: i32 = 100_000;
/// How often each page is opened.
const ROUNDS: usize = 200;
/// What a page may take, in milliseconds.
const LIMIT: f64 = 100.0;

#[tokio::main]
async fn main() {
    let data = SampleData::purged().await;
    history(&data.pool).await;
    let served = data.serve().await;
    let client = Client::builder().redirect(Policy::none()).build().unwrap();
    let cookie = sign_in(&client, &served.base, &served.token).await;
    let pages = pages(&served.data.pool).await;
    measure(&client, &served.base, &cookie, &pages).await;
    served.stop().await;
}

/// Past runs of all organizations, one every minute, each with its steps; one in ten failed.
#[allow(clippy::disallowed_methods, reason = "the bench's own set-up")]
async fn history(pool: &PgPool) {
    let mut transaction = pool.begin().await.unwrap();
    // The record of a run that is over takes no further rows, unless it is restored.
    sqlx::query("SET LOCAL session_replication_role = replica")
        .execute(&mut *transaction)
        .await
        .unwrap();
    sqlx::query(
        "WITH orgs AS (SELECT array_agg(id) AS ids FROM organizations),
         made AS (
             INSERT INTO retention.purge_runs
                 (org_id, trigger, requested_by, status, plan, attempts, error_kind, error, created_at, started_at,
                  finished_at, verified_at)
             SELECT ids[1 + n % cardinality(ids)], 'purge_now', 'history',
                    CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END, 'pro', 1,
                    CASE WHEN n % 10 = 0 THEN (ARRAY['database', 'lease_lost', 'verification'])[1 + n % 3] END,
                    CASE WHEN n % 10 = 0 THEN 'the server closed the connection' END,
                    now() - n * interval '1 minute', now() - n * interval '1 minute',
                    now() - n * interval '1 minute', CASE WHEN n % 10 <> 0 THEN now() - n * interval '1 minute' END
             FROM orgs, generate_series(1, $1) n RETURNING id, created_at)
         INSERT INTO retention.purge_run_steps
             (run_id, table_name, status, rows_purged, batches, started_at, finished_at)
         SELECT id, name, 'succeeded', 17, 1, created_at, created_at
         FROM made, unnest(ARRAY['drift_checks', 'workflow_drift_flags', 'incident_payloads', 'approvals']) name",
    )
    .bind(RUNS)
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.commit().await.unwrap();
    sqlx::query("ANALYZE").execute(pool).await.unwrap();
}

/// Signs in by the form. The session's cookie as it is sent back.
async fn sign_in(client: &Client, base: &str, token: &str) -> String {
    let form = format!("{base}/signin");
    let page = client.get(&form).send().await.unwrap();
    let form_cookie = cookies(&page);
    let page = page.text().await.unwrap();
    let (_, csrf) = page.split_once(r#"name="csrf" value=""#).unwrap();
    let csrf = csrf.split('"').next().unwrap();
    let answer = client
        .post(form)
        .header(header::COOKIE, form_cookie)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(format!("csrf={csrf}&token={token}"))
        .send()
        .await
        .unwrap();
    cookies(&answer)
}

/// The cookies that an answer sets, as they are sent back.
fn cookies(answer: &reqwest::Response) -> String {
    let cookies = answer.headers().get_all(header::SET_COOKIE).iter();
    let cookies = cookies.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap());
    cookies.collect::<Vec<_>>().join("; ")
}

/// The path of every page, on the organization of the sample data with the most incidents.
#[allow(clippy::disallowed_methods, reason = "the bench's own look-up")]
async fn pages(pool: &PgPool) -> Vec<String> {
    let (org, incident, env, run, failed): (String, String, String, String, String) = sqlx::query_as(
        "SELECT i.org_id::text, i.id::text, i.env_id::text,
                (SELECT id::text FROM retention.purge_runs WHERE org_id = i.org_id AND status = 'succeeded'
                 ORDER BY created_at DESC LIMIT 1),
                (SELECT id::text FROM retention.purge_runs WHERE status = 'failed' ORDER BY created_at DESC LIMIT 1)
         FROM incidents i WHERE NOT is_deleted
         ORDER BY (SELECT count(*) FROM incidents o WHERE o.org_id = i.org_id) DESC, i.id LIMIT 1",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let of_org = |page: &str| format!("/console/orgs/{org}/{page}");
    vec![
        "/signin".to_owned(),
        "/console/overview".to_owned(),
        "/console/overdue".to_owned(),
        "/console/unresolved".to_owned(),
        "/console/orgs".to_owned(),
        "/console/orgs?search=no".to_owned(),
        of_org("environments"),
        of_org(&format!("environments/{env}")),
        of_org("incidents"),
        of_org("incidents?status=closed"),
        of_org(&format!("incidents/{incident}")),
        of_org(&format!("incidents/{incident}?tab=timeline")),
        of_org(&format!("incidents/{incident}?tab=approvals")),
        of_org("dashboard"),
        of_org("retention"),
        of_org("retention/preview"),
        of_org("retention/purge"),
        "/console/runs".to_owned(),
        "/console/runs?status=failed".to_owned(),
        "/console/runs?status=failed&error_kind=database".to_owned(),
        "/console/runs?error_kind=nothing".to_owned(),
        format!("/console/runs?org={org}&until=2000-01-01T00:00"),
        format!("/console/runs/{run}"),
        format!("/console/runs/{run}/progress"),
        format!("/console/runs/replay?run={failed}"),
        "/console/runs/replay?status=failed".to_owned(),
        "/console/runs/replay?error_kind=nothing".to_owned(),
        "/console/actions".to_owned(),
    ]
}

/// Opens every page in turn, and prints what each took.
async fn measure(client: &Client, base: &str, cookie: &str, pages: &[String]) {
    let mut latencies = vec![Vec::new(); pages.len()];
    let mut sizes = vec![0; pages.len()];
    for _ in 0..ROUNDS {
        for (index, page) in pages.iter().enumerate() {
            let request = client
                .get(format!("{base}{page}"))
                .header(header::COOKIE, cookie);
            let asked = Instant::now();
            let answer = request.send().await.unwrap();
            let status = answer.status();
            let body = answer.bytes().await.unwrap();
            latencies[index].push(asked.elapsed());
            assert!(status == 200, "{page}: {status}");
            sizes[index] = body.len();
        }
    }
    println!(
        "{:<44} {:>12} {:>12} {:>10}",
        "page at 100 000 runs", "median, ms", "p99, ms", "KiB"
    );
    let mut slow = Vec::new();
    for ((page, latencies), size) in pages.iter().zip(&mut latencies).zip(sizes) {
        latencies.sort_unstable();
        let (median, p99) = (percentile(latencies, 50), percentile(latencies, 99));
        println!(
            "{:<44} {median:>12.1} {p99:>12.1} {:>10}",
            named(page),
            size / 1024
        );
        if p99 >= LIMIT {
            slow.push(named(page));
        }
    }
    match slow.as_slice() {
        [] => println!("every page is below {LIMIT} ms at p99"),
        _ => println!("above {LIMIT} ms at p99: {}", slow.join(", ")),
    }
}

/// A path without its ids.
fn named(page: &str) -> String {
    let is_id = |part: &str| part.len() == 36 && part.matches('-').count() == 4;
    let cut = |part: &str| {
        if is_id(part) {
            "…".to_owned()
        } else {
            part.to_owned()
        }
    };
    let path = page.strip_prefix("/console/").unwrap_or(page);
    let words = path.split_inclusive(['/', '?', '=', '&']).map(|piece| {
        let (word, end) = piece.split_at(piece.trim_end_matches(['/', '?', '=', '&']).len());
        cut(word) + end
    });
    words.collect()
}

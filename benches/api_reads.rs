//! How long the API's read routes take on the sample data while a purge runs: `cargo bench --bench api_reads`.
//!
//! A server of its own, `serve` in its release build with all roles, every route asked at a fixed rate whatever the
//! answers take (so that a stall counts for every request that it delays), and one large organization whose purge is
//! going on all the while. Prints median and p99 per route, with and without it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench says what it measured, or stops"
)]

mod support;

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use sqlx::PgPool;

use support::{SampleData, percentile};

/// How often each route is asked, and for how long: 600 latencies per route and phase.
const ASKED_EVERY: Duration = Duration::from_millis(100);
const MEASURE: Duration = Duration::from_mins(1);
/// Expired checks of the organization that is purged meanwhile: more than the measurement can get through.
const EXPIRED: i64 = 6_000_000;

#[tokio::main]
async fn main() {
    let data = SampleData::purged().await;
    let large = organization(&data.pool, "Large", EXPIRED).await;
    let behind = organization(&data.pool, "Behind", 5_000).await;
    let served = data.serve().await;
    let pool = &served.data.pool;

    let mut routes = routes(pool).await;
    routes.push((
        "GET retention/preview, 5,000 rows behind",
        format!("/orgs/{behind}/retention/preview"),
    ));
    let quiet = measure(&served.base, &served.token, &routes).await;
    reqwest::Client::new()
        .post(format!("{}/orgs/{large}/retention/purge", served.base))
        .bearer_auth(&served.token)
        .send()
        .await
        .unwrap();
    let purging = measure(&served.base, &served.token, &routes).await;
    let left: i64 = count(pool, &large).await;
    assert!(
        left > 0,
        "the purge ended before the measurement: raise EXPIRED"
    );

    println!(
        "{:<42} {:>22} {:>22}",
        "route (ms)", "quiet median / p99", "purging median / p99"
    );
    for (index, (name, _)) in routes.iter().enumerate() {
        println!(
            "{name:<42} {:>22} {:>22}",
            figures(&quiet[index]),
            figures(&purging[index])
        );
    }
    println!("purged meanwhile: {} checks", EXPIRED - left);
    served.stop().await;
}

/// An organization with so many expired checks.
#[allow(clippy::disallowed_methods, reason = "the bench's own set-up")]
async fn organization(pool: &PgPool, name: &str, expired: i64) -> String {
    let org: String = sqlx::query_scalar(
        "INSERT INTO organizations (name, plan) VALUES ($1, 'pro') RETURNING id::text",
    )
    .bind(name)
    .fetch_one(pool)
    .await
    .unwrap();
    sqlx::query(
        "WITH env AS (INSERT INTO environments (org_id, name) VALUES ($1::uuid, 'production') RETURNING id)
         INSERT INTO drift_checks (org_id, env_id, checked_at, status)
         SELECT $1::uuid, env.id, now() - interval '40 days' - n * interval '1 second', 'in_sync'
         FROM env, generate_series(1, $2) n",
    )
    .bind(&org).bind(expired).execute(pool).await.unwrap();
    sqlx::query("ANALYZE").execute(pool).await.unwrap();
    org
}

#[allow(clippy::disallowed_methods, reason = "the bench's own check")]
async fn count(pool: &PgPool, org: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM drift_checks WHERE org_id = $1::uuid")
        .bind(org)
        .fetch_one(pool)
        .await
        .unwrap()
}

/// A name and a path for each read route, on an organization of the sample data.
#[allow(clippy::disallowed_methods, reason = "the bench's own look-up")]
async fn routes(pool: &PgPool) -> Vec<(&'static str, String)> {
    let (org, incident): (String, String) = sqlx::query_as(
        "SELECT org_id::text, id::text FROM incidents WHERE NOT is_deleted
         ORDER BY (SELECT count(*) FROM incidents i WHERE i.org_id = incidents.org_id) DESC, id LIMIT 1",
    )
    .fetch_one(pool).await.unwrap();
    vec![
        ("GET environments", format!("/orgs/{org}/environments")),
        ("GET incidents", format!("/orgs/{org}/incidents")),
        (
            "GET incidents/{id}",
            format!("/orgs/{org}/incidents/{incident}"),
        ),
        (
            "GET drift/dashboard",
            format!("/orgs/{org}/drift/dashboard"),
        ),
        (
            "GET retention/policy",
            format!("/orgs/{org}/retention/policy"),
        ),
        (
            "GET retention/preview",
            format!("/orgs/{org}/retention/preview"),
        ),
        (
            "GET retention/runs of an organization",
            format!("/orgs/{org}/retention/runs"),
        ),
        ("GET retention/runs", "/retention/runs".to_owned()),
    ]
}

/// Asks for every route at its fixed times, each in a task of its own; the latencies by route, sorted.
async fn measure(base: &str, token: &str, routes: &[(&str, String)]) -> Vec<Vec<Duration>> {
    let client = reqwest::Client::new();
    let began = Instant::now() + Duration::from_millis(100);
    let count = u32::try_from(routes.len()).unwrap();
    let asked_by_route = (0..count).zip(routes).map(|(index, (_, path))| {
        let request = client.get(format!("{base}{path}")).bearer_auth(token);
        let first = began + ASKED_EVERY * index / count;
        tokio::spawn(ask_on_time(request, first))
    });
    let mut latencies = Vec::new();
    for asked in asked_by_route.collect::<Vec<_>>() {
        let mut of_route = asked.await.unwrap();
        of_route.sort_unstable();
        latencies.push(of_route);
    }
    latencies
}

/// One route's latencies, each from the moment at which it was due.
async fn ask_on_time(request: RequestBuilder, first: Instant) -> Vec<Duration> {
    let mut answers = Vec::new();
    let mut due = first;
    while due < first + MEASURE {
        tokio::time::sleep_until(due.into()).await;
        let request = request.try_clone().unwrap();
        answers.push(tokio::spawn(async move {
            let answer = request.send().await.unwrap().error_for_status().unwrap();
            answer.bytes().await.unwrap();
            due.elapsed()
        }));
        due += ASKED_EVERY;
    }
    let mut latencies = Vec::new();
    for answer in answers {
        latencies.push(answer.await.unwrap());
    }
    latencies
}

fn figures(sorted: &[Duration]) -> String {
    format!(
        "{:.1} / {:.1}",
        percentile(sorted, 50),
        percentile(sorted, 99)
    )
}

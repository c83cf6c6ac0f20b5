//! The gauges of all processes are one reading of the database.

use std::time::Duration;

use drift_retention::postgres::local::StopMode;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    TestDatabase,
    app::App,
    console::{Console, Who},
    own_server::OwnServer,
    product::{Service, enqueue, eventually},
    visitor::Visitor,
};

/// A process looks for a new reading every 30 seconds.
const PAST_AN_INTERVAL: Duration = Duration::from_secs(33);
const OVERDUE: &str = "drift_retention_organizations_overdue";

fn runs(status: &str) -> String {
    format!(r#"drift_retention_queue_runs{{status="{status}"}}"#)
}

/// Starts a process whose turn it is to read, and waits until it shows this.
async fn reader_that_shows(db: &TestDatabase, series: &str, value: f64) -> Service {
    db.execute("UPDATE retention.standing SET claimed_at = '-infinity'")
        .await;
    let service = Service::start(&db.url, "api", &[]);
    service.ready().await;
    eventually("the gauge is shown", async || {
        service.metric(series).await == Some(value)
    })
    .await;
    service
}

#[tokio::test]
async fn what_was_never_read_is_no_number_and_never_a_zero() {
    let db = TestDatabase::new().await;
    App::on(&db.pool).org_with_expired(3).await;
    let service = Service::start(&db.url, "api", &[]);
    eventually("it answers", async || service.get("/healthz").await.is_ok()).await;
    eventually("the gauge is shown", async || {
        let shown = service.metric(OVERDUE).await.unwrap();
        assert!(shown.is_nan() || shown == 1.0, "{shown}");
        shown == 1.0
    })
    .await;
}

/// From now on every reading is noted.
async fn note_readings(db: &TestDatabase) {
    db.execute(
        "CREATE TABLE readings (at timestamptz DEFAULT clock_timestamp());
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO readings DEFAULT VALUES; RETURN NULL; END';
         CREATE TRIGGER note AFTER UPDATE OF reading ON retention.standing
             FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
}

/// How many readings there were; fails if two of them are nearer to each other than an interval.
async fn readings_in_turn(db: &TestDatabase) -> i64 {
    let in_turn = "SELECT coalesce(bool_and(gap > interval '20 seconds'), true)
                   FROM (SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM readings) gaps";
    assert!(db.value::<bool>(in_turn).await);
    db.value("SELECT count(*) FROM readings").await
}

#[tokio::test]
async fn process_that_starts_shows_the_last_reading_from_its_first_scrape_on() {
    let db = TestDatabase::new().await;
    App::on(&db.pool).org_with_expired(3).await;
    drop(reader_that_shows(&db, OVERDUE, 1.0).await);
    let next = Service::start(&db.url, "api", &[]);
    next.ready().await;
    assert_eq!(next.metric(OVERDUE).await, Some(1.0));
}

#[tokio::test]
async fn processes_read_the_database_in_turn_and_all_show_the_same() {
    let db = TestDatabase::new().await;
    App::on(&db.pool).org_with_expired(3).await;
    note_readings(&db).await;
    let services: Vec<_> = ["api", "scheduler", "worker", "api"]
        .map(|role| Service::start(&db.url, role, &[]))
        .into();
    for service in &services {
        service.ready().await;
        eventually("the gauge is shown", async || {
            service.metric(OVERDUE).await == Some(1.0)
        })
        .await;
    }
    // However long all that took, and whichever of them read.
    assert!(readings_in_turn(&db).await > 0);
}

#[tokio::test]
async fn ten_processes_that_are_scraped_all_the_time_make_one_reading_per_interval() {
    let db = TestDatabase::new().await;
    App::on(&db.pool).org_with_expired(3).await;
    note_readings(&db).await;
    // They start at once, so that they also ask at once whose turn it is.
    let services: Vec<_> = (0..10)
        .map(|_| Service::start(&db.url, "api", &[]))
        .collect();
    join_all(services.iter().map(Service::ready)).await;
    let until = Instant::now() + PAST_AN_INTERVAL;
    let scrapes = join_all(services.iter().map(async |service| {
        let mut scrapes = 0;
        while Instant::now() < until {
            let answer = service.get("/metrics").await.unwrap();
            assert_eq!(answer.status(), 200);
            scrapes += 1;
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(service.metric(OVERDUE).await, Some(1.0));
        scrapes
    }))
    .await;
    assert!(scrapes.iter().sum::<i64>() > 500, "{scrapes:?}");
    let readings = readings_in_turn(&db).await;
    assert!((2..=3).contains(&readings), "{readings}");
}

#[tokio::test]
async fn own_server_that_is_away_changes_no_scrape() {
    let mut server = OwnServer::start().await;
    App::on(&server.pool).org_with_expired(3).await;
    let service = Service::start(&server.url, "api", &[]);
    service.ready().await;
    eventually("the gauge is shown", async || {
        service.metric(OVERDUE).await == Some(1.0)
    })
    .await;
    server.stop(StopMode::Immediate).await;
    eventually("it has noticed", async || {
        service.get("/readyz").await.unwrap().status() == 503
    })
    .await;
    for _ in 0..20 {
        // A scrape that asked the database would wait for a connection, for five seconds.
        let scraped = timeout(Duration::from_secs(2), service.get("/metrics")).await;
        assert_eq!(
            scraped.expect("it waits for nothing").unwrap().status(),
            200
        );
        assert_eq!(service.metric(OVERDUE).await, Some(1.0), "as last read");
    }
}

#[tokio::test]
async fn process_that_died_over_a_reading_holds_the_others_up_for_one_turn() {
    let db = TestDatabase::new().await;
    App::on(&db.pool).org_with_expired(3).await;
    // It has claimed its turn and reads no more; the turn is nearly over.
    db.execute("UPDATE retention.standing SET claimed_at = now() - interval '20 seconds'")
        .await;
    let service = Service::start(&db.url, "api", &[]);
    service.ready().await;
    eventually("another has read", async || {
        service.metric(OVERDUE).await == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn runs_are_counted_in_every_status() {
    let db = TestDatabase::new().await;
    let statuses = [
        "queued",
        "running",
        "retrying",
        "succeeded",
        "failed",
        "cancelled",
    ];
    for (n, status) in statuses.iter().enumerate() {
        db.execute(&format!(
            "INSERT INTO retention.purge_runs (org_id, trigger, requested_by, status)
             SELECT gen_random_uuid(), 'purge_now', 'x', '{status}' FROM generate_series(0, {n})"
        ))
        .await;
    }
    let service = reader_that_shows(&db, &runs("queued"), 1.0).await;
    for (n, status) in (1_u8..).zip(statuses) {
        assert_eq!(
            service.metric(&runs(status)).await,
            Some(f64::from(n)),
            "{status}"
        );
    }
}

/// A mapping that is right as far as the catalogue tells, and fails when the plan of one organization is read.
const UNREADABLE_PLAN: &str = "
    CREATE OR REPLACE VIEW main_app.organizations AS
    SELECT o.id, o.name, CASE WHEN o.name = 'broken' THEN (1 / (length(o.name) - 6))::text ELSE o.plan END AS plan, o.created_at
    FROM organizations o;
    INSERT INTO organizations (name, plan) VALUES ('broken', 'pro')";

#[tokio::test]
async fn part_that_cannot_be_read_keeps_its_value_and_holds_up_no_other() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    // Not even the first reading needs all of them.
    db.execute("ALTER TABLE retention.purge_run_steps RENAME COLUMN started_at TO hidden")
        .await;
    let org = app.org_with_expired(3).await;
    reader_that_shows(&db, OVERDUE, 1.0).await.kill().await;
    db.execute("ALTER TABLE retention.purge_run_steps RENAME COLUMN hidden TO started_at")
        .await;

    db.execute(UNREADABLE_PLAN).await;
    app.org_with_expired(3).await;
    enqueue(&db.pool, org).await;
    let service = reader_that_shows(&db, &runs("queued"), 1.0).await;
    assert_eq!(service.metric(OVERDUE).await, Some(1.0), "as it was");
    let not_read = "SELECT array_agg(part) FROM retention.standing,
                           jsonb_array_elements_text(reading -> 'not_read') part";
    assert_eq!(db.value::<Vec<String>>(not_read).await, ["overdue rows"]);
    service.kill().await;

    db.execute("UPDATE organizations SET name = 'mended' WHERE name = 'broken'")
        .await;
    reader_that_shows(&db, OVERDUE, 2.0).await;
    let all_read = "SELECT reading -> 'not_read' = '[]' FROM retention.standing";
    assert!(db.value::<bool>(all_read).await);
}

#[tokio::test]
async fn overview_names_the_part_that_could_not_be_read() {
    let db = TestDatabase::new().await;
    db.execute(UNREADABLE_PLAN).await;
    let console = Console::on(db, "api", &[]).await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;

    let page = operator.get("/console/overview").await;

    assert_eq!(page.status, 200);
    let says = "Older, because it could not be read: overdue rows.";
    assert!(page.text().contains(says), "{}", page.text());
}

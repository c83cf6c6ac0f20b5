//! The gauges of all processes are one reading of the database.

use crate::support::{
    TestDatabase,
    app::App,
    product::{Service, eventually},
};

const OVERDUE: &str = "drift_retention_organizations_overdue";

#[tokio::test]
async fn processes_read_the_database_in_turn_and_all_show_the_same() {
    let db = TestDatabase::new().await;
    App::on(&db.pool).org_with_expired(3).await;
    db.execute(
        "CREATE TABLE readings (at timestamptz DEFAULT clock_timestamp());
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO readings DEFAULT VALUES; RETURN NULL; END';
         CREATE TRIGGER note AFTER UPDATE OF reading ON retention.standing
             FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
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
    let readings: i64 = db.value("SELECT count(*) FROM readings").await;
    assert!(readings > 0);
    let in_turn = "SELECT coalesce(bool_and(gap > interval '20 seconds'), true)
                   FROM (SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM readings) gaps";
    assert!(db.value::<bool>(in_turn).await);
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

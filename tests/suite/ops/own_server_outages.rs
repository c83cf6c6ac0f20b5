//! Postgres stops, in order or as in a crash, and starts again: the same processes find it and finish what was begun.

use drift_retention::postgres::local::StopMode;
use uuid::Uuid;

use crate::support::{
    app::App,
    ledger,
    own_server::OwnServer,
    product::{self, Service, eventually, until_status},
    trouble,
};

const SMALL_BATCHES: (&str, &str) = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "50");

async fn outage(server: &mut OwnServer, service: &Service, mode: StopMode) {
    server.stop(mode).await;
    eventually("it is not ready", async || {
        service.get("/readyz").await.unwrap().status() == 503
    })
    .await;
    assert_eq!(service.get("/healthz").await.unwrap().status(), 200);
    server.start_again().await;
    service.ready().await;
}

async fn begin(server: &OwnServer, settings: &[(&str, &str)]) -> (Service, Uuid) {
    let org = App::on(&server.pool).org_with_expired(2_001).await;
    let service = Service::start(&server.url, "worker", settings);
    service.ready().await;
    let run = product::enqueue(&server.pool, org).await;
    (service, run)
}

async fn attempt_is_finished_after(mode: StopMode) {
    let mut server = OwnServer::start().await;
    trouble::deletes_take(&server.pool, 0.3).await;
    let (service, run) = begin(&server, &[SMALL_BATCHES]).await;
    eventually("a batch is committed", async || {
        ledger::progress(&server.pool, run).await > 0
    })
    .await;

    outage(&mut server, &service, mode).await;
    trouble::deletes_take(&server.pool, 0.0).await;
    until_status(&server.pool, run, "succeeded").await;

    assert!(ledger::attempts(&server.pool, run).await >= 2);
    ledger::assert_exact(&server.pool, &[0, 2_001, 0, 4_002]).await;
    assert_eq!(ledger::rows(&server.pool).await, [0, 1, 0, 2]);
    server.stop(StopMode::Immediate).await;
}

async fn retry_comes_after(mode: StopMode) {
    let mut server = OwnServer::start().await;
    let app = App::on(&server.pool);
    let org = app.org_with_expired(11).await;
    trouble::deletes_fail(&server.pool, org, 1).await;
    let slow_retries = [
        ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "6s"),
        ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "6s"),
    ];
    let service = Service::start(&server.url, "worker", &slow_retries);
    service.ready().await;
    let run = product::enqueue(&server.pool, org).await;
    until_status(&server.pool, run, "retrying").await;

    outage(&mut server, &service, mode).await;
    until_status(&server.pool, run, "succeeded").await;

    assert_eq!(ledger::attempts(&server.pool, run).await, 2);
    ledger::assert_exact(&server.pool, &[0, 11, 0, 22]).await;
    let later = product::enqueue(&server.pool, org).await;
    until_status(&server.pool, later, "succeeded").await;
    server.stop(StopMode::Immediate).await;
}

#[tokio::test]
async fn attempt_is_finished_after_an_orderly_restart() {
    attempt_is_finished_after(StopMode::Fast).await;
}

#[tokio::test]
async fn attempt_is_finished_after_a_crash() {
    attempt_is_finished_after(StopMode::Immediate).await;
}

#[tokio::test]
async fn retry_comes_after_an_orderly_restart() {
    retry_comes_after(StopMode::Fast).await;
}

#[tokio::test]
async fn retry_comes_after_a_crash() {
    retry_comes_after(StopMode::Immediate).await;
}

//! The command `health`: what a container's health check runs, in place of curl.

use std::process::Output;

use crate::support::{
    TestDatabase,
    product::{self, Service},
    text::{shown, stderr},
};

/// Asks the service that listens there, without a database of its own.
async fn health(listen: &str) -> Output {
    let mut command = product::command("");
    command
        .arg("health")
        .env("DRIFT_RETENTION_HTTP__LISTEN", listen)
        // Would answer for the service, were it asked.
        .env("HTTP_PROXY", "http://127.0.0.1:1");
    command.output().await.unwrap()
}

#[tokio::test]
async fn ready_service_is_healthy_wherever_it_listens() {
    let db = TestDatabase::new().await;
    let service = Service::start(&db.url, "api,worker", &[]);
    service.ready().await;
    for host in ["127.0.0.1", "0.0.0.0"] {
        let output = health(&format!("{host}:{}", service.port)).await;
        assert_eq!(shown(&output), "exit 0\nready\n", "{host}");
    }
}

#[tokio::test]
async fn service_that_is_not_ready_is_unhealthy_and_says_why() {
    let db = TestDatabase::new().await;
    let service = Service::start(&db.url, "api", &[]);
    service.ready().await;
    let down = product::run(&db.url, &["migrate", "down"]).await;
    assert!(down.status.success(), "{down:?}");

    let output = health(&format!("127.0.0.1:{}", service.port)).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = stderr(&output);
    assert!(
        message.starts_with("error: not ready: schema: "),
        "{message}"
    );
    assert!(message.contains("migrate up"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[tokio::test]
async fn service_that_is_not_there_is_unhealthy() {
    let output = health("127.0.0.1:1").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = stderr(&output);
    assert!(
        message.starts_with("error: no answer from 127.0.0.1:1 (`http.listen`)"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");
}

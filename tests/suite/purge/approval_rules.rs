//! What goes and what stays of approvals.

use uuid::Uuid;

use crate::support::{TestDatabase, app::App, product, runs};

/// The approvals that are there, in order.
async fn approvals(db: &TestDatabase) -> Vec<Uuid> {
    db.value("SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM approvals")
        .await
}

fn sorted(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn decided_approvals_older_than_the_window_go_and_younger_ones_stay() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    // Closed only yesterday: an approval goes by its own age.
    let incident = app.incident(org, env, "closed", Some("1 day")).await;
    let mut young = Vec::new();
    for status in ["approved", "rejected", "cancelled"] {
        app.approval(org, incident, status, "181 days").await;
        young.push(app.approval(org, incident, status, "179 days").await);
    }

    let run = product::purge(&db.url, org).await;

    assert_eq!(approvals(&db).await, sorted(young));
    assert_eq!(runs::purged(&db, run).await, [0, 0, 0, 3]);
    assert_eq!(runs::step(&db, run, "approvals").await["rows_kept"], 0);
}

#[tokio::test]
async fn pending_approvals_and_those_of_incidents_that_are_not_closed_stay_and_count_as_kept() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let closed = app.incident(org, env, "closed", Some("300 days")).await;
    let no_time = app.incident(org, env, "closed", None).await;
    app.approval(org, closed, "approved", "200 days").await;
    app.approval(org, no_time, "rejected", "200 days").await;
    let mut kept = vec![app.approval(org, closed, "pending", "9000 days").await];
    for status in [
        "detected",
        "acknowledged",
        "stabilized",
        "reconciled",
        "Closed",
    ] {
        let incident = app.incident(org, env, status, Some("300 days")).await;
        kept.push(app.approval(org, incident, "approved", "200 days").await);
        kept.push(app.approval(org, incident, "pending", "200 days").await);
    }
    let expired_but_kept = kept.len();
    kept.push(app.approval(org, closed, "pending", "1 day").await);

    let run = product::purge(&db.url, org).await;

    assert_eq!(approvals(&db).await, sorted(kept));
    let step = runs::step(&db, run, "approvals").await;
    assert_eq!(step["rows_purged"], 2);
    assert_eq!(step["rows_kept"], expired_but_kept);
}

#[tokio::test]
async fn kept_approvals_do_not_hide_expired_ones_from_small_batches() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let incident = app.incident(org, env, "closed", Some("1 day")).await;
    for _ in 0..9 {
        app.approval(org, incident, "pending", "300 days").await;
    }
    app.approval(org, incident, "approved", "200 days").await;

    let run = runs::purge_in_batches(&db, org, 2).await;

    assert_eq!(runs::counts(&db, org).await, [0, 0, 0, 9]);
    assert_eq!(runs::step(&db, run, "approvals").await["rows_kept"], 9);
}

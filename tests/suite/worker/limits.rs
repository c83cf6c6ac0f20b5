//! Where something is full: connections, the queue.

use drift_retention::{
    attach::{self, Depth},
    postgres::{Database, Durability, LockBudget, Transaction, connections_left, local::StopMode},
};
use futures::FutureExt;
use sqlx::{Connection, PgConnection, error::DatabaseError, postgres::PgPoolOptions};

use crate::support::{
    TestDatabase,
    app::App,
    app_at_work::AppAtWork,
    execute_on, ledger,
    own_server::OwnServer,
    product::{self, Service, eventually, until_status},
    roles, value,
};

const CONCURRENCY: (&str, &str) = ("DRIFT_RETENTION_WORKER__CONCURRENCY", "4");
/// What is logged where one was waited for and did not come.
const IN_VAIN: &str = "pool timed out while waiting for an open connection";

async fn all_succeed(db: &TestDatabase, runs: i64) {
    eventually("every run has succeeded", async || {
        let succeeded = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
        db.value::<i64>(succeeded).await == runs
    })
    .await;
}

/// A worker's user who may have only so many connections, and twelve organizations with something to purge.
async fn few_connections(connections: u32) -> (TestDatabase, String, String) {
    let db = TestDatabase::new().await;
    roles::apply(&db).await;
    let user = roles::user_in(&db, "drift_retention_worker").await;
    let name = user.split([':', '/']).nth(3).unwrap().to_owned();
    db.execute(&format!("ALTER ROLE {name} CONNECTION LIMIT {connections}"))
        .await;
    let app = App::on(&db.pool);
    for _ in 0..12 {
        app.org_with_expired(40).await;
    }
    (db, user, name)
}

/// Purges with a worker of this user, who waits for no connection in vain.
async fn worker_does_with(db: &TestDatabase, user: &str, settings: &[(&str, &str)]) {
    let before = ledger::rows(&db.pool).await;
    let (_worker, log) = Service::logged(user, "worker", settings);
    product::json(&db.url, &["purge", "--all", "--json"]).await;
    all_succeed(db, 12).await;
    ledger::assert_exact(&db.pool, &before).await;
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(!log.contains(IN_VAIN), "{log}");
    let attempts = "SELECT max(attempts) FROM retention.purge_runs";
    assert_eq!(db.value::<i32>(attempts).await, 1);
}

#[tokio::test]
async fn worker_does_with_the_connections_that_it_may_have() {
    let (db, user, _) = few_connections(4).await;
    let few = ("DRIFT_RETENTION_DATABASE__CONNECTIONS", "4");
    worker_does_with(&db, &user, &[CONCURRENCY, few]).await;
}

#[tokio::test]
async fn worker_finds_out_how_many_connections_it_may_have() {
    let (db, user, _) = few_connections(4).await;
    worker_does_with(&db, &user, &[CONCURRENCY]).await;
}

#[tokio::test]
async fn worker_beside_the_main_app_finds_out_how_many_connections_it_may_have() {
    let (db, user, _) = few_connections(4).await;
    let app = AppAtWork::on(&db).await;
    worker_does_with(&db, &user, &[CONCURRENCY]).await;
    app.rest().await;
}

/// How many connections can be opened until one is refused.
async fn opened_until_refused(url: &str) -> i64 {
    let mut open = Vec::new();
    let refused = loop {
        match PgConnection::connect(url).await {
            Ok(connection) => open.push(connection),
            Err(refused) => break refused,
        }
    };
    let code = refused.as_database_error().and_then(DatabaseError::code);
    assert_eq!(code.as_deref(), Some("53300"), "{refused}");
    i64::try_from(open.len()).unwrap()
}

#[tokio::test]
async fn own_server_tells_how_many_connections_it_has_left() {
    let mut server = OwnServer::start().await;
    execute_on(
        &server.pool,
        "CREATE ROLE few LOGIN PASSWORD 'secret' CONNECTION LIMIT 7;
         CREATE ROLE any_number LOGIN PASSWORD 'secret'",
    )
    .await;
    for setting in [
        "autovacuum = off",
        "max_connections = 20",
        "superuser_reserved_connections = 2",
    ] {
        execute_on(&server.pool, &format!("ALTER SYSTEM SET {setting}")).await;
    }
    server.pool.close().await;
    server.stop(StopMode::Fast).await;
    server.start_again().await;
    // It counts, so there is one.
    let one = PgPoolOptions::new().max_connections(1);
    let admin = one.connect_lazy(&server.url).unwrap();
    let address = server.url.split_once('@').unwrap().1;
    let url_of = |name: &str| format!("postgres://{name}:secret@{address}");
    for (in_database, name, most) in [(-1, "few", 7), (-1, "any_number", 17), (9, "any_number", 8)]
    {
        let limit = format!("ALTER DATABASE app CONNECTION LIMIT {in_database}");
        execute_on(&admin, &limit).await;
        eventually("nobody else is connected", async || {
            let others =
                "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('few', 'any_number')";
            value::<i64>(&admin, others).await == 0
        })
        .await;
        let asking = Database::new(&url_of(name), 1).unwrap();
        assert_eq!(connections_left(&asking).await.unwrap(), most);
        // The one that asks is open meanwhile.
        assert_eq!(opened_until_refused(&url_of(name)).await + 1, most);
        asking.close().await;
    }
}

#[tokio::test]
async fn nothing_is_lost_while_no_more_connections_are_to_be_had() {
    let (db, user, name) = few_connections(100).await;
    let before = ledger::rows(&db.pool).await;
    let (worker, log) = Service::logged(&user, "worker", &[CONCURRENCY]);
    worker.ready().await;
    db.execute(&format!(
        "ALTER ROLE {name} CONNECTION LIMIT 4;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
    ))
    .await;
    product::json(&db.url, &["purge", "--all", "--json"]).await;
    eventually("it has waited for one in vain", async || {
        let log = std::fs::read_to_string(log.path()).unwrap();
        log.contains(IN_VAIN)
    })
    .await;
    db.execute(&format!("ALTER ROLE {name} CONNECTION LIMIT -1"))
        .await;
    all_succeed(&db, 12).await;
    ledger::assert_exact(&db.pool, &before).await;
}

#[tokio::test]
async fn connections_are_opened_one_after_the_other_before_they_are_needed() {
    let db = TestDatabase::new().await;
    let database = Database::for_purging(&db.url, 5, 2).expect("the test's own database");
    database.open_gently().await;
    assert_eq!(database.connections().0, 5);
    let closest = "SELECT min(began - before) >= interval '25 ms' FROM (
        SELECT backend_start AS began, lag(backend_start) OVER (ORDER BY backend_start) AS before
        FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'drift-retention') s";
    assert!(db.value::<bool>(closest).await, "some were opened at once");
    database.close().await;
}

#[tokio::test]
async fn no_more_connections_are_opened_than_there_are() {
    let (_db, user, _) = few_connections(4).await;
    let database = Database::new(&user, 12).expect("the test's own database");
    database.open_gently().await;
    assert_eq!(database.connections().0, 4);
    database.close().await;
}

/// Which of the server's sessions it runs in.
#[allow(
    clippy::disallowed_methods,
    reason = "the test asks the product's own sessions"
)]
async fn session(tx: &mut Transaction<'_>) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(tx)
        .await
        .expect("a session tells its pid")
}

#[tokio::test]
async fn transactions_that_give_way_take_turns_in_sessions_of_their_own() {
    let db = TestDatabase::new().await;
    let database = Database::for_purging(&db.url, 3, 1).expect("the test's own database");
    // Whoever commits a purge has checked the mapping.
    let (mapping, _) = attach::prove(&database, &[], Depth::Structure)
        .await
        .unwrap();
    let database = database.with_mapping(mapping);
    let begin = || database.begin_purging(LockBudget::Long, Durability::Flushed);
    let mut first = begin().await.unwrap();
    let taken = session(&mut first).await;
    let mut next = Box::pin(begin());
    assert!((&mut next).now_or_never().is_none(), "it waits its turn");
    let mut others = [
        database.begin().await.unwrap(),
        database.begin().await.unwrap(),
    ];
    for other in &mut others {
        assert_ne!(session(other).await, taken, "others need not wait");
    }
    first.commit().await.unwrap();
    let mut next = next.await.unwrap();
    assert_eq!(
        session(&mut next).await,
        taken,
        "the same session once more"
    );
    drop((next, others));
    database.close().await;
}

#[tokio::test]
async fn what_is_asked_for_now_goes_past_a_full_queue() {
    let db = TestDatabase::new().await;
    db.execute(
        "INSERT INTO organizations (name, plan) SELECT 'Org ' || n, 'pro' FROM generate_series(1, 20000) n;
         SELECT retention.enqueue_slot(now(), array_agg(id)) FROM organizations",
    )
    .await;
    let org = App::on(&db.pool).org_with_expired(40).await;
    let _worker = Service::start(&db.url, "worker", &[CONCURRENCY]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    let waiting = "SELECT count(*) FROM retention.purge_runs WHERE status = 'queued'";
    assert!(
        db.value::<i64>(waiting).await > 10_000,
        "most of the slot still waits"
    );
}

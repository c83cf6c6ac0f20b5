//! Connections to the service: what an unfinished request, a slow reader or a thousand idle clients can do to it. Nothing.

use std::{fs, time::Duration};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, SECRET, serve},
    product::{self, Service, eventually, until_status},
};

/// Requests of which the rest never comes: nothing, a byte, half a header, bodies to the console and to the API.
const UNFINISHED: [&str; 6] = [
    "",
    "G",
    "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Half",
    "POST /signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ncsr",
    "POST /signin HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ncsr",
    "POST /retention/runs/replay HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n\
     Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"dry",
];
const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// A connection on which this was sent.
async fn sent(service: &Service, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", service.port))
        .await
        .unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// The same, after a whole request was answered on it.
async fn sent_after_an_answer(service: &Service, text: &str) -> TcpStream {
    let mut stream = sent(service, HEALTHZ).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Waits until the service has closed the connection; what it had said before.
async fn closed(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    // A reset closes it too.
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// Every unfinished request, on a connection of its own, alone and after a whole one.
async fn open_unfinished(service: &Service, token: &str) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for text in UNFINISHED {
        let text = text.replace("TOKEN", token);
        open.push(sent(service, &text).await);
        open.push(sent_after_an_answer(service, &text).await);
    }
    open
}

async fn operators_token() -> String {
    crate::support::client::token(&["--sub", "oda", "--role", "operator"]).await
}

/// Descriptors that the process has open.
fn descriptors(service: &Service) -> usize {
    fs::read_dir(format!("/proc/{}/fd", service.pid()))
        .unwrap()
        .count()
}

/// The ports of clients whose connections the service has open.
fn clients(service: &Service) -> Vec<u16> {
    let ours = format!("0100007F:{:04X}", service.port);
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let connections = table.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, client, state) = (columns.next()?, columns.next()?, columns.next()?);
        let is_open = local == ours && state == "01";
        let (_, port) = client.split_once(':').filter(|_| is_open)?;
        u16::from_str_radix(port, 16).ok()
    });
    connections.collect()
}

/// Memory that the process holds, in MB.
fn resident_mb(service: &Service) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<usize>().unwrap() / 1024
}

#[tokio::test]
async fn unfinished_header_is_closed_within_thirty_seconds_and_an_unfinished_body_within_the_request_timeout()
 {
    let db = TestDatabase::new().await;
    let service = serve(&db, "api", &[]).await;
    let open = open_unfinished(&service, &operators_token().await).await;

    // Half a minute, and what a busy machine takes.
    let limit = Instant::now() + Duration::from_secs(33);
    for (at, stream) in open.into_iter().enumerate() {
        let text = UNFINISHED[at / 2];
        let said = tokio::time::timeout_at(limit, closed(stream)).await;
        let said = said.unwrap_or_else(|_| panic!("still open: {text:?}"));
        if text.starts_with("POST") {
            assert!(said.starts_with("HTTP/1.1 408"), "{text:?}: {said}");
        }
    }
}

#[tokio::test]
async fn process_ends_at_once_whatever_unfinished_requests_are_open() {
    let db = TestDatabase::new().await;
    let mut service = serve(&db, "api,scheduler,worker", &[]).await;
    let _open = open_unfinished(&service, &operators_token().await).await;

    service.signal(Signal::SIGTERM);

    // Far less than the grace of ten seconds.
    assert_eq!(service.ends_within(Duration::from_secs(6)).await, Some(0));
}

#[tokio::test]
async fn process_ends_within_its_grace_whatever_requests_are_at_work() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let grace = ("DRIFT_RETENTION_WORKER__SHUTDOWN_GRACE", "2s");
    let mut service = serve(&db, "api,scheduler,worker", &[grace]).await;
    let client = Client::operator(&service).await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    // A page that waits for the database, and somebody who asks for much and reads nothing.
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK organizations, incidents")
        .execute(&mut *lock)
        .await
        .unwrap();
    let request = client.request(reqwest::Method::GET, &format!("/orgs/{org}/incidents"));
    let waiting = tokio::spawn(request.send());
    let reads_nothing = sent(
        &service,
        &"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500),
    )
    .await;
    eventually("the page waits for the lock", async || {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock')";
        db.value::<bool>(waits).await
    })
    .await;

    service.signal(Signal::SIGTERM);

    assert_eq!(service.ends_within(Duration::from_secs(3)).await, Some(0));
    assert!(waiting.await.unwrap().is_err(), "it was cut");
    drop((lock, reads_nothing));
}

#[tokio::test]
async fn service_answers_and_purges_while_more_connections_are_unfinished_than_it_has_descriptors()
{
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(41).await;
    let env = [SECRET, ("DRIFT_RETENTION_WORKER__CONCURRENCY", "2")];
    let service = Service::with_descriptors(&db.url, "api,scheduler,worker", &env, 40);
    service.ready().await;
    let token = operators_token().await;

    let mut open = Vec::new();
    for at in 0..60 {
        let text = UNFINISHED[at % UNFINISHED.len()].replace("TOKEN", &token);
        open.push(sent(&service, &text).await);
    }

    let run = product::enqueue(&db.pool, org).await;
    for path in ["/healthz", "/readyz", "/healthz", "/readyz"] {
        let answer = timeout(Duration::from_secs(5), service.get(path)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{path} is not answered"));
        assert_eq!(answer.unwrap().status(), 200, "{path}");
    }
    until_status(&db.pool, run, "succeeded").await;
    assert!(descriptors(&service) < 40, "{}", descriptors(&service));
}

#[tokio::test]
async fn clients_that_do_not_take_their_answers_make_way() {
    let db = TestDatabase::new().await;
    let service = Service::with_descriptors(&db.url, "api", &[SECRET], 60);
    service.ready().await;
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40);
    let mut open = Vec::new();
    for _ in 0..80 {
        let socket = TcpSocket::new_v4().unwrap();
        // The system has room for little of the answers.
        socket.set_recv_buffer_size(4_096).unwrap();
        let address = ([127, 0, 0, 1], service.port).into();
        // Those that had to make way already are closed.
        if let Ok(Ok(mut stream)) = timeout(Duration::from_secs(5), socket.connect(address)).await {
            let _ = stream.write_all(requests.as_bytes()).await;
            open.push(stream);
        }
    }
    for _ in 0..10 {
        let answer = timeout(Duration::from_secs(5), service.get("/healthz")).await;
        assert_eq!(answer.expect("it is answered").unwrap().status(), 200);
        // They take a little, so that the system sees them alive.
        for stream in &mut open {
            let mut little = [0; 16];
            let _ = timeout(Duration::from_millis(1), stream.read(&mut little)).await;
        }
    }
}

#[tokio::test]
async fn request_at_work_keeps_its_connection_while_others_fill_all_places() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let env = [SECRET, ("DRIFT_RETENTION_WORKER__CONCURRENCY", "1")];
    let service = Service::with_descriptors(&db.url, "api", &env, 40);
    service.ready().await;
    let client = Client::operator(&service).await;
    let run = product::enqueue(&db.pool, org).await;
    let mut events = client.follow(run).await;
    assert_eq!(events.next().await.unwrap()["status"], "queued");

    let mut open = Vec::new();
    for at in 0..60 {
        open.push(sent(&service, UNFINISHED[at % 3]).await);
    }
    let health = timeout(Duration::from_secs(5), service.get("/healthz")).await;
    assert_eq!(health.expect("it is answered").unwrap().status(), 200);

    db.execute(&format!(
        "UPDATE retention.purge_runs SET reason = 'seen' WHERE id = '{run}'"
    ))
    .await;
    let event = timeout(Duration::from_secs(20), events.next()).await;
    assert_eq!(event.unwrap().unwrap()["reason"], "seen");
}

#[tokio::test]
async fn thousand_idle_connections_take_less_than_fifty_megabytes() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(4096), most).unwrap();
    let db = TestDatabase::new().await;
    let service = Service::with_descriptors(&db.url, "api", &[SECRET], 4096);
    service.ready().await;
    let memory = resident_mb(&service);

    let mut open = Vec::new();
    for _ in 0..500 {
        open.push(sent(&service, "").await);
        open.push(sent_after_an_answer(&service, "").await);
    }
    assert!(clients(&service).len() >= 1_000);
    assert_eq!(service.get("/healthz").await.unwrap().status(), 200);

    let added = resident_mb(&service) - memory;
    assert!(added < 50, "{added} MB");
}

#[tokio::test]
async fn client_that_takes_nothing_of_its_answer_loses_its_connection() {
    let db = TestDatabase::new().await;
    let service = serve(&db, "api", &[]).await;
    let much = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    let stream = sent(&service, &much).await;
    let client = stream.local_addr().unwrap().port();
    let is_open = async || clients(&service).contains(&client);
    eventually("the service has taken it", is_open).await;

    eventually("the service has closed it", async || !is_open().await).await;
    drop(stream);
}

#[tokio::test]
async fn event_stream_outlasts_the_request_timeout() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;
    let run = product::enqueue(&db.pool, org).await;
    let mut events = client.follow(run).await;
    assert_eq!(events.next().await.unwrap()["status"], "queued");

    // Past the timeout of requests and that of headers.
    sleep(Duration::from_secs(32)).await;
    db.execute(&format!(
        "UPDATE retention.purge_runs SET reason = 'seen' WHERE id = '{run}'"
    ))
    .await;

    let event = timeout(Duration::from_secs(20), events.next()).await;
    assert_eq!(event.unwrap().unwrap()["reason"], "seen");
}

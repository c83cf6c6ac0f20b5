//! Connections: how many there may be at once, how long an unfinished request keeps one, and how all of them end.
//!
//! Whoever connects needs no token for it. So a connection that we wait for, because its client has not sent a whole
//! request, is closed as soon as somebody else needs its place; one whose request is at work keeps it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    http::header,
    response::Response,
    serve::Listener,
};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::tied::{OnDrop, Tied};

/// How long a client may take for the header of a request, the first one and each that follows on the same connection.
/// It includes the pause between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a client may accept nothing of its answer before its connection is closed.
#[cfg(target_os = "linux")]
const STALLED_ANSWER: Duration = Duration::from_secs(30);
/// The largest header of a request that is read, in bytes.
const MAX_HEADER: usize = 64 * 1024;
/// How long the rest of a request may take to arrive when the process stops.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// The most connections at once. A thousand that wait take about 15 MB.
const MOST_CONNECTIONS: u64 = 1_024;
/// However few descriptors there are, this many connections are tried.
const FEWEST_CONNECTIONS: u64 = 4;
/// File descriptors of a process with all roles, without its connections: 12 were open. The others are for the keys of tokens,
/// for traces, and for the connection that waits for a place.
const OTHER_DESCRIPTORS: u64 = 20;

/// How many connections to us leave `database` descriptors for the database's, and enough for all else.
#[must_use]
pub fn connections_beside(database: u32) -> usize {
    use nix::sys::resource::{Resource, getrlimit};

    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let left = descriptors.saturating_sub(u64::from(database) + OTHER_DESCRIPTORS);
    let most = left.clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Serves `router` on at most so many connections until `stop`, then finishes the requests in hand. Who wants an end of
/// that at some time drops it.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    connections: usize,
    stop: CancellationToken,
) {
    // A router that still expects its state is copied with all its routes for every connection.
    let router = TowerToHyperService::new(router.with_state(()));
    let places = Arc::new(Semaphore::new(connections));
    let waiting = Arc::new(Waiting::default());
    let served = TaskTracker::new();
    let accept_all = async {
        loop {
            let (stream, client) = Listener::accept(&mut listener).await;
            let Some(place) = waiting.place(&places).await else {
                return;
            };
            let connection = Arc::new(Connection::new(waiting.clone()));
            let serving = serve_one(stream, client, router.clone(), connection, stop.clone());
            served.spawn(async move {
                serving.await;
                drop(place);
            });
        }
    };
    stop.run_until_cancelled(accept_all).await;
    drop(listener);
    served.close();
    if timeout(LAST_BYTES, served.wait()).await.is_err() {
        waiting.close_all();
        served.wait().await;
    }
}

/// Answers the requests of one connection, one after the other.
async fn serve_one(
    stream: TcpStream,
    client: SocketAddr,
    router: TowerToHyperService<Router>,
    connection: Arc<Connection>,
    stop: CancellationToken,
) {
    close_when_stalled(&stream);
    let end = connection.end.clone();
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, connection) = (router.clone(), connection.clone());
        async move { answer(&router, connection, client, request).await }
    });
    let mut http = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_header_size(MAX_HEADER)
            .serve_connection(TokioIo::new(stream), answer)
    );
    // What goes wrong with a connection is its client's affair: it has gone, was too slow, or speaks no HTTP.
    tokio::select! {
        _ = http.as_mut() => return,
        () = end.cancelled() => return,
        () = stop.cancelled() => http.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = http => {}
        () = end.cancelled() => {}
    }
}

async fn answer(
    router: &TowerToHyperService<Router>,
    connection: Arc<Connection>,
    client: SocketAddr,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let mut request: Request = if request.body().is_end_stream() {
        connection.works();
        request.map(Body::new)
    } else {
        // The whole request is here once its body has been read, or is not wanted.
        let read = OnDrop::new({
            let connection = connection.clone();
            move || connection.works()
        });
        request.map(|body| Body::new(Tied::new(body, read)))
    };
    request.extensions_mut().insert(ConnectInfo(client));
    // Requests that came all at once on one connection are answered in turns with those of others.
    yield_now().await;
    let response = router.call(request).await?;
    if !is_stream(&response) {
        // The answer is there: from now on its client has to take it.
        connection.waits();
        return Ok(response);
    }
    let answered = OnDrop::new(move || connection.waits());
    Ok(response.map(|body| Body::new(Tied::new(body, answered))))
}

/// Whether we go on working on an answer that has begun.
fn is_stream(response: &Response) -> bool {
    let media_type = response.headers().get(header::CONTENT_TYPE);
    media_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// Has the system close the connection when its client takes nothing of an answer, or has vanished without a word.
#[cfg(target_os = "linux")]
fn close_when_stalled(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    if let Err(error) = socket.set_tcp_user_timeout(Some(STALLED_ANSWER)) {
        tracing::debug!(%error, "a client that takes nothing of its answer may keep its connection");
    }
}

#[cfg(not(target_os = "linux"))]
fn close_when_stalled(_: &TcpStream) {}

/// The connections that wait for their clients, the one that has waited longest first.
#[derive(Debug, Default)]
struct Waiting {
    line: Mutex<Line>,
    /// Somebody has joined the line.
    joined: Notify,
}

#[derive(Debug, Default)]
struct Line {
    /// Places in the line that were given so far.
    given: u64,
    ends: BTreeMap<u64, CancellationToken>,
}

impl Waiting {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection: a free one, or that of the connection that has waited longest.
    async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let mut free = pin!(places.clone().acquire_owned());
        tokio::select! {
            biased;
            place = &mut free => return place.ok(),
            () = self.close_longest() => {}
        }
        free.await.ok()
    }

    /// Closes the connection that has waited longest, as soon as there is one.
    async fn close_longest(&self) {
        loop {
            let joined = self.joined.notified();
            if let Some((_, end)) = self.line().ends.pop_first() {
                end.cancel();
                return;
            }
            joined.await;
        }
    }

    fn close_all(&self) {
        for end in std::mem::take(&mut self.line().ends).into_values() {
            end.cancel();
        }
    }
}

/// A connection, and its place in the line while it waits for its client.
#[derive(Debug)]
struct Connection {
    end: CancellationToken,
    waiting: Arc<Waiting>,
    /// 0 while it does not wait. Changed with the line's lock only.
    place: AtomicU64,
}

impl Connection {
    /// A new one waits for its first request.
    fn new(waiting: Arc<Waiting>) -> Self {
        let connection = Self {
            end: CancellationToken::new(),
            waiting,
            place: AtomicU64::new(0),
        };
        connection.waits();
        connection
    }

    /// It waits for its client from now on.
    fn waits(&self) {
        let mut line = self.waiting.line();
        line.given += 1;
        let place = line.given;
        line.ends.insert(place, self.end.clone());
        line.ends.remove(&self.place.swap(place, Relaxed));
        self.waiting.joined.notify_one();
    }

    /// It has a whole request, and we work on the answer; or it has ended.
    fn works(&self) {
        let mut line = self.waiting.line();
        line.ends.remove(&self.place.swap(0, Relaxed));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.works();
    }
}

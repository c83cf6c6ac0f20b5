//! The HTTP server's connections: how many may be open at once, how long an unfinished request keeps one, and how all
//! of them end.
//!
//! Connecting needs no token. So a connection whose client has not sent a whole request is closed as soon as another
//! client needs its place. A connection whose request is being answered stays open.

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

use super::guarded_body::{GuardedBody, OnDrop};

/// How long a client may take to send the header of a request. The time includes the pause between two requests of one connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a client may read nothing of its answer before its connection is closed.
#[cfg(target_os = "linux")]
const STALLED_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest request header, in bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// How long the rest of an unfinished request may take to arrive when the process stops.
const UNFINISHED_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// The most connections at once. A thousand idle connections take about 15 MB.
const MAX_CONNECTIONS: u64 = 1_024;
/// The fewest connections, even if file descriptors are scarce.
const MIN_CONNECTIONS: u64 = 4;
/// File descriptors of a process that are not client or database connections. A process with all roles had 12 open.
/// The others are for reading keys, for traces, and for a connection that waits to be accepted.
const RESERVED_DESCRIPTORS: u64 = 20;

/// The most client connections that leave enough file descriptors for `database` database connections and everything else.
#[must_use]
pub fn max_client_connections(database: u32) -> usize {
    use nix::sys::resource::{Resource, getrlimit};

    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let left = descriptors.saturating_sub(u64::from(database) + RESERVED_DESCRIPTORS);
    let most = left.clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Serves `router` on at most `connections` connections until `stop`, then finishes the requests in progress.
/// Dropping the future ends them early.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    connections: usize,
    stop: CancellationToken,
) {
    // Without `with_state`, every connection would copy the router with all its routes.
    let router = TowerToHyperService::new(router.with_state(()));
    let permits = Arc::new(Semaphore::new(connections));
    let idle = Arc::new(IdleConnections::default());
    let served = TaskTracker::new();
    let accept_all = async {
        loop {
            let (stream, client) = Listener::accept(&mut listener).await;
            let Some(permit) = idle.permit(&permits).await else {
                return;
            };
            let connection = Arc::new(Connection::new(idle.clone()));
            let serving = serve_one(stream, client, router.clone(), connection, stop.clone());
            served.spawn(async move {
                serving.await;
                drop(permit);
            });
        }
    };
    stop.run_until_cancelled(accept_all).await;
    drop(listener);
    served.close();
    if timeout(UNFINISHED_REQUEST_GRACE, served.wait())
        .await
        .is_err()
    {
        idle.close_all();
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
            .max_header_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), answer)
    );
    // Errors of a connection are the client's: it left, was too slow, or does not speak HTTP.
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
        connection.mark_busy();
        request.map(Body::new)
    } else {
        // The request is complete once its body has been read or dropped.
        let read = OnDrop::new({
            let connection = connection.clone();
            move || connection.mark_busy()
        });
        request.map(|body| Body::new(GuardedBody::new(body, read)))
    };
    request.extensions_mut().insert(ConnectInfo(client));
    // Pipelined requests of one connection alternate with the requests of others.
    yield_now().await;
    let response = router.call(request).await?;
    if !is_stream(&response) {
        // The answer is ready. From now on we wait for the client to read it.
        connection.mark_idle();
        return Ok(response);
    }
    let answered = OnDrop::new(move || connection.mark_idle());
    Ok(response.map(|body| Body::new(GuardedBody::new(body, answered))))
}

/// Whether the answer is a stream, on which we keep working after it has begun.
fn is_stream(response: &Response) -> bool {
    let media_type = response.headers().get(header::CONTENT_TYPE);
    media_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// Lets the system close the connection when its client reads nothing of an answer or has vanished.
#[cfg(target_os = "linux")]
fn close_when_stalled(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    if let Err(error) = socket.set_tcp_user_timeout(Some(STALLED_ANSWER_TIMEOUT)) {
        tracing::debug!(%error, "a client that reads nothing of its answer may keep its connection");
    }
}

#[cfg(not(target_os = "linux"))]
fn close_when_stalled(_: &TcpStream) {}

/// The connections that are idle, longest idle first.
#[derive(Debug, Default)]
struct IdleConnections {
    queue: Mutex<IdleQueue>,
    /// A connection has become idle.
    became_idle: Notify,
}

#[derive(Debug, Default)]
struct IdleQueue {
    /// The last ticket. Tickets order the connections by the time they became idle.
    last_ticket: u64,
    ends: BTreeMap<u64, CancellationToken>,
}

impl IdleConnections {
    fn queue(&self) -> MutexGuard<'_, IdleQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for one more connection: a free one, or that of the connection that has been idle longest.
    async fn permit(&self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let mut free = pin!(permits.clone().acquire_owned());
        tokio::select! {
            biased;
            permit = &mut free => return permit.ok(),
            () = self.close_longest_idle() => {}
        }
        free.await.ok()
    }

    /// Closes the connection that has been idle longest, as soon as there is one.
    async fn close_longest_idle(&self) {
        loop {
            let became_idle = self.became_idle.notified();
            if let Some((_, end)) = self.queue().ends.pop_first() {
                end.cancel();
                return;
            }
            became_idle.await;
        }
    }

    fn close_all(&self) {
        for end in std::mem::take(&mut self.queue().ends).into_values() {
            end.cancel();
        }
    }
}

/// A connection, and its ticket while it is idle.
#[derive(Debug)]
struct Connection {
    end: CancellationToken,
    idle: Arc<IdleConnections>,
    /// 0 while the connection is busy. Changed only under the queue's lock.
    ticket: AtomicU64,
}

impl Connection {
    /// A new connection is idle until its first request.
    fn new(idle: Arc<IdleConnections>) -> Self {
        let connection = Self {
            end: CancellationToken::new(),
            idle,
            ticket: AtomicU64::new(0),
        };
        connection.mark_idle();
        connection
    }

    /// Marks the connection as idle: it waits for its client from now on.
    fn mark_idle(&self) {
        let mut queue = self.idle.queue();
        queue.last_ticket += 1;
        let ticket = queue.last_ticket;
        queue.ends.insert(ticket, self.end.clone());
        queue.ends.remove(&self.ticket.swap(ticket, Relaxed));
        self.idle.became_idle.notify_one();
    }

    /// Marks the connection as busy: its request is complete and is being answered, or the connection has ended.
    fn mark_busy(&self) {
        let mut queue = self.idle.queue();
        queue.ends.remove(&self.ticket.swap(0, Relaxed));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.mark_busy();
    }
}

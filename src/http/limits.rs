//! Limits per caller: requests per minute and requests at once. One organization or one address must not block the
//! others. Each process counts for itself.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use axum::{extract::Request, http::Extensions, middleware::Next, response::Response};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Identity, Problem, Role};
use crate::{config::HttpConfig, ids::OrgId, postgres::AtOnce, telemetry::metrics::Metrics};

/// Requests of one organization at once. More of them would take the database's connections from others.
const MAX_REQUESTS_PER_ORG: usize = 10;
/// Previews and dashboards of one organization at once.
const MAX_COUNTS_PER_ORG: usize = 1;
/// How long a request waits for a permit.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a preview or dashboard waits for another one of the same organization.
const COUNT_PERMIT_TIMEOUT: Duration = Duration::from_secs(3);
/// When the client may repeat a refused preview or dashboard.
const COUNT_RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long a request for a purge waits for the requests of other organizations. A burst of requests takes less.
const ENQUEUE_PERMIT_TIMEOUT: Duration = Duration::from_secs(20);
/// Event streams of one organization at once.
const MAX_STREAMS_PER_ORG: usize = 50;
/// The number of organizations or addresses in memory above which idle ones are removed.
const MAX_TRACKED_KEYS: usize = 10_000;

/// The limits and their present use.
#[derive(Debug)]
pub struct Limits {
    metrics: Arc<Metrics>,
    requests: KeyedRate<OrgId>,
    purges: KeyedRate<OrgAndOperator>,
    sign_ins: KeyedRate<IpAddr>,
    counting: Arc<Semaphore>,
    counting_of: KeyedSemaphores<OrgAndOperator>,
    requests_of: KeyedSemaphores<OrgId>,
    streams: Arc<Semaphore>,
    streams_of: KeyedSemaphores<OrgId>,
    enqueueing_of: KeyedSemaphores<OrgId>,
    enqueueing: Arc<Semaphore>,
}

/// An organization, and whether the caller is an operator. The organization's own members must not block operators.
type OrgAndOperator = (OrgId, bool);

/// The permit that a request holds until it is answered.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestPermit(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl RequestPermit {
    fn hold(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

/// Lets a request hold a permit until it is answered.
pub(super) async fn hold_request_permit(mut request: Request, next: Next) -> Response {
    let held = RequestPermit::default();
    request.extensions_mut().insert(held.clone());
    let response = next.run(request).await;
    drop(held);
    response
}

/// Held while a request enqueues a purge of an organization.
#[derive(Debug)]
pub(super) struct EnqueuePermit {
    of_org: OwnedSemaphorePermit,
    _in_all: OwnedSemaphorePermit,
}

impl EnqueuePermit {
    /// Refuses the requests that wait behind this one. They would meet the same lock.
    pub(super) fn refuse_waiting(&self) {
        self.of_org.semaphore().close();
    }
}

/// Held during an expensive count.
#[derive(Debug)]
pub(super) struct CountPermit {
    _in_all: OwnedSemaphorePermit,
    _of_org: OwnedSemaphorePermit,
}

impl Limits {
    /// The settings' limits, for this many client connections. Refusals are counted in `metrics`.
    #[must_use]
    pub fn new(
        config: &HttpConfig,
        at_once: AtOnce,
        connections: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            metrics,
            requests: KeyedRate::per_minute(config.requests_per_minute),
            purges: KeyedRate::per_minute(config.purges_per_minute),
            sign_ins: KeyedRate::per_minute(config.sign_ins_per_minute),
            counting: Arc::new(Semaphore::new(at_once.counting)),
            counting_of: KeyedSemaphores::new(MAX_COUNTS_PER_ORG),
            requests_of: KeyedSemaphores::new(MAX_REQUESTS_PER_ORG),
            streams: Arc::new(Semaphore::new((connections / 2).max(1))),
            streams_of: KeyedSemaphores::new(MAX_STREAMS_PER_ORG),
            enqueueing_of: KeyedSemaphores::new(1),
            enqueueing: Arc::new(Semaphore::new(at_once.enqueueing)),
        }
    }

    /// Admits a request. It holds its permit until it is answered.
    pub(super) async fn admit_request(
        &self,
        identity: &Identity,
        extensions: &Extensions,
    ) -> Result<(), Problem> {
        let Some(org) = tenant(identity) else {
            return Ok(());
        };
        self.requests.take(&org).map_err(|wait| {
            self.refuse(
                "requests",
                "your organization sends too many requests",
                wait,
            )
        })?;
        let permit = timeout(PERMIT_TIMEOUT, self.requests_of.of(org).acquire_owned()).await;
        let permit = permit.map_err(|_| {
            self.refuse(
                "requests",
                "your organization sends too many requests at once",
                PERMIT_TIMEOUT,
            )
        })?;
        if let Some(held) = extensions.get::<RequestPermit>() {
            held.hold(permit.ok());
        }
        Ok(())
    }

    /// Admits a request for a purge. These are limited because each leaves permanent records.
    pub(super) fn admit_purge(&self, identity: &Identity, org: OrgId) -> Result<(), Problem> {
        self.purges
            .take(&org_and_operator(identity, org))
            .map_err(|wait| {
                self.refuse(
                    "purges",
                    "too many purges of this organization were requested; nothing was enqueued",
                    wait,
                )
            })
    }

    /// Waits for the permit to enqueue a purge of `org`. Of the requests that meet a lock, only one waits for it in
    /// the database. Returns `None` if the request before this one met a lock.
    pub(super) async fn enqueue_permit(&self, org: OrgId) -> Option<EnqueuePermit> {
        let of_org = self.enqueueing_of.of(org).acquire_owned().await.ok()?;
        // Even if the locks of many organizations are held, connections for readers remain.
        let in_all = self.enqueueing.clone().acquire_owned();
        let in_all = timeout(ENQUEUE_PERMIT_TIMEOUT, in_all).await.ok()?.ok()?;
        Some(EnqueuePermit {
            of_org,
            _in_all: in_all,
        })
    }

    /// Admits an attempt to sign in from `address`.
    pub(super) fn admit_sign_in(&self, address: IpAddr) -> Result<(), Problem> {
        self.sign_ins
            .take(&network(address))
            .map_err(|wait| self.refuse("sign_ins", "too many sign-ins from your address", wait))
    }

    /// Waits briefly for the permit to make an expensive count of `org`.
    pub(super) async fn count_permit(
        &self,
        identity: &Identity,
        org: OrgId,
    ) -> Result<CountPermit, Problem> {
        let refused = || {
            self.refuse(
                "counting",
                "other expensive requests are being answered",
                COUNT_RETRY_AFTER,
            )
        };
        // A request that waits for its own organization does not take a permit from the others.
        let of_org = self
            .counting_of
            .of(org_and_operator(identity, org))
            .acquire_owned();
        let of_org = timeout(COUNT_PERMIT_TIMEOUT, of_org)
            .await
            .map_err(|_| refused())?;
        let in_all = timeout(PERMIT_TIMEOUT, self.counting.clone().acquire_owned());
        let in_all = in_all.await.map_err(|_| refused())?;
        match (of_org, in_all) {
            (Ok(of_org), Ok(in_all)) => Ok(CountPermit {
                _in_all: in_all,
                _of_org: of_org,
            }),
            _ => Err(refused()),
        }
    }

    /// Permits for one more event stream: one of the process and one of the caller's organization.
    pub(super) fn stream_permits(
        &self,
        identity: &Identity,
    ) -> Result<Vec<OwnedSemaphorePermit>, Problem> {
        let of_org = tenant(identity).map(|org| self.streams_of.of(org));
        let in_all = self.streams.clone();
        let semaphores = [Some(in_all), of_org].into_iter().flatten();
        semaphores
            .map(Semaphore::try_acquire_owned)
            .collect::<Result<_, _>>()
            .map_err(|_| self.refuse("streams", "too many event streams are open", PERMIT_TIMEOUT))
    }

    fn refuse(&self, limit: &str, what: &str, wait: Duration) -> Problem {
        self.metrics.refused.with_label_values(&[limit]).inc();
        let seconds = wait.as_secs() + 1;
        Problem::too_many_requests(format!("{what}; try again in {seconds} s"), seconds)
    }
}

fn org_and_operator(identity: &Identity, org: OrgId) -> OrgAndOperator {
    (org, identity.role == Role::Operator)
}

/// The organization whose limits apply to the caller. Operators have no limits: they are trusted, and they
/// investigate when something is wrong.
fn tenant(identity: &Identity) -> Option<OrgId> {
    identity.org.filter(|_| identity.role != Role::Operator)
}

/// The network of an address. A client with one IPv6 address usually has the whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// A rate limit per key and minute. A whole minute's quota may be used at once.
#[derive(Debug)]
struct KeyedRate<K: Hash + Eq + Clone>(DefaultKeyedRateLimiter<K>);

impl<K: Hash + Eq + Clone> KeyedRate<K> {
    fn per_minute(max: NonZeroU32) -> Self {
        Self(RateLimiter::keyed(Quota::per_minute(max)))
    }

    /// Takes one from the quota, or returns how long to wait for it.
    fn take(&self, key: &K) -> Result<(), Duration> {
        if self.0.len() > MAX_TRACKED_KEYS {
            self.0.retain_recent();
        }
        self.0
            .check_key(key)
            .map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

/// A semaphore per key, each with the same number of permits.
#[derive(Debug)]
struct KeyedSemaphores<K> {
    permits: usize,
    semaphores: Mutex<HashMap<K, Weak<Semaphore>>>,
}

impl<K: Hash + Eq> KeyedSemaphores<K> {
    fn new(permits: usize) -> Self {
        Self {
            permits,
            semaphores: Mutex::default(),
        }
    }

    fn of(&self, key: K) -> Arc<Semaphore> {
        let mut semaphores = self
            .semaphores
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = semaphores.get(&key).and_then(Weak::upgrade)
            && !semaphore.is_closed()
        {
            return semaphore;
        }
        semaphores.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(self.permits));
        semaphores.insert(key, Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_are_one_and_ipv4_addresses_are_each_their_own() {
        let network = |address: &str| network(address.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }
}

//! What one caller may ask for: how often, and how much at once. One organization, or one address, must not keep the others
//! from being answered. Each process counts for itself.

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

/// Requests of one organization that are worked on at once. More of them would take the database's connections from others.
const AT_WORK_PER_ORG: usize = 10;
/// Previews and dashboards of one organization at once.
const COUNTING_PER_ORG: usize = 1;
/// How long a request waits for a place.
const WAIT: Duration = Duration::from_secs(1);
/// How long a preview or dashboard waits for another one of its organization.
const WAIT_FOR_OWN: Duration = Duration::from_secs(3);
/// When a preview or dashboard that was refused may come back.
const COUNT_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long a request for a purge waits for those of other organizations. A burst of requests takes less.
const WAIT_FOR_TURN: Duration = Duration::from_secs(20);
/// Streams of events of one organization at once.
const STREAMS_PER_ORG: usize = 50;
/// Organizations or addresses that are kept in mind, before those that count for nothing any more are forgotten.
const MANY: usize = 10_000;

/// What is limited, and how much of it was used.
#[derive(Debug)]
pub struct Limits {
    metrics: Arc<Metrics>,
    requests: Rate<OrgId>,
    purges: Rate<Whose>,
    sign_ins: Rate<IpAddr>,
    counting: Arc<Semaphore>,
    counting_of: Places<Whose>,
    at_work: Places<OrgId>,
    streams: Arc<Semaphore>,
    streams_of: Places<OrgId>,
    turns: Places<OrgId>,
    enqueueing: Arc<Semaphore>,
}

/// An organization, and whether it is an operator who asks about it: its own people must not keep operators out.
type Whose = (OrgId, bool);

/// Held by a request until it is answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Held {
    fn hold(&self, place: Option<OwnedSemaphorePermit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }
}

/// Lets a request hold a place until it is answered.
pub(super) async fn holding(mut request: Request, next: Next) -> Response {
    let held = Held::default();
    request.extensions_mut().insert(held.clone());
    let response = next.run(request).await;
    drop(held);
    response
}

/// Held while a purge of an organization is being asked for.
#[derive(Debug)]
pub(super) struct Turn {
    of_org: OwnedSemaphorePermit,
    _in_all: OwnedSemaphorePermit,
}

impl Turn {
    /// Somebody else has locked what this request needs. Those that wait behind it would find the same.
    pub(super) fn is_stuck(&self) {
        self.of_org.semaphore().close();
    }
}

/// Held while something counts a lot.
#[derive(Debug)]
pub(super) struct MayCount {
    _in_all: OwnedSemaphorePermit,
    _of_org: OwnedSemaphorePermit,
}

impl Limits {
    /// The settings' limits, on so many connections of clients. What is refused is counted in `metrics`.
    #[must_use]
    pub fn new(
        config: &HttpConfig,
        at_once: AtOnce,
        connections: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            metrics,
            requests: Rate::per_minute(config.requests_per_minute),
            purges: Rate::per_minute(config.purges_per_minute),
            sign_ins: Rate::per_minute(config.sign_ins_per_minute),
            counting: Arc::new(Semaphore::new(at_once.counting)),
            counting_of: Places::new(COUNTING_PER_ORG),
            at_work: Places::new(AT_WORK_PER_ORG),
            streams: Arc::new(Semaphore::new((connections / 2).max(1))),
            streams_of: Places::new(STREAMS_PER_ORG),
            turns: Places::new(1),
            enqueueing: Arc::new(Semaphore::new(at_once.enqueueing)),
        }
    }

    /// One more request of somebody, which holds its place until it is answered.
    pub(super) async fn request(
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
        let place = timeout(WAIT, self.at_work.of(org).acquire_owned()).await;
        let place = place.map_err(|_| {
            self.refuse(
                "requests",
                "your organization sends too many requests at once",
                WAIT,
            )
        })?;
        if let Some(held) = extensions.get::<Held>() {
            held.hold(place.ok());
        }
        Ok(())
    }

    /// One more purge that is asked for: each leaves records that stay.
    pub(super) fn purge(&self, identity: &Identity, org: OrgId) -> Result<(), Problem> {
        self.purges.take(&whose(identity, org)).map_err(|wait| {
            self.refuse(
                "purges",
                "too many purges of this organization were asked for; nothing was enqueued",
                wait,
            )
        })
    }

    /// Waits for a turn to ask for a purge of `org`: of the requests that meet a lock only one waits for it in the database. None:
    /// the request before this one was stuck.
    pub(super) async fn turn(&self, org: OrgId) -> Option<Turn> {
        let of_org = self.turns.of(org).acquire_owned().await.ok()?;
        // Locks of many organizations leave connections for whoever reads.
        let in_all = self.enqueueing.clone().acquire_owned();
        let in_all = timeout(WAIT_FOR_TURN, in_all).await.ok()?.ok()?;
        Some(Turn {
            of_org,
            _in_all: in_all,
        })
    }

    /// One more attempt to sign in from `address`.
    pub(super) fn sign_in(&self, address: IpAddr) -> Result<(), Problem> {
        self.sign_ins
            .take(&network(address))
            .map_err(|wait| self.refuse("sign_ins", "too many sign-ins from your address", wait))
    }

    /// Waits a moment until something of `org` may count a lot.
    pub(super) async fn count(&self, identity: &Identity, org: OrgId) -> Result<MayCount, Problem> {
        let refused = || {
            self.refuse(
                "counting",
                "other requests that count as much are under way",
                COUNT_AGAIN_AFTER,
            )
        };
        // One that waits for its own organization takes no place of the others.
        let of_org = self.counting_of.of(whose(identity, org)).acquire_owned();
        let of_org = timeout(WAIT_FOR_OWN, of_org).await.map_err(|_| refused())?;
        let in_all = timeout(WAIT, self.counting.clone().acquire_owned());
        let in_all = in_all.await.map_err(|_| refused())?;
        match (of_org, in_all) {
            (Ok(of_org), Ok(in_all)) => Ok(MayCount {
                _in_all: in_all,
                _of_org: of_org,
            }),
            _ => Err(refused()),
        }
    }

    /// Places for one more stream of events of somebody, in all and of their organization.
    pub(super) fn stream(&self, identity: &Identity) -> Result<Vec<OwnedSemaphorePermit>, Problem> {
        let of_org = tenant(identity).map(|org| self.streams_of.of(org));
        let in_all = self.streams.clone();
        let places = [Some(in_all), of_org].into_iter().flatten();
        places
            .map(Semaphore::try_acquire_owned)
            .collect::<Result<_, _>>()
            .map_err(|_| self.refuse("streams", "too many runs are followed at once", WAIT))
    }

    fn refuse(&self, limit: &str, what: &str, wait: Duration) -> Problem {
        self.metrics.refused.with_label_values(&[limit]).inc();
        let seconds = wait.as_secs() + 1;
        Problem::too_many_requests(format!("{what}; try again in {seconds} s"), seconds)
    }
}

fn whose(identity: &Identity, org: OrgId) -> Whose {
    (org, identity.role == Role::Operator)
}

/// Whose limits count for somebody. Operators are trusted, and they are the ones who look when something is wrong.
fn tenant(identity: &Identity) -> Option<OrgId> {
    identity.org.filter(|_| identity.role != Role::Operator)
}

/// Whoever has one IPv6 address has the 2⁶⁴ beside it too.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// So many a minute, for each of them; as many at once, if there were none before.
#[derive(Debug)]
struct Rate<K: Hash + Eq + Clone>(DefaultKeyedRateLimiter<K>);

impl<K: Hash + Eq + Clone> Rate<K> {
    fn per_minute(most: NonZeroU32) -> Self {
        Self(RateLimiter::keyed(Quota::per_minute(most)))
    }

    /// Takes one, or says how long to wait for it.
    fn take(&self, whose: &K) -> Result<(), Duration> {
        if self.0.len() > MANY {
            self.0.retain_recent();
        }
        self.0
            .check_key(whose)
            .map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

/// So many places for each of them.
#[derive(Debug)]
struct Places<K> {
    each: usize,
    taken: Mutex<HashMap<K, Weak<Semaphore>>>,
}

impl<K: Hash + Eq> Places<K> {
    fn new(each: usize) -> Self {
        Self {
            each,
            taken: Mutex::default(),
        }
    }

    fn of(&self, whose: K) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = taken.get(&whose).and_then(Weak::upgrade)
            && !places.is_closed()
        {
            return places;
        }
        taken.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.each));
        taken.insert(whose, Arc::downgrade(&places));
        places
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

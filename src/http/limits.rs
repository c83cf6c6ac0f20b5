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

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Identity, Problem, Role};
use crate::{config::HttpConfig, ids::OrgId, telemetry::metrics::Metrics};

/// What counts a lot, of one organization at once.
const COUNTING_PER_ORG: usize = 1;
/// How long a request waits until it may count.
const WAIT: Duration = Duration::from_secs(1);
/// When to come back after that.
const COUNT_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Streams of events of one organization at once.
const STREAMS_PER_ORG: usize = 50;
/// Organizations or addresses that are kept in mind, before those that count for nothing any more are forgotten.
const MANY: usize = 10_000;

/// What is limited, and how much of it was used.
#[derive(Debug)]
pub struct Limits {
    metrics: Arc<Metrics>,
    requests: Rate<OrgId>,
    purges: Rate<OrgId>,
    sign_ins: Rate<IpAddr>,
    counting: Arc<Semaphore>,
    counting_of: Places<OrgId>,
    streams_of: Places<OrgId>,
    turns: Places<OrgId>,
}

/// Held while a purge of an organization is being asked for.
#[derive(Debug)]
pub(super) struct Turn(OwnedSemaphorePermit);

impl Turn {
    /// Somebody else has locked what this request needs. Those that wait behind it would find the same.
    pub(super) fn is_stuck(&self) {
        self.0.semaphore().close();
    }
}

/// Held while something counts a lot.
#[derive(Debug)]
pub(super) struct MayCount {
    _in_all: OwnedSemaphorePermit,
    _of_org: OwnedSemaphorePermit,
}

impl Limits {
    /// The settings' limits; `counting` may count at once, of all organizations. What is refused is counted in `metrics`.
    #[must_use]
    pub fn new(config: &HttpConfig, counting: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            requests: Rate::per_minute(config.requests_per_minute),
            purges: Rate::per_minute(config.purges_per_minute),
            sign_ins: Rate::per_minute(config.sign_ins_per_minute),
            counting: Arc::new(Semaphore::new(counting)),
            counting_of: Places::new(COUNTING_PER_ORG),
            streams_of: Places::new(STREAMS_PER_ORG),
            turns: Places::new(1),
        }
    }

    /// One more request of somebody.
    pub(super) fn request(&self, identity: &Identity) -> Result<(), Problem> {
        let Some(org) = tenant(identity) else {
            return Ok(());
        };
        self.requests.take(&org).map_err(|wait| {
            self.refuse(
                "requests",
                "your organization sends too many requests",
                wait,
            )
        })
    }

    /// One more purge that is asked for: each leaves records that stay.
    pub(super) fn purge(&self, org: OrgId) -> Result<(), Problem> {
        self.purges.take(&org).map_err(|wait| {
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
        self.turns.of(org).acquire_owned().await.ok().map(Turn)
    }

    /// One more attempt to sign in from `address`.
    pub(super) fn sign_in(&self, address: IpAddr) -> Result<(), Problem> {
        self.sign_ins
            .take(&network(address))
            .map_err(|wait| self.refuse("sign_ins", "too many sign-ins from your address", wait))
    }

    /// Waits a moment until something of `org` may count a lot.
    pub(super) async fn count(&self, org: OrgId) -> Result<MayCount, Problem> {
        let both = async {
            // One that waits for its own organization takes no place of the others.
            let of_org = self.counting_of.of(org).acquire_owned().await.ok()?;
            let in_all = self.counting.clone().acquire_owned().await.ok()?;
            Some(MayCount {
                _in_all: in_all,
                _of_org: of_org,
            })
        };
        timeout(WAIT, both).await.ok().flatten().ok_or_else(|| {
            self.refuse(
                "counting",
                "other requests that count as much are under way",
                COUNT_AGAIN_AFTER,
            )
        })
    }

    /// A place for one more stream of events of somebody; operators need none.
    pub(super) fn stream(
        &self,
        identity: &Identity,
    ) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        let Some(org) = tenant(identity) else {
            return Ok(None);
        };
        self.streams_of
            .of(org)
            .try_acquire_owned()
            .map(Some)
            .map_err(|_| self.refuse("streams", "your organization follows too many runs", WAIT))
    }

    fn refuse(&self, limit: &str, what: &str, wait: Duration) -> Problem {
        self.metrics.refused.with_label_values(&[limit]).inc();
        let seconds = wait.as_secs() + 1;
        Problem::too_many_requests(format!("{what}; try again in {seconds} s"), seconds)
    }
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

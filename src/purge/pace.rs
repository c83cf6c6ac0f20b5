//! How fast to go: as fast as the database can, unless that is felt elsewhere. Between two batches, never inside a
//! transaction, a run asks here; what stands against full speed is looked up once a second for the whole process.
//!
//! The reason is told: in the log when it changes, in `throttled_seconds_total`, and on the run's steps.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::pressure::Pressure;
use crate::{
    config::PurgeConfig,
    postgres::Database,
    telemetry::{
        logs::chain,
        metrics::{Metrics, THROTTLES},
    },
};

/// How old a look at the database may be.
const FRESH: Duration = Duration::from_secs(1);
/// How many sessions of others have to be at work for the main app to be taken for awake: one is somebody who looks.
const AWAKE: i64 = 2;
/// The pause while something has to end before anything more is deleted.
const HOLD: Duration = Duration::from_millis(250);

/// Why the purge goes slower than it could; the weightiest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Throttle {
    /// A replica is further behind than it may be: nothing more is deleted until it has caught up.
    ReplicaLag,
    /// Somebody waits for a lock of ours.
    LockWaits,
    /// The main app is at work: one batch at a time, and pauses.
    Foreground,
    /// More write-ahead log than there may be.
    WalRate,
    /// Autovacuum is at work on a table that is purged: it is to come to its end, too.
    Autovacuum,
}

impl Throttle {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::ReplicaLag,
        Self::LockWaits,
        Self::Foreground,
        Self::WalRate,
        Self::Autovacuum,
    ];

    /// Its name in logs, metrics and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        THROTTLES[self as usize]
    }

    /// Whether somebody who waits for a purge has to wait longer for this, too.
    fn holds_up_purge_now(self) -> bool {
        matches!(self, Self::ReplicaLag | Self::LockWaits)
    }

    /// Whether it is to be gentle: small batches, one at a time.
    #[must_use]
    pub fn is_gentle(self) -> bool {
        self != Self::Autovacuum
    }

    /// How long to pause after a batch that took `worked`.
    fn pause(self, worked: Duration) -> Duration {
        match self {
            Self::ReplicaLag => HOLD,
            Self::LockWaits => worked.max(Duration::from_millis(100)),
            Self::Foreground | Self::WalRate => worked * 2,
            Self::Autovacuum => worked / 10,
        }
    }
}

/// The process's pace: one for all of its runs.
#[derive(Debug)]
pub struct Pace {
    limits: Option<Limits>,
    /// Users and applications that count as the main app; none: all but ours.
    foreground: Vec<String>,
    metrics: Arc<Metrics>,
    seen: Mutex<Seen>,
    /// Under pressure one batch at a time, its pause included.
    turnstile: Mutex<()>,
    /// How long the latest batch took, in microseconds.
    worked: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    replica_lag: Duration,
    wal_per_second: f64,
}

#[derive(Debug, Default)]
struct Seen {
    /// When, and how much log there was: the latest looks, back to one that is as old as a replica may be behind.
    looks: VecDeque<(Instant, f64)>,
    reasons: Vec<Throttle>,
    /// Whether the latest look failed: that is said once.
    is_blind: bool,
}

/// The right to go on with one batch.
#[derive(Debug, Default)]
pub struct Go<'a> {
    /// What it was waited for, and how long.
    pub throttled: Option<(Throttle, Duration)>,
    _alone: Option<MutexGuard<'a, ()>>,
}

impl Pace {
    /// A pace by these settings.
    #[must_use]
    pub fn new(config: &PurgeConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            limits: config.throttle.then(|| Limits {
                replica_lag: config.max_replica_lag,
                wal_per_second: f64::from(config.max_wal_mb_per_second) * 1e6,
            }),
            foreground: config.foreground.clone(),
            metrics,
            seen: Mutex::default(),
            turnstile: Mutex::default(),
            worked: AtomicU64::default(),
        }
    }

    /// Waits as long as something stands against the next batch, or until `over`, and counts how long. Somebody waits for
    /// a run that is `urgent`: it is held up only by what would hurt others.
    pub async fn ready(
        &self,
        database: &Database,
        urgent: bool,
        over: &CancellationToken,
    ) -> Go<'_> {
        let go = self.pause(database, urgent, over).await;
        if let Some((reason, waited)) = go.throttled {
            self.metrics
                .throttled
                .with_label_values(&[reason.name()])
                .inc_by(waited.as_secs_f64());
        }
        go
    }

    /// The same for what is no batch of a run: nothing is counted.
    pub async fn pause(
        &self,
        database: &Database,
        urgent: bool,
        over: &CancellationToken,
    ) -> Go<'_> {
        let Some(reason) = self.reason(database, urgent).await else {
            return Go::default();
        };
        let began = Instant::now();
        let alone = tokio::select! {
            alone = self.turnstile.lock(), if reason.is_gentle() => Some(alone),
            () = async {}, if !reason.is_gentle() => None,
            () = over.cancelled() => return Go::default(),
        };
        let mut now = Some(reason);
        while let Some(reason) = now {
            let worked = Duration::from_micros(self.worked.load(Ordering::Relaxed));
            tokio::select! {
                () = sleep(reason.pause(worked)) => {}
                () = over.cancelled() => break,
            }
            if reason != Throttle::ReplicaLag {
                break;
            }
            now = self.reason(database, urgent).await;
        }
        Go {
            throttled: Some((reason, began.elapsed())),
            _alone: alone,
        }
    }

    /// Whether nothing asks for small batches, one at a time.
    pub async fn is_free(&self, database: &Database) -> bool {
        let reason = self.reason(database, false).await;
        reason.is_none_or(|reason| !reason.is_gentle())
    }

    /// How long a batch took: pauses are counted by it.
    pub fn worked(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.worked.store(micros, Ordering::Relaxed);
    }

    /// The weightiest reason against full speed, as of the latest look.
    pub async fn reason(&self, database: &Database, urgent: bool) -> Option<Throttle> {
        let limits = self.limits?;
        let mut seen = self.seen.lock().await;
        if seen.is_old(Instant::now()) {
            match Pressure::look(database, &self.foreground).await {
                Ok(pressure) => {
                    seen.is_blind = false;
                    seen.take_in(&pressure, Instant::now(), limits);
                }
                // Batches have their own bounds.
                Err(error) if !seen.is_blind => {
                    seen.is_blind = true;
                    tracing::warn!(
                        error = chain(&error),
                        "cannot see how busy the database is; the pace stays as it was \
                        (after an upgrade, apply deploy/postgres/roles.sql again)"
                    );
                }
                Err(error) => tracing::debug!(
                    error = chain(&error),
                    "still cannot see how busy the database is"
                ),
            }
        }
        let counts = |reason: &&Throttle| !urgent || reason.holds_up_purge_now();
        seen.reasons.iter().find(counts).copied()
    }
}

impl Seen {
    fn is_old(&self, now: Instant) -> bool {
        self.looks
            .back()
            .is_none_or(|(at, _)| now.duration_since(*at) >= FRESH)
    }

    fn take_in(&mut self, pressure: &Pressure, now: Instant, limits: Limits) {
        let wal_rate = self.looks.back().map_or(0.0, |(at, wal)| {
            (pressure.wal - wal) / now.duration_since(*at).as_secs_f64()
        });
        self.looks.push_back((now, pressure.wal));
        let is_old = |look: &(Instant, f64)| now.duration_since(look.0) >= limits.replica_lag;
        // One that old is enough.
        while self.looks.get(1).is_some_and(is_old) {
            self.looks.pop_front();
        }
        // A replica that replays nothing at all never tells how long it takes: but it lacks what was written so long ago.
        let lacks_old =
            self.looks
                .front()
                .filter(|look| is_old(look))
                .is_some_and(|(_, written)| {
                    pressure
                        .replayed
                        .is_some_and(|replayed| replayed < *written)
                });
        let holds = |reason: Throttle| match reason {
            Throttle::ReplicaLag => {
                lacks_old || pressure.replica_lag > limits.replica_lag.as_secs_f64()
            }
            Throttle::LockWaits => pressure.waiting_for_us > 0,
            Throttle::Foreground => pressure.others_awake >= AWAKE,
            Throttle::WalRate => wal_rate > limits.wal_per_second,
            Throttle::Autovacuum => pressure.vacuuming,
        };
        let reasons: Vec<_> = Throttle::ALL
            .into_iter()
            .filter(|reason| holds(*reason))
            .collect();
        if reasons.first() != self.reasons.first() {
            let reason = reasons.first().map_or("none", |reason| reason.name());
            tracing::info!(
                throttle_reason = reason,
                "what slows the purge down has changed"
            );
        }
        self.reasons = reasons;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        replica_lag: Duration::from_secs(10),
        wal_per_second: 1e6,
    };

    fn reasons(pressure: &Pressure) -> Vec<&'static str> {
        let mut seen = Seen::default();
        seen.take_in(pressure, Instant::now(), LIMITS);
        seen.reasons.iter().map(|reason| reason.name()).collect()
    }

    #[test]
    fn every_signal_is_a_reason_and_quiet_is_none() {
        assert_eq!(reasons(&Pressure::default()), [""; 0]);
        let everything = Pressure {
            others_awake: 2,
            waiting_for_us: 1,
            replica_lag: 10.1,
            vacuuming: true,
            ..Pressure::default()
        };
        let expected = ["replica_lag", "lock_waits", "foreground", "autovacuum"];
        assert_eq!(reasons(&everything), expected);
        let nearly = Pressure {
            others_awake: 1,
            replica_lag: 10.0,
            ..Pressure::default()
        };
        assert_eq!(reasons(&nearly), [""; 0]);
    }

    #[test]
    fn log_is_measured_from_one_look_to_the_next() {
        let (mut seen, mut now) = (Seen::default(), Instant::now());
        let looks = [
            (5e9, 0, None),
            (5e9 + 2e6, 1, Some(Throttle::WalRate)),
            (5e9 + 4e6, 2, None),
        ];
        for (wal, later, expected) in looks {
            now += Duration::from_secs(later);
            let pressure = Pressure {
                wal,
                ..Pressure::default()
            };
            seen.take_in(&pressure, now, LIMITS);
            assert_eq!(seen.reasons.first().copied(), expected);
        }
    }

    #[test]
    fn replica_that_stands_still_is_behind_once_it_lacks_what_is_old() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let mut at = |second: u32, replayed: f64| {
            let pressure = Pressure {
                wal: 1e3 * (f64::from(second) + 1.0),
                replayed: Some(replayed),
                ..Pressure::default()
            };
            seen.take_in(
                &pressure,
                start + Duration::from_secs(second.into()),
                LIMITS,
            );
            seen.reasons.contains(&Throttle::ReplicaLag)
        };
        for second in 0..10 {
            assert!(!at(second, 500.0), "{second}");
        }
        assert!(at(10, 500.0));
        assert!(at(20, 500.0));
        assert!(!at(21, 22e3), "it has caught up");
        assert!(!at(60, 22e3), "it lacks nothing that is old");
    }

    #[test]
    fn who_waits_for_a_purge_waits_only_for_what_hurts_others() {
        let urgent: Vec<_> = Throttle::ALL
            .into_iter()
            .filter(|reason| reason.holds_up_purge_now())
            .collect();
        assert_eq!(urgent, [Throttle::ReplicaLag, Throttle::LockWaits]);
    }
}

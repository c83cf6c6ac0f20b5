//! The throttle: a purge goes as fast as the database can, unless somebody else would feel it. Between two batches, never inside
//! a transaction, a purge acquires a permit here. The process looks at the database once a second for all of its runs.
//!
//! The reason for a wait stands in the log when it changes, in `throttled_seconds_total`, and on the run's steps.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use strum::IntoEnumIterator;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::pressure::Pressure;
use crate::{
    config::PurgeConfig,
    postgres::Database,
    runs::ThrottleReason,
    telemetry::{logs::chain, metrics::Metrics},
};

/// How old a sample of the database's load may be.
const MAX_SAMPLE_AGE: Duration = Duration::from_secs(1);
/// How many sessions of others are at work when the main app counts as awake. A single one is a person who looks around.
const MIN_FOREGROUND_SESSIONS: i64 = 2;
/// How often the load is sampled while a replica has to catch up before anything more is deleted.
const REPLICA_WAIT: Duration = Duration::from_millis(250);
/// The shortest pause while a session of somebody else waits for a lock of ours.
const MIN_LOCK_WAIT_PAUSE: Duration = Duration::from_millis(100);

/// How a purge goes about its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As fast as the database can.
    FullSpeed,
    /// Somebody else is at work: batches are small and short, one at a time in the process, and their commits wait for no flush.
    LowImpact,
}

impl ThrottleReason {
    /// Whether it holds up a run that somebody waits for, too.
    fn holds_up_urgent_runs(self) -> bool {
        matches!(self, Self::ReplicaLag | Self::LockWaits)
    }

    fn mode(self) -> Mode {
        match self {
            Self::Autovacuum => Mode::FullSpeed,
            Self::ReplicaLag | Self::LockWaits | Self::Foreground | Self::WalRate => {
                Mode::LowImpact
            }
        }
    }

    /// How long to pause after a batch that took `batch_time`.
    fn pause(self, batch_time: Duration) -> Duration {
        match self {
            Self::ReplicaLag => REPLICA_WAIT,
            Self::LockWaits => batch_time.max(MIN_LOCK_WAIT_PAUSE),
            Self::Foreground | Self::WalRate => batch_time * 2,
            Self::Autovacuum => batch_time / 10,
        }
    }
}

/// The throttle of one process: all of its runs share it.
#[derive(Debug)]
pub struct Throttle {
    limits: Option<Limits>,
    /// Database users and application names that count as the main app; none: all but ours.
    foreground: Vec<String>,
    metrics: Arc<Metrics>,
    pressure: Mutex<Observed>,
    /// In low-impact mode one batch goes at a time, its pause included.
    low_impact_permit: Mutex<()>,
    /// How long the latest batch took, in microseconds.
    batch_micros: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    replica_lag: Duration,
    wal_per_second: f64,
}

/// The latest samples of the database's load.
#[derive(Debug, Default)]
struct Observed {
    /// When each sample was taken, and how much log there was, back to one that is as old as a replica may be behind.
    samples: VecDeque<(Instant, f64)>,
    reasons: Vec<ThrottleReason>,
    /// Whether the latest sample failed. The log says so once.
    is_blind: bool,
}

/// The right to go on with one batch.
#[derive(Debug, Default)]
pub struct Permit<'a> {
    /// Why the batch had to wait, and how long.
    pub throttled: Option<(ThrottleReason, Duration)>,
    _exclusive: Option<MutexGuard<'a, ()>>,
}

impl Permit<'_> {
    /// How the batch is to be done.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.throttled
            .map_or(Mode::FullSpeed, |(reason, _)| reason.mode())
    }
}

impl Throttle {
    /// A throttle with these settings.
    #[must_use]
    pub fn new(config: &PurgeConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            limits: config.throttle.then(|| Limits {
                replica_lag: config.max_replica_lag,
                wal_per_second: f64::from(config.max_wal_mb_per_second) * 1e6,
            }),
            foreground: config.foreground.clone(),
            metrics,
            pressure: Mutex::default(),
            low_impact_permit: Mutex::default(),
            batch_micros: AtomicU64::default(),
        }
    }

    /// Waits as long as something speaks against the next batch, or until `stop`, and counts how long. A batch of runs that
    /// are all `urgent` waits only for what would hurt others.
    pub async fn acquire(
        &self,
        database: &Database,
        urgent: bool,
        stop: &CancellationToken,
    ) -> Permit<'_> {
        let permit = self.wait(database, urgent, stop).await;
        if let Some((reason, waited)) = permit.throttled {
            self.metrics
                .throttled
                .with_label_values(&[reason.name()])
                .inc_by(waited.as_secs_f64());
        }
        permit
    }

    async fn wait(
        &self,
        database: &Database,
        urgent: bool,
        stop: &CancellationToken,
    ) -> Permit<'_> {
        let Some(reason) = self.reason(database, urgent).await else {
            return Permit::default();
        };
        let began = Instant::now();
        let exclusive = if reason.mode() == Mode::LowImpact {
            let Some(exclusive) = stop
                .run_until_cancelled(self.low_impact_permit.lock())
                .await
            else {
                return Permit::default();
            };
            Some(exclusive)
        } else {
            None
        };
        let mut now = Some(reason);
        while let Some(reason) = now {
            let batch_time = Duration::from_micros(self.batch_micros.load(Ordering::Relaxed));
            let pause = sleep(reason.pause(batch_time));
            if stop.run_until_cancelled(pause).await.is_none()
                || reason != ThrottleReason::ReplicaLag
            {
                break;
            }
            now = self.reason(database, urgent).await;
        }
        Permit {
            throttled: Some((reason, began.elapsed())),
            _exclusive: exclusive,
        }
    }

    /// The mode in which a batch would go now.
    pub async fn mode(&self, database: &Database) -> Mode {
        let reason = self.reason(database, false).await;
        reason.map_or(Mode::FullSpeed, ThrottleReason::mode)
    }

    /// Notes how long a batch took: pauses are measured by it.
    pub fn note_batch(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.batch_micros.store(micros, Ordering::Relaxed);
    }

    /// The weightiest reason against full speed.
    async fn reason(&self, database: &Database, urgent: bool) -> Option<ThrottleReason> {
        let limits = self.limits?;
        let mut observed = self.pressure.lock().await;
        // The lock is held over the query: one caller takes the sample for all who wait.
        if observed.is_old(Instant::now()) {
            match Pressure::read(database, &self.foreground).await {
                Ok(pressure) => {
                    observed.is_blind = false;
                    observed.observe(&pressure, Instant::now(), limits);
                }
                // Batches have their own bounds.
                Err(error) if !observed.is_blind => {
                    observed.is_blind = true;
                    tracing::warn!(
                        error = chain(&error),
                        "cannot see how busy the database is; the throttle stays as it was \
                        (after an upgrade, apply deploy/postgres/roles.sql again)"
                    );
                }
                Err(error) => tracing::debug!(
                    error = chain(&error),
                    "still cannot see how busy the database is"
                ),
            }
        }
        let counts = |reason: &&ThrottleReason| !urgent || reason.holds_up_urgent_runs();
        observed.reasons.iter().find(counts).copied()
    }
}

impl Observed {
    fn is_old(&self, now: Instant) -> bool {
        self.samples
            .back()
            .is_none_or(|(at, _)| now.duration_since(*at) >= MAX_SAMPLE_AGE)
    }

    fn observe(&mut self, pressure: &Pressure, now: Instant, limits: Limits) {
        let wal_rate = self.samples.back().map_or(0.0, |(at, wal)| {
            (pressure.wal - wal) / now.duration_since(*at).as_secs_f64()
        });
        self.samples.push_back((now, pressure.wal));
        let is_old = |sample: &(Instant, f64)| now.duration_since(sample.0) >= limits.replica_lag;
        // One sample of that age is enough.
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
        // A replica that replays nothing at all never tells how long it takes. But it lacks log that was written so long ago.
        let written_then = self.samples.front().filter(|sample| is_old(sample));
        let lacks_old = written_then
            .zip(pressure.replayed)
            .is_some_and(|((_, written), replayed)| replayed < *written);
        let holds = |reason: &ThrottleReason| match reason {
            ThrottleReason::ReplicaLag => {
                lacks_old || pressure.replica_lag > limits.replica_lag.as_secs_f64()
            }
            ThrottleReason::LockWaits => pressure.waiting_for_us > 0,
            ThrottleReason::Foreground => pressure.others_awake >= MIN_FOREGROUND_SESSIONS,
            ThrottleReason::WalRate => wal_rate > limits.wal_per_second,
            ThrottleReason::Autovacuum => pressure.vacuuming,
        };
        let reasons: Vec<_> = ThrottleReason::iter().filter(holds).collect();
        if reasons.first() != self.reasons.first() {
            let reason = reasons.first().map_or("none", |reason| reason.name());
            tracing::info!(
                throttle_reason = reason,
                "the reason for slowing the purge down has changed"
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
        let mut observed = Observed::default();
        observed.observe(pressure, Instant::now(), LIMITS);
        observed
            .reasons
            .iter()
            .map(|reason| reason.name())
            .collect()
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
        let (mut observed, mut now) = (Observed::default(), Instant::now());
        let samples = [
            (5e9, 0, None),
            (5e9 + 2e6, 1, Some(ThrottleReason::WalRate)),
            (5e9 + 4e6, 2, None),
        ];
        for (wal, later, expected) in samples {
            now += Duration::from_secs(later);
            let pressure = Pressure {
                wal,
                ..Pressure::default()
            };
            observed.observe(&pressure, now, LIMITS);
            assert_eq!(observed.reasons.first().copied(), expected);
        }
    }

    #[test]
    fn replica_that_stands_still_is_behind_once_it_lacks_what_is_old() {
        let (mut observed, start) = (Observed::default(), Instant::now());
        let mut at = |second: u32, replayed: f64| {
            let pressure = Pressure {
                wal: 1e3 * (f64::from(second) + 1.0),
                replayed: Some(replayed),
                ..Pressure::default()
            };
            observed.observe(
                &pressure,
                start + Duration::from_secs(second.into()),
                LIMITS,
            );
            observed.reasons.contains(&ThrottleReason::ReplicaLag)
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
        let urgent: Vec<_> = ThrottleReason::iter()
            .filter(|reason| reason.holds_up_urgent_runs())
            .collect();
        assert_eq!(
            urgent,
            [ThrottleReason::ReplicaLag, ThrottleReason::LockWaits]
        );
    }
}

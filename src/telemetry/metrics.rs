//! Declares every metric once. Every label set starts at 0, because Prometheus misses the first increment of a new
//! series. No label contains an organization.

use std::fs;

use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// The outcomes of an attempt: the `outcome` label of `purge_runs_total`.
pub const OUTCOMES: [&str; 4] = ["succeeded", "failed", "cancelled", "retried"];
/// The triggers of a run: the `trigger` label.
pub const TRIGGERS: [&str; 3] = ["schedule", "purge_now", "replay"];
/// The states of a run: the `status` label of `queue_runs`.
pub const STATUSES: [&str; 6] = [
    "queued",
    "running",
    "retrying",
    "succeeded",
    "failed",
    "cancelled",
];

/// The reasons to throttle the purge: the `reason` label of `throttled_seconds_total`.
pub const THROTTLES: [&str; 5] = [
    "replica_lag",
    "lock_waits",
    "foreground",
    "wal_rate",
    "autovacuum",
];

/// The limits of requests: the `limit` label of `requests_refused_total`.
pub const LIMITS: [&str; 5] = ["requests", "purges", "sign_ins", "counting", "streams"];

/// The states of a pooled connection: the `state` label of `pool_connections`.
pub const POOL_STATES: [&str; 2] = ["idle", "in_use"];

/// The metrics of one process. All names begin with `drift_retention_`, except those that every process has.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Metrics with the standard process names, without our prefix.
    of_any_process: Registry,
    /// Purged rows by `table` and `plan`, counted after commit.
    pub purged_rows: IntCounterVec,
    /// Attempts that ended, by `outcome` and `trigger`.
    pub runs: IntCounterVec,
    /// Seconds from a run's claim to its end, per attempt.
    pub run_duration: Histogram,
    /// Seconds per batch, by dataset (the label `table` is the dataset's first table).
    pub batch_duration: HistogramVec,
    /// Seconds that runs were throttled between batches, by `reason`.
    pub throttled: CounterVec,
    /// Requests that exceeded a caller's limit, by `limit`.
    pub refused: IntCounterVec,
    /// Attempts that found their run taken over by another worker.
    pub lease_losses: IntCounter,
    /// Runs by `status`, from the database.
    pub queue_runs: IntGaugeVec,
    /// How far past its cutoff the oldest expired row is, in seconds, by `table`.
    pub overdue: GaugeVec,
    /// Organizations with an expired row that is not purged yet.
    pub organizations_overdue: Gauge,
    /// Organizations whose plan is unknown.
    pub organizations_unresolved: Gauge,
    /// The latest slot that the scheduler has enqueued, as a Unix time.
    pub last_slot: IntGauge,
    pool_connections: IntGaugeVec,
    resident_memory: IntGauge,
}

impl Metrics {
    /// All metrics at zero, for the tables of these `datasets` and these `plans`. Batches are counted under a dataset's
    /// first table.
    ///
    /// # Errors
    /// When two metrics share a name: a mistake in this file.
    pub fn new<'a>(
        datasets: impl Iterator<Item = &'a [&'a str]>,
        plans: impl Iterator<Item = &'a str>,
    ) -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new_custom(Some("drift_retention".into()), None)?,
            of_any_process: Registry::new(),
            purged_rows: IntCounterVec::new(
                Opts::new("purged_rows_total", "Rows purged, counted after commit"),
                &["table", "plan"],
            )?,
            runs: IntCounterVec::new(
                Opts::new("purge_runs_total", "Purge attempts that ended, by outcome"),
                &["outcome", "trigger"],
            )?,
            run_duration: Histogram::with_opts(
                HistogramOpts::new(
                    "purge_run_duration_seconds",
                    "Duration of one attempt of a run",
                )
                .buckets(vec![0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0]),
            )?,
            batch_duration: HistogramVec::new(
                HistogramOpts::new("purge_batch_duration_seconds", "Duration of one batch")
                    .buckets(vec![
                        0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
                    ]),
                &["table"],
            )?,
            throttled: CounterVec::new(
                Opts::new(
                    "throttled_seconds_total",
                    "Seconds that runs waited between batches, by reason",
                ),
                &["reason"],
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "requests_refused_total",
                    "HTTP requests that were answered with 429, by limit",
                ),
                &["limit"],
            )?,
            lease_losses: IntCounter::new(
                "lease_losses_total",
                "Attempts that found their run taken over by another worker",
            )?,
            queue_runs: IntGaugeVec::new(
                Opts::new(
                    "queue_runs",
                    "Runs by status; of the succeeded at most a million are counted",
                ),
                &["status"],
            )?,
            overdue: GaugeVec::new(
                Opts::new(
                    "overdue_seconds",
                    "How far past its cutoff the oldest expired row is",
                ),
                &["table"],
            )?,
            organizations_overdue: Gauge::new(
                "organizations_overdue",
                "Organizations with an expired row that is not purged yet",
            )?,
            organizations_unresolved: Gauge::new(
                "organizations_policy_unresolved",
                "Organizations whose plan is unknown: nothing of theirs is purged",
            )?,
            last_slot: IntGauge::new(
                "scheduler_last_slot_timestamp_seconds",
                "The latest slot that was enqueued",
            )?,
            pool_connections: IntGaugeVec::new(
                Opts::new("pool_connections", "Open database connections by state"),
                &["state"],
            )?,
            resident_memory: IntGauge::new(
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
            )?,
        };
        metrics.register()?;
        metrics.zero(datasets, &plans.collect::<Vec<_>>());
        Ok(metrics)
    }

    fn register(&self) -> prometheus::Result<()> {
        let build_info =
            IntGaugeVec::new(Opts::new("build_info", "The running version"), &["version"])?;
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let all: [Box<dyn Collector>; 14] = [
            Box::new(self.purged_rows.clone()),
            Box::new(self.runs.clone()),
            Box::new(self.run_duration.clone()),
            Box::new(self.batch_duration.clone()),
            Box::new(self.throttled.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.lease_losses.clone()),
            Box::new(self.queue_runs.clone()),
            Box::new(self.overdue.clone()),
            Box::new(self.organizations_overdue.clone()),
            Box::new(self.organizations_unresolved.clone()),
            Box::new(self.last_slot.clone()),
            Box::new(self.pool_connections.clone()),
            Box::new(build_info),
        ];
        self.of_any_process
            .register(Box::new(self.resident_memory.clone()))?;
        all.into_iter()
            .try_for_each(|collector| self.registry.register(collector))
    }

    fn zero<'a>(&self, datasets: impl Iterator<Item = &'a [&'a str]>, plans: &[&str]) {
        for tables in datasets {
            self.batch_duration.with_label_values(&tables[..1]);
            // Not known yet. A 0 would look like an all-clear.
            self.overdue.with_label_values(&tables[..1]).set(f64::NAN);
            for (table, plan) in tables
                .iter()
                .flat_map(|t| plans.iter().map(move |p| (t, p)))
            {
                self.purged_rows.with_label_values(&[*table, *plan]);
            }
        }
        self.organizations_overdue.set(f64::NAN);
        self.organizations_unresolved.set(f64::NAN);
        for trigger in TRIGGERS {
            for outcome in OUTCOMES {
                self.runs.with_label_values(&[outcome, trigger]);
            }
        }
        for status in STATUSES {
            self.queue_runs.with_label_values(&[status]);
        }
        for reason in THROTTLES {
            self.throttled.with_label_values(&[reason]);
        }
        for limit in LIMITS {
            self.refused.with_label_values(&[limit]);
        }
        for state in POOL_STATES {
            self.pool_connections.with_label_values(&[state]);
        }
    }

    /// Sets the number of open and of idle database connections. It needs no query, so every scrape does it.
    pub fn set_pool_connections(&self, open: u32, idle: usize) {
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        // The two values are read one after the other, so a connection may be returned in between.
        for (state, connections) in POOL_STATES.iter().zip([idle, open.saturating_sub(idle)]) {
            self.pool_connections
                .with_label_values(&[state])
                .set(connections.into());
        }
    }

    /// The metrics in Prometheus's text format.
    ///
    /// # Errors
    /// When a metric cannot be written as text: a mistake in this file.
    pub fn render(&self) -> prometheus::Result<String> {
        if let Some(bytes) = resident_memory() {
            self.resident_memory.set(bytes);
        }
        let mut page = Vec::new();
        for registry in [&self.registry, &self.of_any_process] {
            TextEncoder::new().encode(&registry.gather(), &mut page)?;
        }
        Ok(String::from_utf8_lossy(&page).into_owned())
    }
}

/// This process's resident memory, or `None` if the system has no `/proc`.
fn resident_memory() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

//! Declares every metric once. Every label set starts at 0, because Prometheus misses the first increment of a new
//! series. No label contains an organization.

#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, MetricVec, MetricVecBuilder},
};

/// The limits of requests: the `limit` label of `requests_refused_total`.
pub const LIMITS: [&str; 5] = ["requests", "purges", "sign_ins", "counting", "streams"];

/// The states of a pooled connection: the `state` label of `pool_connections`.
pub const POOL_STATES: [&str; 2] = ["idle", "in_use"];

/// The values of labels that other rooms define.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// The tables that lose rows.
    pub tables: Vec<&'static str>,
    /// The datasets, each by its own table.
    pub datasets: Vec<&'static str>,
    /// The plans.
    pub plans: Vec<&'static str>,
    /// How attempts end.
    pub outcomes: Vec<&'static str>,
    /// Who asks for runs.
    pub triggers: Vec<&'static str>,
    /// The statuses of a run.
    pub statuses: Vec<&'static str>,
    /// Why a purge goes slower than it could.
    pub throttle_reasons: Vec<&'static str>,
}

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
}

/// Registers a metric, and every series that it can have.
fn declare<T: MetricVecBuilder>(
    registry: &Registry,
    vec: prometheus::Result<MetricVec<T>>,
    labels: &[&[&str]],
) -> prometheus::Result<MetricVec<T>>
where
    MetricVec<T>: Collector + Clone + 'static,
{
    let vec = vec?;
    let mut series: Vec<Vec<&str>> = vec![vec![]];
    for values in labels {
        series = series
            .iter()
            .flat_map(|before| {
                values
                    .iter()
                    .map(|value| [before.as_slice(), &[*value]].concat())
            })
            .collect();
    }
    for values in series {
        vec.get_metric_with_label_values(&values)?;
    }
    registry.register(Box::new(vec.clone()))?;
    Ok(vec)
}

/// Registers a metric without labels.
fn single<T: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<T>,
) -> prometheus::Result<T> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

impl Metrics {
    /// All metrics at zero. A gauge that an alert reads begins as unknown: a 0 would read as an all-clear.
    ///
    /// # Errors
    /// When two metrics share a name: a mistake in this file.
    #[expect(
        clippy::too_many_lines,
        reason = "one declaration per metric, and nothing else"
    )]
    pub fn new(labels: &Labels) -> prometheus::Result<Self> {
        let ours = Registry::new_custom(Some("drift_retention".into()), None)?;
        let of_any_process = Registry::new();
        // The collector reads `/proc`, so the crate has it on Linux only.
        #[cfg(target_os = "linux")]
        of_any_process.register(Box::new(ProcessCollector::for_self()))?;
        let Labels {
            tables, datasets, ..
        } = labels;
        let metrics = Self {
            purged_rows: declare(
                &ours,
                IntCounterVec::new(
                    Opts::new("purged_rows_total", "Rows purged, counted after commit"),
                    &["table", "plan"],
                ),
                &[tables, &labels.plans],
            )?,
            runs: declare(
                &ours,
                IntCounterVec::new(
                    Opts::new("purge_runs_total", "Purge attempts that ended, by outcome"),
                    &["outcome", "trigger"],
                ),
                &[&labels.outcomes, &labels.triggers],
            )?,
            run_duration: single(
                &ours,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "purge_run_duration_seconds",
                        "Duration of one attempt of a run",
                    )
                    .buckets(vec![0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0]),
                ),
            )?,
            batch_duration: declare(
                &ours,
                HistogramVec::new(
                    HistogramOpts::new("purge_batch_duration_seconds", "Duration of one batch")
                        .buckets(vec![
                            0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
                        ]),
                    &["table"],
                ),
                &[datasets],
            )?,
            throttled: declare(
                &ours,
                CounterVec::new(
                    Opts::new(
                        "throttled_seconds_total",
                        "Seconds that runs waited between batches, by reason",
                    ),
                    &["reason"],
                ),
                &[&labels.throttle_reasons],
            )?,
            refused: declare(
                &ours,
                IntCounterVec::new(
                    Opts::new(
                        "requests_refused_total",
                        "HTTP requests that were answered with 429, by limit",
                    ),
                    &["limit"],
                ),
                &[&LIMITS],
            )?,
            lease_losses: single(
                &ours,
                IntCounter::new(
                    "lease_losses_total",
                    "Attempts that found their run taken over by another worker",
                ),
            )?,
            queue_runs: declare(
                &ours,
                IntGaugeVec::new(
                    Opts::new(
                        "queue_runs",
                        "Runs by status; of the succeeded at most a million are counted",
                    ),
                    &["status"],
                ),
                &[&labels.statuses],
            )?,
            overdue: declare(
                &ours,
                GaugeVec::new(
                    Opts::new(
                        "overdue_seconds",
                        "How far past its cutoff the oldest expired row is",
                    ),
                    &["table"],
                ),
                &[datasets],
            )?,
            organizations_overdue: single(
                &ours,
                Gauge::new(
                    "organizations_overdue",
                    "Organizations with an expired row that is not purged yet",
                ),
            )?,
            organizations_unresolved: single(
                &ours,
                Gauge::new(
                    "organizations_policy_unresolved",
                    "Organizations whose plan is unknown: nothing of theirs is purged",
                ),
            )?,
            last_slot: single(
                &ours,
                IntGauge::new(
                    "scheduler_last_slot_timestamp_seconds",
                    "The latest slot that was enqueued",
                ),
            )?,
            pool_connections: declare(
                &ours,
                IntGaugeVec::new(
                    Opts::new("pool_connections", "Open database connections by state"),
                    &["state"],
                ),
                &[&POOL_STATES],
            )?,
            registry: ours,
            of_any_process,
        };
        let version = [env!("CARGO_PKG_VERSION")];
        declare(
            &metrics.registry,
            IntGaugeVec::new(Opts::new("build_info", "The running version"), &["version"]),
            &[&version],
        )?
        .with_label_values(&version)
        .set(1);
        for dataset in datasets {
            metrics.overdue.with_label_values(&[dataset]).set(f64::NAN);
        }
        metrics.organizations_overdue.set(f64::NAN);
        metrics.organizations_unresolved.set(f64::NAN);
        Ok(metrics)
    }

    /// Sets the number of open and of idle database connections. It needs no query, so every scrape does it.
    pub fn set_pool_connections(&self, open: u32, idle: usize) {
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        // The two values are read one after the other, so a connection may be returned in between.
        for (state, connections) in POOL_STATES
            .into_iter()
            .zip([idle, open.saturating_sub(idle)])
        {
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
        let mut page = Vec::new();
        for registry in [&self.registry, &self.of_any_process] {
            TextEncoder::new().encode(&registry.gather(), &mut page)?;
        }
        Ok(String::from_utf8_lossy(&page).into_owned())
    }
}

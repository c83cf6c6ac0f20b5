//! One round: create a database, inject faults for a while, repair everything, purge every organization, ask the oracle.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    faults::Injector,
    oracle::{self, Violation},
    processes::Fleet,
    report::RoundReport,
    rounds::{LabError, Options},
    server::{Database, Server},
    writers::{Promises, Writer},
};

const WRITERS: u64 = 4;
/// How long the lab injects faults.
const FAULT_SECONDS: std::ops::Range<u64> = 15..40;
/// The pause between two faults.
const FAULT_PAUSE_MILLIS: std::ops::Range<u64> = 100..1_300;
/// After this time the report names the runs that the lab waits for.
const SLOW_AFTER: Duration = Duration::from_secs(15);
/// How long the product may take to finish every run after the faults. Its reconciler works once a minute.
const SETTLE_DEADLINE: Duration = Duration::from_secs(150);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

const WAITED_FOR: &str = "-- chaos.waited_for
    SELECT format('run %s, %s since its attempt %s by %s (%s); its delivery is %s, held by %s (%s)', r.id, r.status, r.attempts,
                  r.worker, coalesce(now() - w.last_seen, interval '0'), j.status, j.lock_by, now() - h.last_seen)
    FROM retention.purge_runs r LEFT JOIN apalis.jobs j ON j.id = r.delivery_id
    LEFT JOIN apalis.workers w ON w.id = r.worker LEFT JOIN apalis.workers h ON h.id = j.lock_by
    WHERE r.status IN ('queued', 'running', 'retrying') LIMIT 5";

/// The name of a round's database.
pub(crate) fn database(seed: u64) -> String {
    format!("round_{seed}")
}

/// Runs one round. Returns `None` if it was stopped before its end: the oracle cannot judge it then.
pub(crate) async fn run(
    options: &Options,
    server: &mut Server,
    seed: u64,
    stop: &CancellationToken,
) -> Result<Option<RoundReport>, LabError> {
    let began = Instant::now();
    let mut dice = StdRng::seed_from_u64(seed);
    let database = server
        .create(&database(seed), options.organizations)
        .await?;
    let organizations: Vec<Uuid> = sqlx::query_scalar(
        "-- chaos.organizations
         SELECT id FROM public.organizations ORDER BY id",
    )
    .fetch_all(&mut database.connect().await?)
    .await?;
    let roles: Vec<&'static str> = std::iter::repeat_n("worker", options.workers)
        .chain(["scheduler", "scheduler", "api,worker"])
        .collect();
    let logs = options.dir.join("logs");
    let settings = settings(&mut dice);
    let mut fleet = Fleet::start(
        &options.program,
        server,
        &self::database(seed),
        &logs,
        &roles,
        settings,
    )
    .await?;
    let promises = Arc::new(Mutex::new(Promises::default()));
    let writers = Writers::start(&database, &organizations, &promises, &mut dice);
    let fault_time = Duration::from_secs(dice.random_range(FAULT_SECONDS));
    let mut injector = Injector::new(dice, database.clone(), organizations.clone());
    injector.slow_deletions().await?;
    let faults_began = Instant::now();
    while faults_began.elapsed() < fault_time && !stop.is_cancelled() {
        injector.strike(server, &mut fleet).await?;
        let pause = injector.dice.random_range(FAULT_PAUSE_MILLIS);
        let next = Instant::now() + Duration::from_millis(pause);
        while Instant::now() < next {
            injector.end_due(&mut fleet);
            fleet.restart_ended(server)?;
            sleep(POLL_INTERVAL).await;
        }
    }
    writers.end().await;
    injector.heal(server, &mut fleet).await?;
    if stop.is_cancelled() {
        fleet.end(None).await?;
        return Ok(None);
    }
    let mut end = End {
        database,
        violations: Vec::new(),
        promises,
        slow: Vec::new(),
    };
    let (healed, settled) = end.settle(server, &mut fleet, &organizations).await?;
    let mut report = end.judge(&fleet, healed).await?;
    (report.seed, report.settled) = (seed, settled);
    (report.faults, report.took) = (injector.injected, began.elapsed());
    Ok(Some(report))
}

/// The product's settings in this round: times are short, and sizes differ from round to round.
fn settings(dice: &mut StdRng) -> Vec<(String, String)> {
    let mut one_of = |values: &[&str]| values[dice.random_range(0..values.len())].to_owned();
    let chosen = [
        ("WORKER__HEARTBEAT", one_of(&["500ms", "700ms", "1s"])),
        ("WORKER__CONCURRENCY", one_of(&["1", "2", "4", "6"])),
        ("WORKER__BACKOFF_BASE", "200ms".to_owned()),
        ("WORKER__BACKOFF_MAX", "2s".to_owned()),
        ("WORKER__SHUTDOWN_GRACE", "3s".to_owned()),
        ("PURGE__BATCH_SIZE", one_of(&["3", "20", "200", "10000"])),
        // The throttle makes way for the main app's writers. Only without it are runs purged together.
        ("PURGE__THROTTLE", one_of(&["true", "false"])),
        ("SCHEDULE__CRON", "*/7 * * * * *".to_owned()),
    ];
    chosen
        .into_iter()
        .map(|(key, value)| (format!("DRIFT_RETENTION_{key}"), value))
        .collect()
}

/// The main app's connections in a round.
struct Writers {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Writers {
    fn start(
        database: &Database,
        organizations: &[Uuid],
        promises: &Arc<Mutex<Promises>>,
        dice: &mut StdRng,
    ) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let organizations = Arc::new(organizations.to_vec());
        for _ in 0..WRITERS {
            let writer = Writer {
                database: database.clone(),
                organizations: organizations.clone(),
                promises: promises.clone(),
                seed: dice.random(),
            };
            tasks.spawn(writer.run(stop.clone()));
        }
        tasks.close();
        Self { tasks, stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// The end of a round, after the faults.
struct End {
    database: Database,
    violations: Vec<Violation>,
    promises: Arc<Mutex<Promises>>,
    slow: Vec<String>,
}

impl End {
    /// Replays failed runs, has every organization purged once more, waits until every run is final, and stops the
    /// processes. Returns the time after which nothing expired may remain, and how long all this took.
    async fn settle(
        &mut self,
        server: &Server,
        fleet: &mut Fleet,
        organizations: &[Uuid],
    ) -> Result<(DateTime<Utc>, Duration), LabError> {
        let late = fleet.end(Some("scheduler")).await?;
        let began = Instant::now();
        let mut conn = self.database.connect().await?;
        self.until_final(server, fleet, &mut conn).await?;
        let failed = fleet.replay_failed(&self.database.present_url()).await?;
        self.violations.extend(failed.map(|message| Violation {
            check: "failed_runs_can_be_replayed",
            times: 1,
            found: vec![message],
        }));
        self.until_final(server, fleet, &mut conn).await?;
        let healed: DateTime<Utc> = sqlx::query_scalar("-- chaos.healed\nSELECT clock_timestamp()")
            .fetch_one(&mut conn)
            .await?;
        for org in organizations {
            let (run,): (Uuid,) = sqlx::query_as(
                "-- chaos.final_purge
                 SELECT run_id FROM retention.enqueue_purge($1, 'chaos', 'in the end')",
            )
            .bind(org)
            .fetch_one(&mut conn)
            .await?;
            let mut promises = self.promises.lock().unwrap_or_else(PoisonError::into_inner);
            promises.kept.push(run);
        }
        self.until_final(server, fleet, &mut conn).await?;
        let settled = began.elapsed();
        let late = [late, fleet.end(None).await?].concat();
        if let Some(times) = i64::try_from(late.len()).ok().filter(|late| *late > 0) {
            self.violations.push(Violation {
                check: "processes_end_within_their_grace",
                times,
                found: late,
            });
        }
        Ok((healed, settled))
    }

    /// Waits until every run is final. The oracle reports runs that are not final in time.
    async fn until_final(
        &mut self,
        server: &Server,
        fleet: &mut Fleet,
        conn: &mut PgConnection,
    ) -> Result<(), LabError> {
        let began = Instant::now();
        loop {
            fleet.restart_ended(server)?;
            let live: i64 = sqlx::query_scalar(
                "-- chaos.live_runs
                 SELECT count(*) FROM retention.purge_runs WHERE status IN ('queued', 'running', 'retrying')",
            )
            .fetch_one(&mut *conn)
            .await?;
            if live == 0 || began.elapsed() > SETTLE_DEADLINE {
                return Ok(());
            }
            if began.elapsed() > SLOW_AFTER && self.slow.is_empty() {
                self.slow = sqlx::query_scalar(WAITED_FOR).fetch_all(&mut *conn).await?;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn judge(
        mut self,
        fleet: &Fleet,
        healed: DateTime<Utc>,
    ) -> Result<RoundReport, LabError> {
        let mut conn = self.database.connect().await?;
        let (names, pids): (Vec<String>, Vec<i64>) = fleet
            .started
            .iter()
            .map(|(name, pid)| (name.clone(), i64::from(*pid)))
            .unzip();
        sqlx::query("-- chaos.processes\nINSERT INTO chaos.processes SELECT * FROM unnest($1::text[], $2::bigint[])")
            .bind(names)
            .bind(pids)
            .execute(&mut conn)
            .await?;
        let (kept, undone, writes) = {
            let promises = self.promises.lock().unwrap_or_else(PoisonError::into_inner);
            (
                promises.kept.clone(),
                promises.undone.clone(),
                promises.writes,
            )
        };
        for (runs, kept) in [(kept, true), (undone, false)] {
            sqlx::query("-- chaos.promises\nINSERT INTO chaos.promises SELECT r, $2 FROM unnest($1::uuid[]) AS r")
                .bind(runs)
                .bind(kept)
                .execute(&mut conn)
                .await?;
        }
        let found = oracle::judge(&mut conn, healed).await?;
        self.violations.extend(found);
        let report = RoundReport {
            processes: u32::try_from(fleet.started.len()).unwrap_or(u32::MAX),
            ended_by_themselves: fleet.ended_by_themselves,
            writes,
            purged: oracle::purged(&mut conn).await?.into_iter().collect(),
            runs: oracle::runs(&mut conn).await?.into_iter().collect(),
            violations: self.violations,
            slow: self.slow,
            ..RoundReport::default()
        };
        conn.close().await?;
        Ok(report)
    }
}

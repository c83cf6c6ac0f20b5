//! The faults, chosen at random from a seed. A fault ends by itself, or [`Injector::heal`] ends it.

use std::{collections::BTreeMap, time::Duration};

use drift_retention::postgres::local::StopMode;
use nix::sys::signal::Signal;
use rand::{RngExt, rngs::StdRng};
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    processes::Fleet,
    proxy::Mode,
    rounds::LabError,
    server::{Database, PRODUCT, Server},
};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Freeze,
    Terminate,
    EndBackends,
    RestartInOrder,
    Crash,
    Cut,
    BlackHole,
    Delay,
    FailingStatement,
    FailingCommit,
    DiskFull,
    SlowStatements,
    LockHolder,
    ClockJump,
    ForgottenWorkers,
    Namesake,
}

/// Every kind of fault, with its weight among all and its name in reports.
const FAULTS: &[(u32, Fault, &str)] = &[
    (14, Fault::Kill, "SIGKILL"),
    (10, Fault::Freeze, "SIGSTOP past the lease"),
    (8, Fault::Terminate, "SIGTERM"),
    (8, Fault::EndBackends, "backends terminated"),
    (2, Fault::RestartInOrder, "Postgres restarted"),
    (3, Fault::Crash, "Postgres crashed"),
    (6, Fault::Cut, "network cut"),
    (6, Fault::BlackHole, "network black hole"),
    (5, Fault::Delay, "network delay"),
    (6, Fault::FailingStatement, "failing statement"),
    (5, Fault::FailingCommit, "failing commit"),
    (4, Fault::DiskFull, "disk full"),
    (8, Fault::SlowStatements, "slow statements"),
    (8, Fault::LockHolder, "lock holder"),
    (4, Fault::ClockJump, "clock jump"),
    (3, Fault::ForgottenWorkers, "worker rows deleted"),
    (3, Fault::Namesake, "dead worker's name kept alive"),
];
/// How long a process is frozen: longer than the lease of the lab's workers (four heartbeats of at most a second).
const FREEZE_MILLIS: std::ops::Range<u64> = 4_500..8_000;
const TABLES: &[&str] = &[
    "drift_checks",
    "workflow_drift_flags",
    "incident_payloads",
    "approvals",
    "purge_runs",
    "purge_run_steps",
    "jobs",
];

/// The action that ends a fault of one process.
#[derive(Debug, Clone, Copy)]
enum End {
    Continue,
    Pass,
}

/// Injects faults, and remembers the faults that it has to end.
pub(crate) struct Injector {
    pub(crate) dice: StdRng,
    pub(crate) database: Database,
    pub(crate) organizations: Vec<Uuid>,
    /// The number of faults injected, by kind.
    pub(crate) injected: BTreeMap<&'static str, u32>,
    ends: Vec<(Instant, usize, End)>,
    lock_holders: Vec<AbortOnDropHandle<()>>,
}

impl Injector {
    pub(crate) fn new(dice: StdRng, database: Database, organizations: Vec<Uuid>) -> Self {
        Self {
            dice,
            database,
            organizations,
            injected: BTreeMap::new(),
            ends: Vec::new(),
            lock_holders: Vec::new(),
        }
    }

    /// Makes deletions slow in most rounds, so that faults strike while runs are under way.
    pub(crate) async fn slow_deletions(&mut self) -> Result<(), LabError> {
        let seconds = [0.0, 0.0, 0.02, 0.1, 0.3, 0.6][self.dice.random_range(0..6)];
        sqlx::query(
            "-- chaos.slow_deletions
             INSERT INTO chaos.trouble (table_name, kind, seconds, until)
             SELECT t, 'slow', $1, 'infinity' FROM unnest(ARRAY['drift_checks', 'incident_payloads', 'approvals']) AS t",
        )
        .bind(seconds)
        .execute(&mut self.database.connect().await?)
        .await?;
        Ok(())
    }

    /// Injects one fault.
    pub(crate) async fn strike(
        &mut self,
        server: &mut Server,
        fleet: &mut Fleet,
    ) -> Result<(), LabError> {
        let (fault, name) = self.pick();
        if self.inject(fault, server, fleet).await? {
            *self.injected.entry(name).or_default() += 1;
        }
        Ok(())
    }

    /// Ends the faults whose time is over.
    pub(crate) fn end_due(&mut self, fleet: &mut Fleet) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.ends.drain(..).partition(|(at, ..)| *at <= now);
        self.ends = later;
        for (_, at, end) in due {
            match end {
                End::Continue => drop(fleet.signal(at, Signal::SIGCONT)),
                End::Pass => fleet.set_network(at, Mode::Pass),
            }
        }
        self.lock_holders.retain(|holder| !holder.is_finished());
    }

    /// Ends all faults.
    pub(crate) async fn heal(
        &mut self,
        server: &mut Server,
        fleet: &mut Fleet,
    ) -> Result<(), LabError> {
        self.ends.clear();
        self.lock_holders.clear();
        server.start_again().await?;
        let mut conn = self.database.connect().await?;
        sqlx::query("-- chaos.heal\nDELETE FROM chaos.trouble")
            .execute(&mut conn)
            .await?;
        fleet.heal(server)
    }

    fn pick(&mut self) -> (Fault, &'static str) {
        let all: u32 = FAULTS.iter().map(|(weight, ..)| weight).sum();
        let mut left = self.dice.random_range(0..all);
        for (weight, fault, name) in FAULTS {
            if left < *weight {
                return (*fault, name);
            }
            left -= weight;
        }
        unreachable!("the number is below the sum of the weights")
    }

    /// Returns `false` if the fault could not be injected.
    async fn inject(
        &mut self,
        fault: Fault,
        server: &mut Server,
        fleet: &mut Fleet,
    ) -> Result<bool, LabError> {
        let at = self.aim(fleet).await;
        match fault {
            Fault::Kill => return Ok(fleet.signal(at, Signal::SIGKILL).is_some()),
            Fault::Terminate => return Ok(fleet.signal(at, Signal::SIGTERM).is_some()),
            Fault::Freeze => {
                self.ends_in(FREEZE_MILLIS, at, End::Continue);
                return Ok(fleet.signal(at, Signal::SIGSTOP).is_some());
            }
            Fault::Cut | Fault::BlackHole | Fault::Delay => self.network(fault, at, fleet),
            Fault::RestartInOrder => self.outage(server, StopMode::Fast).await?,
            Fault::Crash => self.outage(server, StopMode::Immediate).await?,
            Fault::EndBackends => {
                let limit = self.dice.random_range(1..20);
                return Ok(self.sql(end_backends(limit)).await);
            }
            Fault::FailingStatement => {
                let state = ["XX000", "40001", "40P01", "55P03", "57014", "22012"];
                let state = state[self.dice.random_range(0..state.len())];
                let sql = self.trouble("fail", state);
                return Ok(self.sql(sql).await);
            }
            Fault::DiskFull => {
                let sql = self.trouble("fail", "53100");
                return Ok(self.sql(sql).await);
            }
            Fault::FailingCommit => {
                let sql = self.trouble("commit", "XX000");
                return Ok(self.sql(sql).await);
            }
            Fault::SlowStatements => {
                let sql = self.trouble("slow", "00000");
                return Ok(self.sql(sql).await);
            }
            Fault::LockHolder => self.hold_locks(),
            Fault::ClockJump => {
                let jumps = ["-400d", "-1d", "+1h", "+3d", "+4000d"];
                let jump = jumps[self.dice.random_range(0..jumps.len())];
                let at = self.scheduler_or(at, fleet);
                let can = fleet.set_clock(at, Some(jump.to_owned()));
                return Ok(can && fleet.signal(at, Signal::SIGKILL).is_some());
            }
            Fault::ForgottenWorkers => return Ok(self.sql(FORGET_WORKERS.to_owned()).await),
            Fault::Namesake => {
                let Some(pid) = fleet.signal(at, Signal::SIGKILL) else {
                    return Ok(false);
                };
                return Ok(self.sql(keep_alive(pid)).await);
            }
        }
        Ok(true)
    }

    /// Picks a process: usually one that is working on a run, otherwise any.
    async fn aim(&mut self, fleet: &Fleet) -> usize {
        let any = self.dice.random_range(0..fleet.len());
        if self.dice.random_bool(0.3) {
            return any;
        }
        let busy = async {
            sqlx::query_scalar::<_, String>(
                "-- chaos.aim
                 SELECT split_part(worker, ':', 2) FROM retention.purge_runs WHERE status = 'running'
                 ORDER BY random() LIMIT 1",
            )
            .fetch_optional(&mut self.database.connect().await?)
            .await
        };
        let busy = busy.await.ok().flatten();
        busy.and_then(|pid| fleet.find(pid.parse().ok()?))
            .unwrap_or(any)
    }

    /// Picks a scheduler in most cases, because a wrong clock could enqueue a slot twice or never.
    fn scheduler_or(&mut self, at: usize, fleet: &Fleet) -> usize {
        let schedulers = fleet.in_role("scheduler");
        if schedulers.is_empty() || self.dice.random_bool(0.4) {
            return at;
        }
        schedulers[self.dice.random_range(0..schedulers.len())]
    }

    fn network(&mut self, fault: Fault, at: usize, fleet: &Fleet) {
        let delay = Duration::from_millis(self.dice.random_range(20..250));
        let mode = match fault {
            Fault::Cut => Mode::Cut,
            Fault::BlackHole => Mode::BlackHole,
            _ => Mode::Delay(delay),
        };
        // In one case of four the fault strikes the network of every process.
        let struck = if self.dice.random_bool(0.25) {
            0..fleet.len()
        } else {
            at..at + 1
        };
        for at in struck {
            fleet.set_network(at, mode);
            self.ends_in(300..7_000, at, End::Pass);
        }
    }

    fn ends_in(&mut self, millis: std::ops::Range<u64>, at: usize, end: End) {
        let wait = Duration::from_millis(self.dice.random_range(millis));
        self.ends.push((Instant::now() + wait, at, end));
    }

    async fn outage(&mut self, server: &mut Server, mode: StopMode) -> Result<(), LabError> {
        server.stop(mode).await?;
        sleep(Duration::from_millis(self.dice.random_range(0..3_000))).await;
        server.start_again().await
    }

    fn trouble(&mut self, kind: &str, sqlstate: &str) -> String {
        let commits = ["purge_runs", "purge_run_steps"];
        let table = match kind {
            "commit" => commits[self.dice.random_range(0..commits.len())],
            _ => TABLES[self.dice.random_range(0..TABLES.len())],
        };
        let org = if self.dice.random_bool(0.5) {
            format!("'{}'", self.organization())
        } else {
            "NULL".to_owned()
        };
        let seconds = self.dice.random_range(0.02..0.4);
        let lasts = self.dice.random_range(0.5..6.0);
        format!(
            "-- chaos.trouble
             INSERT INTO chaos.trouble (table_name, kind, org_id, sqlstate, seconds, until)
             VALUES ('{table}', '{kind}', {org}, '{sqlstate}', {seconds}, clock_timestamp() + make_interval(secs => {lasts}))"
        )
    }

    fn organization(&mut self) -> Uuid {
        self.organizations[self.dice.random_range(0..self.organizations.len())]
    }

    /// Starts a long transaction of the main app that locks rows a purge needs.
    fn hold_locks(&mut self) {
        let (database, org) = (self.database.clone(), self.organization());
        let sql = LOCKS[self.dice.random_range(0..LOCKS.len())];
        let lasts = Duration::from_millis(self.dice.random_range(500..6_000));
        let hold = async move {
            let mut conn = database.connect().await?;
            let mut tx = conn.begin().await?;
            sqlx::query(sql).bind(org).execute(&mut *tx).await?;
            sleep(lasts).await;
            tx.rollback().await
        };
        let holder = tokio::spawn(async move { drop::<sqlx::Result<()>>(hold.await) });
        self.lock_holders.push(AbortOnDropHandle::new(holder));
    }

    /// Returns `false` if the server does not run the statement.
    async fn sql(&self, sql: String) -> bool {
        let done = async {
            let mut conn = self.database.connect().await?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await
        };
        match done.await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "a fault could not be injected");
                false
            }
        }
    }
}

const LOCKS: &[&str] = &[
    "-- chaos.hold_checks
     SELECT FROM public.drift_checks WHERE org_id = $1 ORDER BY random() LIMIT 40 FOR UPDATE",
    "-- chaos.hold_flags
     SELECT FROM public.workflow_drift_flags f JOIN public.drift_checks c ON c.id = f.check_id
     WHERE c.org_id = $1 ORDER BY random() LIMIT 20 FOR UPDATE OF f",
    "-- chaos.hold_incidents
     SELECT FROM public.incidents WHERE org_id = $1 ORDER BY random() LIMIT 20 FOR UPDATE",
    "-- chaos.hold_payloads
     SELECT FROM public.incident_payloads p JOIN public.incidents i ON i.id = p.incident_id
     WHERE i.org_id = $1 ORDER BY random() LIMIT 20 FOR UPDATE OF p",
    "-- chaos.hold_approvals
     SELECT FROM public.approvals WHERE org_id = $1 ORDER BY random() LIMIT 40 FOR UPDATE",
    "-- chaos.hold_plan
     SELECT FROM public.organizations WHERE id = $1 FOR UPDATE",
    "-- chaos.hold_run
     SELECT FROM retention.purge_runs WHERE org_id = $1 AND status IN ('queued', 'running', 'retrying') FOR UPDATE",
];

/// A foreign key leads from jobs to workers, so jobs are unlocked before workers are deleted.
const FORGET_WORKERS: &str = "-- chaos.forget_workers
    BEGIN;
    UPDATE apalis.jobs SET lock_by = NULL, lock_at = NULL WHERE lock_by IS NOT NULL;
    DELETE FROM apalis.workers;
    COMMIT";

fn end_backends(limit: u32) -> String {
    format!(
        "-- chaos.end_backends
         SELECT pg_terminate_backend(pid) FROM (
             SELECT pid FROM pg_stat_activity WHERE usename = '{PRODUCT}' ORDER BY random() LIMIT {limit}) AS backends"
    )
}

/// The product chooses the names of its workers and never uses one twice, so no process can take a dead worker's name.
/// This update has the same effect as such a process: the dead worker's jobs look alive for a while.
fn keep_alive(pid: i32) -> String {
    format!(
        "-- chaos.keep_alive
         UPDATE apalis.workers SET last_seen = clock_timestamp() + interval '4 seconds' WHERE id LIKE '%:{pid}:%'"
    )
}

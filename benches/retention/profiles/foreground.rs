//! *foreground*: what the main app feels while a purge runs beside it.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::memory;
use crate::{
    Bench,
    contestants::{Contestant, Worker},
    main_app::{CONNECTIONS, MainApp, Operation, RATE},
    measures::{Series, float, quantile},
    plot::{Kind, Plot},
    report::{Bound, Section, Table, Target, head},
    seed::Seed,
    server::{Cache, Copy},
    sql, verify,
};

/// At full scale: a quarter of *loaded*.
const ORGANIZATIONS: u64 = 250;
/// The main app runs for so long before anything counts.
const SETTLE: Duration = Duration::from_secs(3);
/// A machine that others share is slower for some seconds and faster for some. So the purge is stopped and goes on in turns
/// of so long, and what the main app feels with it and without it is felt at the same time.
const TURN: Duration = Duration::from_secs(5);
/// A worker that starts opens its sessions and makes its plans. A purge has one such start, which counts as part of it;
/// those of the further turns are the measurement's own.
const RESTART: Duration = Duration::from_secs(1);
/// How often it is looked whether the purge is done, and whether autovacuum is at work.
const LOOK: Duration = Duration::from_millis(100);

/// What was measured of one condition, by round.
#[derive(Default)]
struct Felt {
    name: String,
    seconds: Series,
    operations: Series,
    median: Series,
    p99: Series,
    worst: Series,
    memory: Series,
}

/// Spans of time, none of which overlaps another.
type Spans = Vec<Range<Instant>>;

/// When what was at work on one copy.
#[derive(Default)]
struct Turns {
    restarting: Spans,
    purging: Spans,
    resting: Spans,
}

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let organizations = bench.scaled(ORGANIZATIONS);
    let seed = Seed::loaded(organizations);
    seed.plant(&bench.server).await?;
    let names = ["no purge", "ours", "ours, restarting", "set-based bound"];
    let [mut quiet, mut ours, mut restart, mut bound] = names.map(Felt::of);
    for _ in 0..bench.many_rounds() {
        let (operations, turns, held) = beside_ours(bench, &seed).await.context("beside ours")?;
        quiet.take_in(&operations, &turns.resting);
        ours.take_in(&operations, &turns.purging);
        restart.take_in(&operations, &turns.restarting);
        ours.memory.0.push(float(held) / 1024.0);
        beside_bound(bench, &seed, &mut bound)
            .await
            .context("beside the bound")?;
    }
    if !bench.args.keep {
        bench.server.drop(&seed.database).await?;
    }
    Ok(section(organizations, &[&quiet, &ours, &restart, &bound]))
}

/// The worker, started and stopped in turns until nothing is left to do: everything that the main app did, when, and
/// the most memory that a worker held, in KiB.
async fn beside_ours(bench: &Bench, seed: &Seed) -> Result<(Vec<Operation>, Turns, u64)> {
    let copy = bench
        .server
        .copy(&seed.database, "copy", Cache::Warm)
        .await?;
    bench.ours().prepare(&copy).await?;
    let app = Watched::begin(&copy).await?;
    let (mut turns, mut held) = (Turns::default(), 0);
    loop {
        let from = Instant::now();
        let mut worker = Worker::spawn(&bench.args.binary, &copy.url, &[])?;
        let over = timeout(TURN, worker.finish(&copy.pool, LOOK)).await;
        let until = Instant::now();
        if turns.purging.is_empty() {
            turns.purging.push(from..until);
        } else {
            let started = until.min(from + RESTART);
            turns.restarting.push(from..started);
            turns.purging.push(started..until);
        }
        held = worker.usage()?.0.max(held);
        worker.stop().await?;
        until_its_sessions_are_gone(&copy).await?;
        rest(&copy, &mut turns).await?;
        if let Ok(over) = over {
            over?;
            break;
        }
    }
    let operations = app.end().await?;
    verify::check_nothing_due(&copy.pool).await?;
    leave(bench, copy).await?;
    Ok((operations, turns, held))
}

/// A session's process lets go of all the memory that it has seen, and takes a while for that.
async fn until_its_sessions_are_gone(copy: &Copy) -> Result<()> {
    let are_there = "-- bench.foreground.its_sessions
        SELECT EXISTS (SELECT FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name = 'drift-retention')";
    while sql::value::<bool>(&copy.pool, are_there).await? {
        sleep(LOOK).await;
    }
    Ok(())
}

/// One turn without the purge. While autovacuum tidies up after it, the purge is still felt.
async fn rest(copy: &Copy, turns: &mut Turns) -> Result<()> {
    let until = Instant::now() + TURN;
    let mut from = Instant::now();
    while from < until {
        let vacuuming: bool = sql::value(
            &copy.pool,
            "-- bench.foreground.vacuuming
             SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE datname = current_database())",
        )
        .await?;
        sleep(LOOK).await;
        let now = Instant::now();
        if vacuuming {
            &mut turns.purging
        } else {
            &mut turns.resting
        }
        .push(from..now);
        from = now;
    }
    Ok(())
}

async fn beside_bound(bench: &Bench, seed: &Seed, felt: &mut Felt) -> Result<()> {
    let copy = bench
        .server
        .copy(&seed.database, "copy", Cache::Warm)
        .await?;
    let app = Watched::begin(&copy).await?;
    let from = Instant::now();
    let wall = Contestant::Bound.work(&copy).await?.wall;
    let operations = app.end().await?;
    verify::check_nothing_due(&copy.pool).await?;
    leave(bench, copy).await?;
    felt.take_in(&operations, &[from..from + wall]);
    Ok(())
}

async fn leave(bench: &Bench, copy: Copy) -> Result<()> {
    copy.pool.close().await;
    bench.server.drop("copy").await
}

/// The main app at work on a copy.
struct Watched {
    stop: watch::Sender<bool>,
    app: JoinHandle<Result<Vec<Operation>>>,
}

impl Watched {
    /// Starts it, and lets it settle.
    async fn begin(copy: &Copy) -> Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let app = tokio::spawn(MainApp::open(&copy.url).await?.work(stopping));
        sleep(SETTLE).await;
        Ok(Self { stop, app })
    }

    /// Everything that it did.
    async fn end(self) -> Result<Vec<Operation>> {
        self.stop.send(true)?;
        self.app.await?
    }
}

impl Felt {
    fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// One round: what was due within these spans.
    fn take_in(&mut self, operations: &[Operation], spans: &[Range<Instant>]) {
        if spans.is_empty() {
            println!("{}: not in this round", self.name);
            return self.push([f64::NAN; 5]);
        }
        let seconds: f64 = spans
            .iter()
            .map(|span| (span.end - span.start).as_secs_f64())
            .sum();
        let mut latencies: Vec<f64> = operations
            .iter()
            .filter(|done| spans.iter().any(|span| span.contains(&done.due)))
            .map(|done| done.latency.as_secs_f64() * 1000.0)
            .collect();
        latencies.sort_by(f64::total_cmp);
        let p99 = quantile(&latencies, 0.99);
        println!(
            "{}: {} operations in {seconds:.1} s, p99 {p99:.2} ms",
            self.name,
            latencies.len()
        );
        self.push([
            seconds,
            float(latencies.len() as u64),
            quantile(&latencies, 0.5),
            p99,
            quantile(&latencies, 1.0),
        ]);
    }

    fn push(&mut self, [seconds, operations, median, p99, worst]: [f64; 5]) {
        self.seconds.0.push(seconds);
        self.operations.0.push(operations);
        self.median.0.push(median);
        self.p99.0.push(p99);
        self.worst.0.push(worst);
    }
}

fn section(organizations: u64, conditions: &[&Felt; 4]) -> Section {
    let [quiet, ours, _, bound] = conditions;
    let mut rows = vec![head(&[
        "",
        "Seconds",
        "Operations",
        "Median, ms",
        "p99, ms",
        "Worst, ms",
        "p99 ÷ p99 without a purge",
    ])];
    for felt in conditions {
        rows.push(vec![
            felt.name.clone(),
            felt.seconds.show(),
            felt.operations.show(),
            felt.median.show(),
            felt.p99.show(),
            felt.worst.show(),
            felt.p99.by(&quiet.p99).show(),
        ]);
    }
    let bars = |of: fn(&Felt) -> &Series| {
        conditions
            .iter()
            .map(|felt| (felt.name.clone(), of(felt).clone()))
            .collect()
    };
    Section {
        title: "foreground: what the main app feels".to_owned(),
        about: vec![format!(
            "Copies of a smaller *loaded*, {organizations} organizations. The main app does {RATE} operations a second on {CONNECTIONS} \
             connections, at fixed times whatever the answers take: it writes checks with five flags, reads an environment's newest \
             check, lists incidents, writes payloads and closes incidents. A latency counts from when the operation was due. Our \
             worker is stopped after {} seconds, started again after as many, until everything is purged: what is felt with it and \
             without it is felt in turns, on the same copy. An operation that was due while autovacuum was at work there counts as \
             beside the purge, whose rows it takes away; one that was due while the worker and its sessions ended does not count. A purge has \
             one start of a worker, which counts; the first {} s of the further turns stand by themselves. {} rounds.",
            TURN.as_secs(),
            RESTART.as_secs(),
            quiet.p99.0.len()
        )],
        tables: vec![Table(rows)],
        targets: vec![
            Target {
                what: "p99 with ours ÷ without a purge".to_owned(),
                measured: ours.p99.by(&quiet.p99),
                bound: Bound::AtMost(1.3),
            },
            memory(ours.memory.clone()),
        ],
        plots: vec![Plot {
            file: "foreground".to_owned(),
            title: format!("foreground: latency of {RATE} operations a second"),
            y: "milliseconds".to_owned(),
            kind: Kind::Bars(vec![
                ("median".to_owned(), bars(|felt| &felt.median)),
                ("p99".to_owned(), bars(|felt| &felt.p99)),
            ]),
        }],
    }
    .with_note(bound)
}

impl Section {
    /// The bound is no way to purge beside a main app, short as it is.
    fn with_note(mut self, bound: &Felt) -> Self {
        self.about.push(format!(
            "The bound holds the rows that it deletes until its statement ends, {:.1} s in all, and asks nobody.",
            bound.seconds.median()
        ));
        self
    }
}

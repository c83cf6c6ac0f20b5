//! *processes*: several worker processes on one Postgres.

use std::{fs, time::Instant};

use anyhow::{Context, Result};
use sqlx::PgPool;

use super::loaded::seed;
use crate::{
    Bench,
    contestants::{POLL, Worker, enqueue},
    measures::{Series, count, float},
    plot::{Kind, Plot},
    report::{Section, Table, head},
    seed::Seed,
    server::Cache,
    sql,
    verify::Expected,
};

/// So many at most.
const MOST: usize = 3;
/// One batch at a time in each: what is added is processes.
const ALONE: (&str, &str) = ("DRIFT_RETENTION_WORKER__CONCURRENCY", "1");

/// What was measured of so many processes, by round.
#[derive(Default)]
struct Side {
    seconds: Series,
    /// The machine's processors at work, in percent.
    busy: Series,
    /// What of that the workers took.
    workers: Series,
    /// The least that one of them purged, in percent of an even share.
    least: Series,
}

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let seed = seed(bench);
    seed.plant(&bench.server).await?;
    let expected = Expected::of(&bench.server.url(&seed.database)).await?;
    let mut sides: Vec<Side> = (0..MOST).map(|_| Side::default()).collect();
    for round in 0..bench.rounds() {
        for turn in 0..MOST {
            let processes = (turn + round) % MOST;
            let side = &mut sides[processes];
            purge(bench, &seed, &expected, processes + 1, side)
                .await
                .with_context(|| format!("{} processes", processes + 1))?;
        }
    }
    if !bench.args.keep {
        bench.server.drop(&seed.database).await?;
    }
    Ok(section(bench, &sides))
}

/// So many workers on a fresh copy.
async fn purge(
    bench: &Bench,
    seed: &Seed,
    expected: &Expected,
    processes: usize,
    side: &mut Side,
) -> Result<()> {
    let copy = bench
        .server
        .copy(&seed.database, "copy", Cache::Warm)
        .await?;
    enqueue(&copy.pool, None).await?;
    let (began, before) = (Instant::now(), processor()?);
    let mut workers = Vec::with_capacity(processes);
    for _ in 0..processes {
        workers.push(Worker::spawn(&bench.args.binary, &copy.url, &[ALONE])?);
    }
    workers[0].finish(&copy.pool, POLL).await?;
    let (took, after) = (began.elapsed().as_secs_f64(), processor()?);
    let total = after.1 - before.1;
    let mut cpu = 0.0;
    for worker in workers {
        cpu += worker.usage()?.1.as_secs_f64();
        worker.stop().await?;
    }
    expected.check(&copy.pool).await?;
    expected.check_records(&copy.pool).await?;
    println!("{processes} processes took {took:.2} s");
    side.seconds.0.push(took);
    side.busy.0.push(100.0 * (after.0 - before.0) / total);
    side.workers
        .0
        .push(100.0 * cpu / (took * float(bench.cores as u64)));
    side.least.0.push(least_share(&copy.pool, processes).await?);
    copy.pool.close().await;
    bench.server.drop("copy").await
}

/// How far behind an even share the process with the fewest runs is.
async fn least_share(pool: &PgPool, processes: usize) -> Result<f64> {
    let runs: Vec<i64> = sql::value(
        pool,
        "SELECT array_agg(runs) FROM (
             SELECT count(*) AS runs FROM retention.purge_runs
             GROUP BY (string_to_array(worker, ':'))[1:3]) by_process",
    )
    .await?;
    let total = float(u64::try_from(runs.iter().sum::<i64>())?);
    let least = if runs.len() < processes {
        0
    } else {
        runs.iter().copied().min().unwrap_or(0)
    };
    let share = total / float(processes as u64);
    Ok(100.0 * float(u64::try_from(least)?) / share)
}

/// Ticks of all processors so far: those at work, and all.
fn processor() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    let all: f64 = ticks.iter().sum();
    // Idle, and waiting for the disk.
    let resting: f64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - resting, all))
}

fn section(bench: &Bench, sides: &[Side]) -> Section {
    let runs = float(bench.scaled(super::loaded::ORGANIZATIONS));
    let mut rows = vec![head(&[
        "Processes",
        "Seconds",
        "Runs/s",
        "Times one process",
        "Processors at work, %",
        "Of these the workers, %",
        "Least share, % of an even one",
    ])];
    for (more, side) in sides.iter().enumerate() {
        rows.push(vec![
            count(more as u64 + 1),
            side.seconds.show(),
            side.seconds.map(|seconds| runs / seconds).show(),
            sides[0].seconds.by(&side.seconds).show(),
            side.busy.show(),
            side.workers.show(),
            side.least.show(),
        ]);
    }
    let bars = sides.iter().enumerate().map(|(more, side)| {
        let rate = side.seconds.map(|seconds| runs / seconds);
        (count(more as u64 + 1), rate)
    });
    Section {
        title: "processes: several workers on one Postgres".to_owned(),
        about: vec![
            "The profile *loaded* again, purged by one, two and three worker processes with `worker.concurrency = 1` each. They \
             share the machine with Postgres: once its processors are all at work, another process adds nothing."
                .to_owned(),
        ],
        tables: vec![Table(rows)],
        targets: Vec::new(),
        plots: vec![Plot {
            file: "processes".to_owned(),
            title: "processes: runs a second".to_owned(),
            y: "runs/s".to_owned(),
            kind: Kind::Bars(vec![(String::new(), bars.collect())]),
        }],
    }
}

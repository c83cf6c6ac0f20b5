//! *huge*: one organization with millions of expired checks, first in line, beside many small ones.

use std::time::Duration;

use anyhow::{Result, bail};
use sqlx::{PgPool, Row};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::memory;
use crate::{
    Bench,
    contestants::{POLL, Worker, enqueue},
    measures::{Series, count, float},
    plot::{Kind, Plot},
    report::{Bound, Section, Table, Target, head},
    seed::Seed,
    server::Cache,
    sql,
    verify::Expected,
};

/// At full scale.
const EXPIRED: u64 = 5_000_000;
const SMALL: u64 = 2_000;
const SAMPLE: Duration = Duration::from_millis(200);

/// How far the huge run was: at a second since the start so many rows and batches.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: f64,
    rows: f64,
    batches: f64,
}

/// One purge.
struct Purge {
    /// Seconds until the last of the small ones was done.
    small: f64,
    /// Until all was.
    all: f64,
    memory: f64,
    /// Of the huge run, from when it was alone.
    alone: Vec<Sample>,
    samples: Vec<Sample>,
}

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let (expired, small) = (bench.scaled(EXPIRED), bench.scaled(SMALL));
    let seed = Seed::huge(expired, small);
    let (mut purges, mut bare) = (Vec::new(), Vec::new());
    seed.plant(&bench.server).await?;
    let expected = Expected::of(&bench.server.url(&seed.database)).await?;
    for round in 0..bench.many_rounds() {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                purges.push(purge(bench, &seed, Some(&expected)).await?);
            } else {
                bare.push(purge(bench, &seed, None).await?);
            }
        }
    }
    bench.server.drop(&seed.database).await?;
    Ok(section(expired, small, &purges, &bare))
}

/// What is `expected` when all have been purged; none: the huge one is not asked for, and its rows lie there all the same.
async fn purge(bench: &Bench, seed: &Seed, expected: Option<&Expected>) -> Result<Purge> {
    let copy = bench
        .server
        .copy(&seed.database, "copy", Cache::Warm)
        .await?;
    let huge: Option<Uuid> = sql::value(
        &copy.pool,
        "SELECT (SELECT id FROM public.organizations WHERE name = 'Huge')",
    )
    .await?;
    enqueue(&copy.pool, huge).await?;
    if expected.is_none() {
        sql::run(&copy.pool, FORGET_HUGE).await?;
    }
    let began: f64 = sql::value(&copy.pool, NOW).await?;
    let mut worker = Worker::spawn(&bench.args.binary, &copy.url, &[])?;
    let watcher = AbortOnDropHandle::new(tokio::spawn(sample(copy.pool.clone(), began)));
    worker.finish(&copy.pool, POLL).await?;
    let samples = watcher.await??;
    let (kib, _) = worker.usage()?;
    worker.stop().await?;
    let done = |which: &str| {
        format!(
        "SELECT extract(epoch FROM max(finished_at))::float8 FROM retention.purge_runs r
         WHERE EXISTS (SELECT FROM public.organizations o WHERE o.id = r.org_id AND o.name {which} 'Huge')"
    )
    };
    let small = sql::value::<f64>(&copy.pool, &done("<>")).await? - began;
    let all = sql::value::<Option<f64>>(&copy.pool, &done("=")).await?;
    let all = all.map_or(small, |at| at - began).max(small);
    if let Some(expected) = expected {
        expected.check(&copy.pool).await?;
        expected.check_records(&copy.pool).await?;
    } else if !sql::value::<bool>(&copy.pool, SMALL_ARE_DONE).await? {
        bail!("of the small ones other than the newest checks are left");
    }
    copy.pool.close().await;
    bench.server.drop("copy").await?;
    println!(
        "{}, the huge one {}: the small ones took {small:.2} s, all {all:.2} s",
        seed.database,
        if expected.is_some() {
            "asked for"
        } else {
            "left alone"
        }
    );
    Ok(Purge {
        small,
        all,
        memory: float(kib) / 1024.0,
        alone: alone(&samples, small),
        samples,
    })
}

/// As if nobody had asked for it.
const FORGET_HUGE: &str = "-- bench.huge.forget
WITH run AS (
    DELETE FROM retention.purge_runs WHERE org_id = (SELECT id FROM public.organizations WHERE name = 'Huge')
    RETURNING delivery_id
)
DELETE FROM apalis.jobs WHERE id IN (SELECT delivery_id FROM run)";

/// Every environment has one check that has not expired.
const SMALL_ARE_DONE: &str = "-- bench.huge.small_are_done
SELECT (SELECT count(*) FROM public.drift_checks c JOIN public.organizations o ON o.id = c.org_id WHERE o.name <> 'Huge')
     = (SELECT count(*) FROM public.environments e JOIN public.organizations o ON o.id = e.org_id WHERE o.name <> 'Huge')";

const NOW: &str = "SELECT extract(epoch FROM clock_timestamp())::float8";

/// Looks at the huge run until no run is live.
async fn sample(pool: PgPool, began: f64) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    loop {
        let found = sql::rows(
            &pool,
            "-- bench.huge.sample
             SELECT extract(epoch FROM clock_timestamp())::float8, s.rows_purged::float8, s.batches::float8,
                    r.status IN ('queued', 'running', 'retrying')
             FROM public.organizations o JOIN retention.purge_runs r ON r.org_id = o.id
             JOIN retention.purge_run_steps s ON s.run_id = r.id AND s.table_name = 'drift_checks'
             WHERE o.name = 'Huge'",
        )
        .await?;
        if let Some(row) = found.first() {
            samples.push(Sample {
                at: row.try_get::<f64, _>(0)? - began,
                rows: row.try_get(1)?,
                batches: row.try_get(2)?,
            });
        }
        let live: bool = sql::value(
            &pool,
            "SELECT EXISTS (SELECT FROM retention.purge_runs WHERE status IN ('queued', 'running', 'retrying'))",
        )
        .await?;
        if !live {
            return Ok(samples);
        }
        sleep(SAMPLE).await;
    }
}

/// The samples from when the small ones were done; all of them, where most of the rows went before that.
fn alone(samples: &[Sample], small: f64) -> Vec<Sample> {
    let after: Vec<Sample> = samples
        .iter()
        .filter(|sample| sample.at >= small)
        .copied()
        .collect();
    let rows = |samples: &[Sample]| match (samples.first(), samples.last()) {
        (Some(first), Some(last)) => last.rows - first.rows,
        _ => 0.0,
    };
    if rows(&after) < rows(samples) / 2.0 {
        samples.to_vec()
    } else {
        after
    }
}

/// Milliseconds that a batch took, and rows in a second, in the tenth of the rows that begins at `share`.
fn decile(samples: &[Sample], share: f64) -> Option<(f64, f64)> {
    let (first, last) = (samples.first()?, samples.last()?);
    let at = |share: f64| {
        let rows = first.rows + (last.rows - first.rows) * share;
        let after = samples.iter().position(|sample| sample.rows >= rows)?;
        let (a, b) = (samples[after.saturating_sub(1)], samples[after]);
        let part = if b.rows > a.rows {
            (rows - a.rows) / (b.rows - a.rows)
        } else {
            0.0
        };
        Some((
            a.at + (b.at - a.at) * part,
            rows,
            a.batches + (b.batches - a.batches) * part,
        ))
    };
    let (from, to) = (at(share)?, at(share + 0.1)?);
    let (seconds, rows, batches) = (to.0 - from.0, to.1 - from.1, to.2 - from.2);
    Some((seconds * 1000.0 / batches, rows / seconds))
}

fn section(expired: u64, small: u64, with: &[Purge], without: &[Purge]) -> Section {
    let series =
        |purges: &[Purge], of: fn(&Purge) -> f64| purges.iter().map(of).collect::<Series>();
    let deciles = |share: f64, of: fn((f64, f64)) -> f64| {
        with.iter()
            .filter_map(|purge| decile(&purge.alone, share).map(of))
            .collect::<Series>()
    };
    let (first, last) = (deciles(0.0, |(ms, _)| ms), deciles(0.9, |(ms, _)| ms));
    let (small_with, small_without) = (
        series(with, |purge| purge.small),
        series(without, |purge| purge.small),
    );
    let line = |purge: &Purge| {
        purge
            .samples
            .iter()
            .map(|sample| (sample.at, sample.rows))
            .collect()
    };
    let mut held = series(with, |purge| purge.memory);
    held.0.extend(series(without, |purge| purge.memory).0);
    Section {
        title: "huge: one large organization beside small ones".to_owned(),
        about: vec![format!(
            "One organization with {} expired checks (without flags), first in line, beside {} small ones with 100 expired checks, \
             200 flags and 10 payloads each, all in the same slot; and the same small ones in the same database, where nobody asked for \
             the huge one's run. Batches of the huge one \
             are looked at from when the small ones are done (all of them, if most were over by then), by tenths of the rows: its \
             run's own counts, read five times a second. {} rounds.",
            count(expired),
            count(small),
            with.len()
        )],
        tables: vec![Table(vec![
            head(&["", "Beside the huge run", "Without it"]),
            vec![
                "until the small ones were done, s".to_owned(),
                small_with.show(),
                small_without.show(),
            ],
            vec![
                "until all were done, s".to_owned(),
                series(with, |purge| purge.all).show(),
                "–".to_owned(),
            ],
            vec![
                "a batch in the first tenth, ms".to_owned(),
                first.show(),
                "–".to_owned(),
            ],
            vec![
                "a batch in the last tenth, ms".to_owned(),
                last.show(),
                "–".to_owned(),
            ],
            vec![
                "rows/s in the first tenth".to_owned(),
                deciles(0.0, |(_, rate)| rate).show(),
                "–".to_owned(),
            ],
            vec![
                "rows/s in the last tenth".to_owned(),
                deciles(0.9, |(_, rate)| rate).show(),
                "–".to_owned(),
            ],
        ])],
        targets: vec![
            Target {
                what: "small ones' time, beside the huge run ÷ without it".to_owned(),
                measured: small_with.by(&small_without),
                bound: Bound::AtMost(1.2),
            },
            Target {
                what: "a batch's time, last tenth ÷ first".to_owned(),
                measured: last.by(&first),
                bound: Bound::AtMost(1.2),
            },
            memory(held),
        ],
        plots: vec![Plot {
            file: "huge".to_owned(),
            title: "huge: checks gone of the huge organization".to_owned(),
            y: "rows".to_owned(),
            kind: Kind::Lines {
                x: "seconds since the worker's start".to_owned(),
                doubling: false,
                lines: with
                    .iter()
                    .enumerate()
                    .map(|(round, purge)| (format!("round {}", round + 1), line(purge)))
                    .collect(),
            },
        }],
    }
}

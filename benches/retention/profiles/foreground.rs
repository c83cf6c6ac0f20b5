//! *foreground*: what the main app feels while a purge runs beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::{sync::watch, time::sleep};

use super::{loaded::seed, memory};
use crate::{
    Bench,
    contestants::{Contestant, Outcome},
    main_app::{CONNECTIONS, MainApp, RATE},
    measures::{Series, float, quantile},
    plot::{Kind, Plot},
    report::{Bound, Section, Table, Target, head},
    seed::Seed,
    verify,
};

/// The main app runs for so long before anything counts.
const SETTLE: Duration = Duration::from_secs(3);
/// How long it is watched where nothing is purged.
const QUIET: Duration = Duration::from_secs(30);

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

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let seed = seed(bench);
    seed.plant(&bench.server).await?;
    let mut conditions = [
        (None, felt("no purge")),
        (Some(bench.ours()), felt("ours")),
        (Some(Contestant::Bound), felt("set-based bound")),
    ];
    for round in 0..bench.args.rounds {
        for turn in 0..conditions.len() {
            let (who, felt) = &mut conditions[(turn + round) % 3];
            watch_main_app(bench, &seed, who.as_ref(), felt)
                .await
                .with_context(|| felt.name.clone())?;
        }
    }
    if !bench.args.keep {
        bench.server.drop(&seed.database).await?;
    }
    let [(_, quiet), (_, ours), (_, bound)] = conditions;
    Ok(section(&[&quiet, &ours, &bound]))
}

fn felt(name: &str) -> Felt {
    Felt {
        name: name.to_owned(),
        ..Felt::default()
    }
}

/// One condition on a fresh copy: only what was due while the purge ran counts.
async fn watch_main_app(
    bench: &Bench,
    seed: &Seed,
    who: Option<&Contestant>,
    felt: &mut Felt,
) -> Result<()> {
    let copy = bench.server.copy(&seed.database, "copy").await?;
    if let Some(who) = who {
        who.prepare(&copy).await?;
    }
    let (stop, stopping) = watch::channel(false);
    let app = tokio::spawn(MainApp::open(&copy.url).await?.work(stopping));
    sleep(SETTLE).await;
    let from = Instant::now();
    let outcome = if let Some(who) = who {
        who.work(&copy).await?
    } else {
        sleep(QUIET).await;
        Outcome::default()
    };
    // Until the last run was over: ours stops its worker after that.
    let took = if who.is_some() { outcome.wall } else { QUIET };
    stop.send(true)?;
    let operations = app.await??;
    let meanwhile = operations
        .iter()
        .filter(|done| done.due >= from && done.due < from + took);
    let mut latencies: Vec<f64> = meanwhile
        .map(|done| done.latency.as_secs_f64() * 1000.0)
        .collect();
    latencies.sort_by(f64::total_cmp);
    if who.is_some() {
        verify::check_nothing_due(&copy.pool).await?;
    }
    copy.pool.close().await;
    bench.server.drop("copy").await?;
    let p99 = quantile(&latencies, 0.99);
    println!(
        "{}: {} operations in {:.1} s, p99 {p99:.2} ms",
        felt.name,
        latencies.len(),
        took.as_secs_f64()
    );
    felt.seconds.0.push(took.as_secs_f64());
    felt.operations.0.push(float(latencies.len() as u64));
    felt.median.0.push(quantile(&latencies, 0.5));
    felt.p99.0.push(p99);
    felt.worst.0.push(quantile(&latencies, 1.0));
    felt.memory
        .0
        .extend(outcome.memory_kib.map(|kib| float(kib) / 1024.0));
    Ok(())
}

fn section(conditions: &[&Felt; 3]) -> Section {
    let [quiet, ours, bound] = conditions;
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
            "Copies of *loaded*. The main app does {RATE} operations a second on {CONNECTIONS} connections, at fixed times whatever the \
             answers take: it writes checks with five flags, reads an environment's newest check, lists incidents, writes payloads \
             and closes incidents. A latency counts from when the operation was due. Only operations that were due while the \
             purge ran count; without a purge, half a minute."
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

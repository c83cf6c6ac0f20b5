//! Contestants side by side on copies of one seeded database: they take turns within each round, and each must have
//! purged exactly the right rows.

use anyhow::{Context, Result};

use crate::{
    Bench,
    contestants::{Contestant, Outcome},
    measures::{Series, float},
    plot::{Kind, Plot},
    report::{Table, head},
    seed::Seed,
    server::Cache,
    verify::Expected,
};

/// What each contestant took in each round.
pub(crate) struct Comparison {
    /// What had to go.
    pub(crate) expected: Expected,
    outcomes: Vec<(Contestant, Vec<Outcome>)>,
}

impl Comparison {
    /// Ours beside the bound and the loop.
    pub(crate) async fn of_all(bench: &Bench, seed: &Seed) -> Result<Self> {
        let contestants = [bench.ours(), Contestant::Bound, Contestant::Loop];
        Self::run(bench, seed, &contestants, Cache::Warm).await
    }

    /// Seeds, and lets them purge.
    pub(crate) async fn run(
        bench: &Bench,
        seed: &Seed,
        contestants: &[Contestant],
        cache: Cache,
    ) -> Result<Self> {
        seed.plant(&bench.server).await?;
        let expected = Expected::of(&bench.server.url(&seed.database)).await?;
        let mut outcomes: Vec<(Contestant, Vec<Outcome>)> = contestants
            .iter()
            .map(|who| (who.clone(), Vec::new()))
            .collect();
        for round in 0..bench.rounds() {
            for turn in 0..outcomes.len() {
                let index = (turn + round) % contestants.len();
                let (who, done) = &mut outcomes[index];
                let outcome = purge(bench, seed, &expected, who, cache)
                    .await
                    .with_context(|| format!("{} on {}", who.name(), seed.database))?;
                println!(
                    "{}, round {}: {} took {:.2} s",
                    seed.database,
                    round + 1,
                    who.name(),
                    outcome.wall.as_secs_f64()
                );
                done.push(outcome);
            }
        }
        if !bench.args.keep {
            bench.server.drop(&seed.database).await?;
        }
        Ok(Self { expected, outcomes })
    }

    /// Seconds by round.
    pub(crate) fn wall(&self, who: &str) -> Series {
        self.of(who)
            .iter()
            .map(|outcome| outcome.wall.as_secs_f64())
            .collect()
    }

    /// Ours: mebibytes that the worker held at most.
    pub(crate) fn memory(&self) -> Series {
        let held = self
            .of("ours")
            .iter()
            .filter_map(|outcome| outcome.memory_kib);
        held.map(|kib| float(kib) / 1024.0).collect()
    }

    fn of(&self, who: &str) -> &[Outcome] {
        let found = self.outcomes.iter().find(|(known, _)| known.name() == who);
        found.map_or(&[], |(_, outcomes)| outcomes.as_slice())
    }

    /// One line for each; `per` is what a rate counts, with how many of them there are.
    pub(crate) fn table(&self, per: (&str, f64)) -> Table {
        let rate = format!("{}/s", per.0);
        let mut rows = vec![head(&[
            "",
            "Seconds",
            &rate,
            "WAL, MiB",
            "Worker's CPU, s",
            "Worker's memory, MiB",
            "Enqueueing, s",
        ])];
        for (who, outcomes) in &self.outcomes {
            let optional = |of: &dyn Fn(&Outcome) -> Option<f64>| {
                outcomes.iter().filter_map(of).collect::<Series>().show()
            };
            let wall = self.wall(who.name());
            rows.push(vec![
                who.name().to_owned(),
                wall.show(),
                wall.map(|seconds| per.1 / seconds).show(),
                outcomes
                    .iter()
                    .map(Outcome::wal_mib)
                    .collect::<Series>()
                    .show(),
                optional(&|outcome| Some(outcome.cpu?.as_secs_f64())),
                optional(&|outcome| Some(float(outcome.memory_kib?) / 1024.0)),
                optional(&|outcome| Some(outcome.enqueue?.as_secs_f64())),
            ]);
        }
        Table(rows)
    }

    /// Every contestant's seconds.
    pub(crate) fn plot(&self, profile: &str, title: &str) -> Plot {
        let names = self.outcomes.iter().map(|(who, _)| who.name());
        let bars = names.map(|name| (name.to_owned(), self.wall(name)));
        Plot {
            file: profile.to_owned(),
            title: format!("{profile}: {title}"),
            y: "seconds".to_owned(),
            kind: Kind::Bars(vec![(String::new(), bars.collect())]),
        }
    }
}

async fn purge(
    bench: &Bench,
    seed: &Seed,
    expected: &Expected,
    who: &Contestant,
    cache: Cache,
) -> Result<Outcome> {
    let copy = bench.server.copy(&seed.database, "copy", cache).await?;
    let outcome = who.purge(&copy).await?;
    expected.check(&copy.pool).await?;
    if matches!(who, Contestant::Ours(_) | Contestant::OursAll(_)) {
        expected.check_records(&copy.pool).await?;
    }
    copy.pool.close().await;
    bench.server.drop("copy").await?;
    Ok(outcome)
}

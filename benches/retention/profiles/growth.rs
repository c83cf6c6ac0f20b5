//! *growth*: what a row and an organization cost as the database grows.

use anyhow::Result;

use super::memory;
use crate::{
    Bench,
    compare::Comparison,
    contestants::Contestant,
    measures::{Series, count, float},
    plot::{Kind, Plot},
    report::{Bound, Section, Table, Target, head},
    scaled,
    seed::Seed,
    server::Cache,
};

const FACTORS: [u32; 3] = [1, 4, 16];
/// Of the full profiles.
const LOADED: u64 = 1_000;
const IDLE: u64 = 20_000;

/// One kind of growth: what each piece costs, size by size.
struct Growth {
    pieces: Vec<u64>,
    /// Microseconds a piece: ours, and the one that it is compared with.
    ours: Vec<Series>,
    other: Vec<Series>,
    memory: Series,
}

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let rows = grow(bench, LOADED, Seed::loaded, Contestant::Bound).await?;
    let organizations = grow(bench, IDLE, Seed::idle, Contestant::Loop).await?;
    let mut held = rows.memory.clone();
    held.0.extend(&organizations.memory.0);
    Ok(Section {
        title: "growth: ×1, ×4, ×16".to_owned(),
        about: vec![format!(
            "The profiles *loaded* and *idle* with {} and {} organizations, four and sixteen times as many. A row costs what the \
             whole purge took by the rows that went, an organization what a night with nothing due took by the organizations.",
            count(size(bench, LOADED, 1)),
            count(size(bench, IDLE, 1))
        )],
        tables: vec![
            rows.table("Rows that go", "a row, µs", "set-based bound"),
            organizations.table("Organizations", "an organization, µs", "plain loop"),
        ],
        targets: vec![
            rows.target("a row's cost, ×16 ÷ ×1"),
            organizations.target("an organization's cost, ×16 ÷ ×1"),
            memory(held),
        ],
        plots: vec![
            rows.plot("growth-rows", "growth: what a row costs", "set-based bound"),
            organizations.plot(
                "growth-organizations",
                "growth: what an organization with nothing due costs",
                "plain loop",
            ),
        ],
    })
}

fn size(bench: &Bench, full: u64, factor: u32) -> u64 {
    let base = scaled(full, bench.args.scale * bench.args.growth_scale);
    base * u64::from(factor)
}

async fn grow(
    bench: &Bench,
    full: u64,
    seed: fn(u64) -> Seed,
    other: Contestant,
) -> Result<Growth> {
    let contestants = [bench.ours(), other];
    let mut growth = Growth {
        pieces: Vec::new(),
        ours: Vec::new(),
        other: Vec::new(),
        memory: Series::default(),
    };
    for factor in FACTORS {
        let organizations = size(bench, full, factor);
        let found = Comparison::run(bench, &seed(organizations), &contestants, Cache::Warm).await?;
        let goes = found.expected.goes();
        let pieces = if goes > 0 { goes } else { organizations };
        let cost = |who: &str| found.wall(who).map(|seconds| seconds * 1e6 / float(pieces));
        growth.pieces.push(pieces);
        growth.ours.push(cost("ours"));
        growth.other.push(cost(contestants[1].name()));
        growth.memory.0.extend(found.memory().0);
    }
    Ok(growth)
}

impl Growth {
    fn table(&self, pieces: &str, cost: &str, other: &str) -> Table {
        let mut rows = vec![head(&[
            "",
            pieces,
            &format!("ours, {cost}"),
            &format!("{other}, {cost}"),
        ])];
        for (index, factor) in FACTORS.iter().enumerate() {
            rows.push(vec![
                format!("×{factor}"),
                count(self.pieces[index]),
                self.ours[index].show(),
                self.other[index].show(),
            ]);
        }
        Table(rows)
    }

    fn target(&self, what: &str) -> Target {
        Target {
            what: what.to_owned(),
            measured: self.ours[FACTORS.len() - 1].by(&self.ours[0]),
            bound: Bound::AtMost(1.2),
        }
    }

    fn plot(&self, file: &str, title: &str, other: &str) -> Plot {
        let line = |name: &str, costs: &[Series]| {
            let points = FACTORS
                .iter()
                .zip(costs)
                .map(|(factor, cost)| (f64::from(*factor), cost.median()));
            (name.to_owned(), points.collect())
        };
        Plot {
            file: file.to_owned(),
            title: title.to_owned(),
            y: "microseconds".to_owned(),
            kind: Kind::Lines {
                x: "size of the database, times the smallest".to_owned(),
                doubling: true,
                lines: vec![line("ours", &self.ours), line(other, &self.other)],
            },
        }
    }
}

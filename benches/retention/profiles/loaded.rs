//! *loaded*: half of everything is expired.

use anyhow::Result;

use super::memory;
use crate::{
    Bench,
    compare::Comparison,
    contestants::Contestant,
    measures::{count, float},
    report::{Bound, Section, Table, Target, head},
    seed::Seed,
    server::Cache,
    verify::{Expected, PURGED},
};

/// At full scale.
pub(super) const ORGANIZATIONS: u64 = 1_000;

/// The seeded database, at the bench's scale.
pub(crate) fn seed(bench: &Bench) -> Seed {
    Seed::loaded(bench.scaled(ORGANIZATIONS))
}

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let contestants = [
        bench.ours(),
        Contestant::Bound,
        Contestant::Loop,
        Contestant::TwoLoops,
    ];
    let found = Comparison::run(bench, &seed(bench), &contestants, Cache::Warm).await?;
    let (ours, bound, looped) = (
        found.wall("ours"),
        found.wall("set-based bound"),
        found.wall("plain loop"),
    );
    Ok(Section {
        title: "loaded: half of everything is expired".to_owned(),
        about: vec![
            format!(
                "{} organizations over the four plans with three environments each, the rows of all of them interleaved on \
                 disk as time wrote them. One organization in ten has a dormant environment, one in twenty a check dated in \
                 the future; some incidents are open, reopened, closed at an unknown time, without a payload, or with one \
                 that was written again after a purge; one approval in twenty is pending. The free plan has no rule for \
                 payloads and approvals, so of the other three plans two in three are expired. Payloads are 2 kB of text \
                 that does not compress.",
                count(bench.scaled(ORGANIZATIONS))
            ),
            "**Two plain loops** run at once, each with every other organization: what a second core brings them."
                .to_owned(),
        ],
        tables: vec![
            contents(&found.expected),
            found.table(("rows", float(found.expected.goes()))),
        ],
        targets: vec![
            Target {
                what: "ours ÷ set-based bound, time".to_owned(),
                measured: ours.by(&bound),
                bound: Bound::AtMost(1.0),
            },
            Target {
                what: "plain loop ÷ ours, time".to_owned(),
                measured: looped.by(&ours),
                bound: Bound::AtLeast(2.0),
            },
            memory(found.memory()),
        ],
        plots: vec![found.plot("loaded", "time to purge")],
    })
}

/// What is there, and what of it must go.
pub(crate) fn contents(expected: &Expected) -> Table {
    let mut rows = vec![head(&["Table", "Rows", "Expired and unprotected"])];
    rows.extend(PURGED.iter().map(|table| {
        let (there, goes) = expected.table(table);
        vec![format!("`{table}`"), count(there), count(goes)]
    }));
    Table(rows)
}

//! *idle*: nothing is due.

use anyhow::Result;

use super::{loaded::contents, memory};
use crate::{
    Bench,
    compare::Comparison,
    measures::{count, float},
    report::{Bound, Section, Target},
    seed::Seed,
};

/// At full scale.
pub(super) const ORGANIZATIONS: u64 = 20_000;

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let organizations = bench.scaled(ORGANIZATIONS);
    let found = Comparison::of_all(bench, &Seed::idle(organizations)).await?;
    let runs = float(organizations);
    let (ours, looped) = (found.wall("ours"), found.wall("plain loop"));
    Ok(Section {
        title: "idle: nothing is due".to_owned(),
        about: vec![format!(
            "{} organizations with two environments and a little of everything, none of it expired. One in ten is dormant: \
             the newest checks of its environments are long past the cutoff, and stay. The plain loop looks, and writes nothing; ours \
             leaves a record of each run and its steps.",
            count(organizations)
        )],
        tables: vec![
            contents(&found.expected),
            found.table(("organizations", runs)),
        ],
        targets: vec![
            Target {
                what: "ours, organizations/s".to_owned(),
                measured: ours.map(|seconds| runs / seconds),
                bound: Bound::AtLeast(5_000.0),
            },
            Target {
                what: "ours ÷ plain loop, organizations/s".to_owned(),
                measured: looped.by(&ours),
                bound: Bound::AtLeast(0.35),
            },
            memory(found.memory()),
        ],
        plots: vec![found.plot("idle", "time for a night with nothing due")],
    })
}

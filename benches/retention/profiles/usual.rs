//! *usual*: a day's rows are due of nearly everybody.

use anyhow::Result;

use super::{idle, loaded::contents, memory};
use crate::{
    Bench,
    compare::Comparison,
    measures::{count, float},
    report::{Bound, Section, Target},
    seed::Seed,
};

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let organizations = bench.scaled(idle::ORGANIZATIONS);
    let found = Comparison::of_all(bench, &Seed::usual(organizations)).await?;
    Ok(Section {
        title: "usual: a day's rows are due".to_owned(),
        about: vec![format!(
            "The {} organizations of *idle*, and of each environment that is not dormant five checks with their flags have expired since \
             the last night; one organization in five has incidents that have. Ours verifies each organization and leaves a record of \
             its run, with what went of each table.",
            count(organizations)
        )],
        tables: vec![
            contents(&found.expected),
            found.table(("organizations", float(organizations))),
        ],
        targets: vec![
            Target {
                what: "ours ÷ set-based bound, time".to_owned(),
                measured: found.wall("ours").by(&found.wall("set-based bound")),
                bound: Bound::AtMost(3.0),
            },
            memory(found.memory()),
        ],
        plots: vec![found.plot("usual", "time for a night with a day's rows due")],
    })
}

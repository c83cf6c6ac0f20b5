//! *usual*: a day's rows are due of nearly everybody.

use anyhow::Result;

use super::{loaded::contents, memory};
use crate::{
    Bench,
    compare::Comparison,
    contestants::Contestant,
    measures::{count, float},
    plot::{Kind, Plot},
    report::Section,
    seed::Seed,
};

/// At full scale.
const ORGANIZATIONS: u64 = 20_000;

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let organizations = bench.scaled(ORGANIZATIONS);
    let contestants = [bench.ours(), Contestant::Bound, Contestant::Loop];
    let found = Comparison::run(bench, &Seed::usual(organizations), &contestants).await?;
    Ok(Section {
        title: "usual: a day's rows are due".to_owned(),
        about: vec![format!(
            "The {} organizations of *idle*, and of each of their environments five checks with their flags have expired since the \
             last night; one organization in five has incidents that have. Ours verifies each organization and leaves a record of \
             its run, with what went of each table.",
            count(organizations)
        )],
        tables: vec![
            contents(&found.expected),
            found.table(("organizations", float(organizations))),
        ],
        targets: vec![memory(found.memory())],
        plots: vec![Plot {
            file: "usual".to_owned(),
            title: "usual: time for a night with a day's rows due".to_owned(),
            y: "seconds".to_owned(),
            kind: Kind::Bars(vec![(String::new(), found.bars())]),
        }],
    })
}

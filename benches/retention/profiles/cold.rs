//! *cold*: the data of *loaded*, on a copy that nobody has read.

use anyhow::Result;

use super::loaded::{contents, seed};
use crate::{
    Bench,
    compare::Comparison,
    contestants::Contestant,
    measures::{Series, float},
    report::{Bound, Section, Target},
    server::Cache,
};

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let contestants = [
        bench.ours(),
        bench.ours_all(),
        Contestant::Bound,
        Contestant::TwoLoops,
    ];
    let found = Comparison::run(bench, &seed(bench), &contestants, Cache::Cold).await?;
    let (bound, loops) = (found.wall("set-based bound"), found.wall("two plain loops"));
    let at_most = |what: &str, measured: Series, most| Target {
        what: what.to_owned(),
        measured,
        bound: Bound::AtMost(most),
    };
    let (slot, all) = (found.wall("ours"), found.wall("ours, purge --all"));
    Ok(Section {
        title: "cold: the data of *loaded*, which nobody has read".to_owned(),
        about: vec![
            "The copy is in no buffer of the server's, and autovacuum looks at it when it likes. **ours** works on the runs of a \
             slot. **ours, purge --all** is one process, `purge --all --work`: its time includes enqueueing."
                .to_owned(),
        ],
        tables: vec![
            contents(&found.expected),
            found.table(("rows", float(found.expected.goes()))),
        ],
        targets: vec![
            at_most("ours ÷ two plain loops, time", slot.by(&loops), 1.0),
            at_most("ours ÷ set-based bound, time", slot.by(&bound), 1.2),
            at_most("ours, purge --all ÷ two plain loops, time", all.by(&loops), 1.0),
            at_most("ours, purge --all ÷ set-based bound, time", all.by(&bound), 1.2),
        ],
        plots: vec![found.plot("cold", "time to purge")],
    })
}

//! What is measured, one file each.

pub(crate) mod cold;
pub(crate) mod foreground;
pub(crate) mod growth;
pub(crate) mod huge;
pub(crate) mod idle;
pub(crate) mod loaded;
pub(crate) mod nights;
pub(crate) mod processes;
pub(crate) mod usual;

use crate::{
    measures::Series,
    report::{Bound, Target},
};

/// In every profile: what the worker may hold.
fn memory(measured: Series) -> Target {
    Target {
        what: "worker's memory, MiB".to_owned(),
        measured,
        bound: Bound::AtMost(64.0),
    }
}

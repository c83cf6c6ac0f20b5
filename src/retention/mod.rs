//! Plan → windows → cutoffs. Pure, but for the resolver's one query.
//!
//! The table of plans stands in `plan.rs`; nothing else in the crate knows how long anything is kept.

mod plan;
mod policy;
mod resolver;

pub use plan::{Plan, UnknownPlan};
pub use policy::{Cutoff, Cutoffs, DatasetName, PerDataset, RetentionPolicy, Window};
pub use resolver::{ResolveError, resolve};

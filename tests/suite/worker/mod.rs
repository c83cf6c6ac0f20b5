//! The worker at work: claims, crashes, lost replies, contention, pacing, time slices, groups of runs, and stopping.

mod contention;
mod crashes;
#[cfg(feature = "chaos")]
mod fault_points;
mod idle_runs;
mod limits;
mod lost_replies;
mod pacing;
mod runs_together;
mod slices;
mod stopping;

//! The queue: the only room that knows apalis.
//!
//! An apalis job is one *delivery* of a run's id. apalis gives us the queue's schema, a fetch that skips locked jobs, workers
//! with heartbeats, and a drain. Retries, backoff, the cap on attempts and the slots of the schedule are ours
//! (`runs`, `scheduler`), so that apalis's own failure paths are never on our road.

mod consume;
mod fetch;
mod listen;
mod prune;

pub use consume::{ConsumerSettings, Verdict, WorkerIdentity, consume, sessions};
pub use fetch::{ack_and_fetch, acknowledge, others_wait};
pub use prune::{
    live_workers, prune, rescue_orphans, rescue_stranded, retire_workers, taken_deliveries,
    workers_alive,
};

/// The queue's name: `apalis.jobs.job_type` and `apalis.workers.worker_type`, as the migrations write it.
pub const QUEUE: &str = "drift-retention.purge";
/// The channel on which apalis's trigger tells of new jobs.
const CHANNEL: &str = "apalis::job::insert";

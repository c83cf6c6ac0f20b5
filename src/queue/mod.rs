//! The queue: the only place that knows apalis.
//!
//! `retention.purge_runs` is the truth; an apalis job is one *delivery* of a run's id. A delivery may come twice
//! or late and nothing goes wrong, because the [`claim()`] decides: it moves the run to `running` under a new
//! ownership token, or finds that there is nothing to do. Retries are new deliveries with a time (`settle`),
//! so apalis's own failure paths are never on our road.

mod backoff;
mod bulk;
mod claim;
mod consume;
mod cursor;
mod enqueue;
mod hand;
mod operate;
mod reconcile;
mod records;
mod reports;
mod rescue;
mod settle;
mod step;
mod together;
mod triage;
mod wakeups;

pub use backoff::Backoff;
pub use bulk::{Behalf, ClosedRun};
pub use claim::{Claim, Lease, claim, others_wait};
pub use consume::{ConsumerSettings, Delivery, Verdict, WorkerIdentity, consume, sessions};
pub use cursor::{BadCursor, Cursor};
pub use enqueue::{
    ANSWER_SOON, EnqueueError, Enqueued, answered, enqueue_purge, enqueue_purges, enqueue_slot,
    request_purge,
};
pub use hand::{acknowledge, next_delivery};
pub use operate::{
    MAX_REPLAYED, OperateError, Operator, Replayable, Replayed, cancel, replay, replay_matching,
    replayable,
};
pub use reconcile::{deliver_stranded, live_workers, reconcile, retire_workers, workers_alive};
pub use records::{
    Page, Run, RunFilter, RunStatus, Total, Unsuccessful, get, list, live_since, totals,
    unfinished, unsuccessful,
};
pub use reports::{
    Action, AppliedWindow, Failures, PurgedOnDay, Slot, actions, actions_on, count_by_status,
    failures, last_slot, purged_per_day, replays_of, window_applied,
};
pub use rescue::{HeldRun, held_runs, rescue};
pub use settle::{
    Settled, fail_or_retry, give_back, is_urgent, postpone, redeliver, succeed, was_cancelled,
};
pub use step::Step;
pub use together::purge_together;
pub use triage::{Look, close_idle};

/// The queue's name: `apalis.jobs.job_type` and `apalis.workers.worker_type`, as the migrations write it.
pub const QUEUE: &str = "drift-retention.purge";
/// The channel on which apalis's trigger tells of new jobs.
const CHANNEL: &str = "apalis::job::insert";

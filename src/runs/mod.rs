//! Runs: one purge of one organization each. This room defines what a run is, and is the only writer of its record.
//!
//! `retention.purge_runs` is the truth, and a delivery is only a hint. A delivery may come twice or late and nothing goes
//! wrong, because the [`claim()`] decides: it moves the run to `running` under a new fence (ownership token), or finds that
//! there is nothing to do. Every later change of the run proves that fence in its own transaction.
//!
//! Each function here works on many runs. One run is the case of a list with one entry.

mod backoff;
mod claim;
mod cursor;
mod enqueue;
mod finish;
mod operate;
mod progress;
mod query;
mod record;
mod reports;
mod rescue;
mod snooze;

pub use backoff::Backoff;
pub use claim::{Claims, Delivery, FrozenPolicy, Lease, OwnedRun, claim};
pub use cursor::{BadCursor, Cursor};
pub use enqueue::{
    ANSWER_SOON, EnqueueError, Enqueued, answered, enqueue_purge, enqueue_purges, enqueue_slot,
    request_purge,
};
pub use finish::{Ending, Failure, Finish, Finished, deliver, finish};
pub use operate::{
    MAX_REPLAYED, OperateError, Operator, Replayable, Replayed, cancel, replay, replay_matching,
    replayable,
};
pub use progress::{
    Fence, RowCursor, StepDelta, StepTotal, check_fence, flush, freeze_policy, record,
};
pub use query::{
    Page, RunFilter, Total, Unsuccessful, get, list, live_since, totals, unfinished, unsuccessful,
};
pub use record::{Outcome, Run, RunStatus, Step, StepStatus, ThrottleReason, Trigger};
pub use reports::{
    Action, AppliedWindow, Failures, PurgedOnDay, Slot, actions, actions_on, count_by_status,
    failures, last_slot, purged_per_day, replays_of, window_applied,
};
pub use rescue::{HeldRun, held_runs, prune, rescue};
pub use snooze::{redeliver, snooze_until};

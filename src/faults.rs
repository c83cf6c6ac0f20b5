//! Points at which a process can be made to die, to see what becomes of its work: `FAULT_POINT=AfterClaim`, or
//! `FAULT_POINT=BeforeCommit:3` for the third time it comes by. Only in builds with the feature `chaos`; in every other
//! they are nothing.

/// A boundary: what is before it is done, what is behind it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A worker owns the runs, their policies are frozen, and nothing is purged yet.
    AfterClaim,
    /// A batch's rows are deleted and counted, and not committed.
    BeforeCommit,
    /// A batch is committed.
    AfterCommit,
    /// A pass has seen every expired row.
    BeforeVerify,
    /// Nothing is left, and nobody has been told.
    AfterVerify,
    /// The run's end is written, and not committed.
    BeforeFinish,
    /// The run has ended, and its delivery is not acknowledged.
    AfterFinish,
    /// A failed attempt's retry is written, and not committed.
    BeforeRetry,
    /// A failed attempt's retry is enqueued, and its delivery is not acknowledged.
    AfterRetry,
    /// A run goes back to the queue, and that is not committed.
    BeforeSnooze,
    /// A run is back in the queue, and its delivery is not acknowledged.
    AfterSnooze,
    /// A part of a slot is enqueued, and not committed.
    BeforeSlotCommit,
    /// A part of a slot is enqueued.
    AfterSlotCommit,
}

/// Dies here, as by SIGKILL, when that was asked for.
#[cfg(not(feature = "chaos"))]
#[inline]
pub fn reach(_: Point) {}

/// Dies here, as by SIGKILL, when that was asked for.
#[cfg(feature = "chaos")]
#[expect(
    clippy::disallowed_methods,
    reason = "no setting of the product: it has no such points"
)]
pub fn reach(point: Point) {
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::{sys::signal, unistd::Pid};

    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Ok(asked) = std::env::var("FAULT_POINT") else {
        return;
    };
    let (name, times) = asked.split_once(':').unwrap_or((&asked, "1"));
    if name == format!("{point:?}")
        && (PASSED.fetch_add(1, Ordering::SeqCst) + 1).to_string() == times
    {
        signal::kill(Pid::this(), signal::SIGKILL).ok();
    }
}

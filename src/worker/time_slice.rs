//! How a group makes way: for a closing maintenance window, for urgent runs, and for others once in a time slice.

use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use crate::{
    jobs,
    purge::{EndedRun, Group, Member, Mode, PurgeError},
    telemetry::logs::chain,
};

/// How long a group goes on before it looks whether others wait. As long as a few batches: a claim costs a small part of it.
const TIME_SLICE: Duration = Duration::from_millis(250);
/// The priority of a delivery that somebody waits for, as `retention.deliver` sets it.
const URGENT_PRIORITY: i32 = 10;

/// Who waits for a group to make way.
enum Waiting {
    WindowIsClosed,
    UrgentRuns,
    Runs,
    Nobody,
}

/// How long a group has been at work without looking whether others wait.
pub(super) struct TimeSlice {
    began: Instant,
    /// Whether not every run has had a batch yet.
    pub(super) is_first_cycle: bool,
}

impl TimeSlice {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            is_first_cycle: true,
        }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= TIME_SLICE
    }
}

impl Worker {
    /// Takes out the runs that have to wait, once in a time slice: the scheduled ones when their maintenance window closes or
    /// when somebody waits for another run, and the large ones when others wait.
    pub(super) async fn make_way(
        &self,
        group: &mut Group,
        slice: &mut TimeSlice,
        mode: Mode,
    ) -> Vec<EndedRun> {
        if !slice.is_over() {
            return Vec::new();
        }
        slice.began = Instant::now();
        let taken = match self.who_waits(group).await {
            Ok(Waiting::WindowIsClosed) => group.take(|member| !member.run.is_urgent),
            Ok(Waiting::UrgentRuns) => group.take_movable(|member| !member.run.is_urgent),
            Ok(Waiting::Runs) if !slice.is_first_cycle => {
                group.take_movable(|member| member.rows > 0)
            }
            // A worker may be idle.
            Ok(Waiting::Nobody) if mode == Mode::FullSpeed => group.take_half(),
            Ok(Waiting::Runs | Waiting::Nobody) => Vec::new(),
            Err(error) => {
                tracing::debug!(error = chain(&error), "cannot see who waits; looking again");
                Vec::new()
            }
        };
        stopped(taken)
    }

    async fn who_waits(&self, group: &Group) -> sqlx::Result<Waiting> {
        let all_urgent = group.is_urgent();
        if !all_urgent && self.closed_until().await?.is_some() {
            return Ok(Waiting::WindowIsClosed);
        }
        let wait = |priority| jobs::others_wait(&self.database, priority);
        Ok(if !all_urgent && wait(URGENT_PRIORITY).await? {
            Waiting::UrgentRuns
        } else if wait(if all_urgent { URGENT_PRIORITY } else { 0 }).await? {
            Waiting::Runs
        } else {
            Waiting::Nobody
        })
    }
}

pub(super) fn stopped(members: Vec<Member>) -> Vec<EndedRun> {
    let stopped = members.into_iter().map(|member| EndedRun {
        member,
        result: Err(PurgeError::Stopped),
    });
    stopped.collect()
}

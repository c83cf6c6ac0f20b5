//! One run of a group, and how far it has come in each dataset.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{Span, field};

use super::{
    PurgeError,
    datasets::{DATASETS, Dataset, Scope},
};
use crate::{
    retention::Plan,
    runs::{FrozenPolicy, OwnedRun, RowCursor, StepDelta, StepStatus, ThrottleReason},
};

/// How often an attempt goes over rows again that another transaction held, or that were written meanwhile.
const MAX_TRIES: u32 = 5;
/// The pause before the second try. It doubles with each.
const FIRST_TRY_PAUSE: Duration = Duration::from_millis(100);

/// One run of a group.
#[derive(Debug)]
pub struct Member {
    /// The run.
    pub run: OwnedRun,
    /// The policy that it goes by.
    pub policy: FrozenPolicy,
    /// Its span.
    pub span: Span,
    /// When its attempt began.
    pub began: Instant,
    /// Rows purged by this attempt.
    pub rows: u64,
    /// Whether one of its pairs has had a batch.
    pub(super) has_begun: bool,
    /// What it has done in each dataset, in the order of [`DATASETS`].
    pub(super) sweeps: Vec<Sweep>,
    /// How often it has gone over its datasets.
    pub(super) tries: u32,
    /// When its next try may begin.
    pub(super) next_try_at: Instant,
    /// The first error of one of its tables. The other tables are purged all the same.
    pub(super) table_error: Option<PurgeError>,
}

/// The sweep of one run through one dataset.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// How far it has come.
    pub(super) cursor: Option<RowCursor>,
    /// How often in a row a batch met locks.
    pub(super) contentions: u32,
    /// Rows of this try that a trigger kept.
    pub(super) refused: u64,
    /// Whether a statement on the dataset fails for good: it is left alone.
    pub(super) has_failed: bool,
    /// Whether its next transaction takes no other pair along, so that an error is this pair's.
    pub(super) is_alone: bool,
    /// Expired rows that a rule protects, as last seen.
    pub(super) kept: u64,
    /// Expired rows that the verification found due.
    pub(super) left: u64,
    /// Waits that the record does not tell of yet.
    pub(super) throttled: Option<(ThrottleReason, Duration)>,
    /// Its span, and the rows that it has purged so far.
    pub(super) span: Option<Span>,
    pub(super) rows: u64,
}

impl Member {
    /// A run before its first sweep.
    #[must_use]
    pub fn new(run: OwnedRun, policy: FrozenPolicy, span: Span) -> Self {
        let sweeps = DATASETS.iter().map(|dataset| Sweep {
            cursor: run.resume_from.get(dataset.name()).cloned(),
            ..Sweep::default()
        });
        Self {
            sweeps: sweeps.collect(),
            policy,
            span,
            began: Instant::now(),
            rows: 0,
            has_begun: false,
            tries: 1,
            next_try_at: Instant::now(),
            table_error: None,
            run,
        }
    }

    /// Whether another worker may go on with it. A run that has begun and came no further must end by using its attempts up.
    #[must_use]
    pub fn can_move(&self) -> bool {
        self.rows > 0 || !self.has_begun
    }

    /// Opens the span of a sweep, if it is not open.
    pub(super) fn open_span(&mut self, dataset: usize) {
        let (table, parent) = (DATASETS[dataset].tables()[0], &self.span);
        self.sweeps[dataset].span.get_or_insert_with(
            || tracing::info_span!(parent: parent, "step", table, rows = field::Empty),
        );
    }

    /// The scope of a dataset; none: the policy has no rule for it.
    pub(super) fn scope(&self, dataset: &dyn Dataset) -> Option<Scope> {
        let cutoff = *self.policy.cutoffs.get(dataset.name())?;
        Some(Scope {
            org: self.run.org,
            cutoff,
        })
    }

    /// The plan has changed during the run: the longer window of each dataset holds from now on.
    pub(super) fn lengthen(&mut self, plan: Plan) {
        let (before, started_at) = (self.policy.windows, self.run.started_at);
        self.policy = FrozenPolicy::new(plan, Some(before), started_at);
        self.sweeps.iter_mut().for_each(|sweep| sweep.cursor = None);
    }

    /// Another try over the datasets with rows left, unless there were enough tries.
    pub(super) fn begin_try(&mut self) -> bool {
        if self.tries == MAX_TRIES {
            return false;
        }
        let pause = FIRST_TRY_PAUSE * 2_u32.pow(self.tries - 1);
        self.next_try_at = Instant::now() + pause;
        self.tries += 1;
        for sweep in &mut self.sweeps {
            (sweep.cursor, sweep.refused, sweep.contentions) = (None, 0, 0);
        }
        true
    }

    /// What the record does not say yet, with a step for every table. `verified`: nothing due is left.
    #[must_use]
    pub fn steps(&self, verified: bool) -> Vec<StepDelta> {
        let mut steps = Vec::new();
        for (dataset, sweep) in DATASETS.iter().zip(&self.sweeps) {
            let cutoff = self.policy.cutoffs.get(dataset.name()).copied();
            let status = match cutoff {
                None => StepStatus::NoRule,
                Some(_) if verified => StepStatus::Succeeded,
                Some(_) => StepStatus::Pending,
            };
            for (n, table) in dataset.tables().iter().enumerate() {
                let mut step = StepDelta::new(self.run.id, table, cutoff, status);
                // The rule protects rows of the dataset's own table. The rows of the other tables hang on those.
                step.kept = verified.then_some(if n == 0 { sweep.kept } else { 0 });
                step.throttled = sweep.throttled.filter(|_| n == 0);
                steps.push(step);
            }
        }
        steps
    }
}

impl Sweep {
    /// Notes a wait.
    pub(super) fn note_wait(&mut self, throttled: Option<(ThrottleReason, Duration)>) {
        if let Some((reason, waited)) = throttled {
            let before = self.throttled.map_or(Duration::ZERO, |(_, before)| before);
            self.throttled = Some((reason, before + waited));
        }
    }
}

/// A run whose attempt is over.
#[derive(Debug)]
pub struct EndedRun {
    /// The run.
    pub member: Member,
    /// Verified, or why not.
    pub result: Result<(), PurgeError>,
}

//! Where a pass over the datasets is, and what a transaction of it has done.

use std::time::Duration;

use tracing::{Span, field};

use super::datasets::{Batch, Dataset, Progress};

/// How far a pass has come: in which dataset, and where in it.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) dataset: usize,
    pub(super) progress: Progress,
    step: Span,
    /// Rows of the step so far.
    pub(super) rows: u64,
}

impl Place {
    pub(super) fn in_dataset(dataset: usize, starts: &[Progress]) -> Self {
        Self {
            dataset,
            progress: starts.get(dataset).cloned().unwrap_or_default(),
            step: Span::none(),
            rows: 0,
        }
    }

    /// The step that a dataset is: its span begins with its first batch.
    pub(super) fn step(&mut self, dataset: &dyn Dataset) -> Span {
        if self.step.is_none() {
            self.step =
                tracing::info_span!("step", table = dataset.tables()[0], rows = field::Empty);
        }
        self.step.clone()
    }
}

/// What one transaction did to one dataset.
pub(super) struct Done {
    pub(super) dataset: &'static dyn Dataset,
    pub(super) batch: Batch,
    pub(super) progress: Progress,
    pub(super) elapsed: Duration,
    pub(super) step: Span,
    /// Rows of the whole step so far, these included.
    pub(super) rows: u64,
}

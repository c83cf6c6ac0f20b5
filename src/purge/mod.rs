//! What a run is and does: it sweeps every dataset in batches, each batch with its counts and its proof of
//! ownership in one transaction, and is done when separate SQL finds nothing left behind.

mod at_rest;
mod batch_size;
mod cascades;
pub mod datasets;
mod error;
mod ledger;
mod overdue;
mod pace;
mod pass;
mod pressure;
mod preview;
mod rewritten;
mod run;
mod together;
mod trouble;

pub use at_rest::{AtRest, RestingTable, at_rest};
pub use batch_size::BatchSize;
pub use error::PurgeError;
pub use ledger::{ClosedStep, OwnedRun, Terms, close_steps, closed_steps, settle_terms};
pub use overdue::{Overdue, OverdueOrganization, overdue};
pub use pace::{Go, Pace, Throttle};
pub use preview::{Counting, MAX_COUNTED, Preview, RowsByTable, preview};
pub use rewritten::{SearchStep, note_unnoticed};
pub use run::{Purger, Report, Turn};
pub use together::{Limits, purge_together};

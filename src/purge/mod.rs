//! What a run is and does: it sweeps every dataset in batches, each batch with its counts and its proof of
//! ownership in one transaction, and is done when separate SQL finds nothing left behind.

mod batch_size;
pub mod datasets;
mod error;
mod ledger;
mod overdue;
mod preview;
mod run;

pub use error::PurgeError;
pub use ledger::{ClosedStep, OwnedRun, close_steps};
pub use overdue::{Overdue, OverdueOrganization, overdue};
pub use preview::{Preview, RowsByTable, preview};
pub use run::{Purger, Report};

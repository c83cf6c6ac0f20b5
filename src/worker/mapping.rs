//! What failed because somebody changed the mapping under this process.

use super::Worker;
use crate::{
    postgres,
    purge::{PurgeError, Report},
};

impl Worker {
    /// A failure under a mapping that this process has not checked is the mapping's: an unknown plan, a missing view. It spends no
    /// attempt of the run, and this process stops.
    pub(super) async fn unless_mapping_changed(
        &self,
        outcome: Result<Report, PurgeError>,
    ) -> Result<Report, PurgeError> {
        use PurgeError::{MappingChanged, Stopped, Superseded};
        if matches!(outcome, Ok(_) | Err(Stopped | Superseded | MappingChanged)) {
            return outcome;
        }
        let proved = async { self.database.begin().await?.prove_mapping().await };
        match proved.await {
            Err(changed) if postgres::is_mapping_changed(&changed) => Err(MappingChanged),
            _ => outcome,
        }
    }
}

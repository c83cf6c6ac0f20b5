//! The maintenance window: the hours within which scheduled runs may purge. A run that somebody waits for goes at any time.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{
    Worker,
    record::{Transition, Unrecorded},
};
use crate::{
    config::Hours,
    postgres,
    runs::{self, Delivery},
};

/// Hours of the day in a time zone.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaintenanceWindow {
    pub(super) hours: Hours,
    pub(super) timezone: Tz,
}

impl Worker {
    /// When scheduled runs may go on; none: now.
    pub(super) async fn closed_until(&self) -> sqlx::Result<Option<DateTime<Utc>>> {
        let Some(MaintenanceWindow { hours, timezone }) = self.window else {
            return Ok(None);
        };
        let now = postgres::now(&self.database).await?;
        Ok(hours.closed_until(now, timezone))
    }

    /// Puts off the deliveries that come while the window is closed, and returns the others.
    pub(super) async fn admit(
        &self,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Delivery>, Unrecorded> {
        if self.window.is_none() {
            return Ok(deliveries);
        }
        let snooze = |_| async {
            match self.closed_until().await? {
                Some(opens_at) => {
                    runs::snooze_until(&self.database, &deliveries, opens_at, self.lease()).await
                }
                None => Ok(Vec::new()),
            }
        };
        let snoozed = self.record(Transition::Other, snooze).await?;
        let mut admitted = deliveries;
        admitted.retain(|delivery| !snoozed.contains(&delivery.run));
        Ok(admitted)
    }
}

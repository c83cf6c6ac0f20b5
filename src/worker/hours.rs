//! The hours within which scheduled runs may purge. What somebody asked for goes at any time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::Worker;
use crate::{
    postgres,
    queue::{self, Delivery},
    telemetry::logs::chain,
};

/// How often it is looked whether the hours are over.
const LOOK: Duration = Duration::from_secs(1);

/// What becomes of a delivery.
pub(super) enum Admission {
    /// It is worked off.
    AnyTime,
    /// It is worked off for as long as the hours last: the token is cancelled when they are over.
    Within(CancellationToken, AbortOnDropHandle<()>),
    /// It comes again when they begin.
    Postponed,
}

impl Worker {
    /// When scheduled runs may go on; none: now.
    pub(super) async fn closed_until(&self) -> sqlx::Result<Option<DateTime<Utc>>> {
        let Some((hours, timezone)) = self.hours else {
            return Ok(None);
        };
        let now = postgres::now(&self.database).await?;
        Ok(hours.closed_until(now, timezone))
    }

    /// Lets a delivery in, or puts it off.
    pub(super) async fn admit(
        &self,
        delivery: &Delivery,
        stop: &CancellationToken,
    ) -> sqlx::Result<Admission> {
        if self.hours.is_none() || queue::is_urgent(&self.database, delivery.run).await? {
            return Ok(Admission::AnyTime);
        }
        if let Some(opens_at) = self.closed_until().await? {
            queue::postpone(&self.database, delivery, opens_at, self.lease()).await?;
            return Ok(Admission::Postponed);
        }
        let within = stop.child_token();
        let closing = self.clone().cancel_when_closed(within.clone());
        Ok(Admission::Within(
            within,
            AbortOnDropHandle::new(tokio::spawn(closing)),
        ))
    }

    async fn cancel_when_closed(self, within: CancellationToken) {
        loop {
            sleep(LOOK).await;
            match self.closed_until().await {
                Ok(Some(_)) => return within.cancel(),
                Ok(None) => {}
                Err(error) => tracing::debug!(
                    error = chain(&error),
                    "cannot see what time it is; looking again"
                ),
            }
        }
    }
}

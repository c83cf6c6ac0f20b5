//! What a worker does with a delivery that apalis hands it: works it off, and then whatever else is due, from hand to
//! hand, for a while.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Worker, recording::Step};
use crate::{
    queue::{self, Delivery, Verdict},
    telemetry::logs::chain,
};

/// How long before apalis hands out the next delivery: it acknowledges ours only then.
const SHIFT: Duration = Duration::from_secs(5);

impl Worker {
    pub(super) async fn shift(&self, first: Delivery, stop: &CancellationToken) -> Verdict {
        let began = Instant::now();
        let worker = first.worker.clone();
        let verdict = self.handle(first, stop).await;
        let mut done: Option<(Delivery, Verdict)> = None;
        while !stop.is_cancelled() && began.elapsed() < SHIFT {
            self.close_idle(stop).await;
            let acknowledged = done
                .as_ref()
                .map(|(delivery, verdict)| (delivery, *verdict));
            match queue::next_delivery(&self.database, &worker, acknowledged).await {
                Ok(next) => done = next.map(|next| (next, Verdict::Done)),
                Err(error) => {
                    tracing::debug!(
                        error = chain(&error),
                        "cannot take the next delivery; apalis will"
                    );
                    break;
                }
            }
            let Some((delivery, outcome)) = &mut done else {
                return verdict;
            };
            *outcome = self.handle(delivery.clone(), stop).await;
        }
        if let Some((delivery, verdict)) = done {
            // Refused for good, it is delivered again, and the claim decides.
            let _ = self
                .record(Step::Other, |_| {
                    queue::acknowledge(&self.database, &delivery, verdict)
                })
                .await;
        }
        verdict
    }
}

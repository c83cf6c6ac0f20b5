//! The search for payloads that were written again past the trigger that notes them: one step a minute, and one after the other
//! while a restore, say, may have brought some back.

use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use crate::{purge, telemetry::logs::chain};

/// How long to go on without a pause.
const URGENT_SEARCH: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) async fn search_rewritten(&self) {
        let began = Instant::now();
        let mut payloads = 0;
        loop {
            match purge::note_unnoticed(&self.database).await {
                Ok(step) => {
                    payloads += step.noted;
                    if step.is_urgent && began.elapsed() < URGENT_SEARCH {
                        continue;
                    }
                }
                Err(error) => tracing::warn!(
                    error = chain(&error),
                    "cannot search for rewritten payloads; trying again"
                ),
            }
            break;
        }
        if payloads > 0 {
            tracing::warn!(
                payloads,
                "payloads were written again after their purge, and no trigger noted them; the next runs take them: is \
                 note_rewritten_payload on every table that holds payloads?"
            );
        }
    }
}

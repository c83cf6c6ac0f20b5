//! Closes runs with nothing to purge in bulk, beside the deliveries: after each one a look at some more of them.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Worker;
use crate::{
    postgres,
    purge::BatchSize,
    queue::{self, ClosedRun},
    telemetry::{logs::chain, traces},
};

/// How long after a lap over the waiting runs the next one may begin.
const REST: Duration = Duration::from_secs(1);

/// Where this process's lap over the waiting runs is.
#[derive(Debug)]
pub(super) struct Lap {
    after: Uuid,
    looks: BatchSize,
    resting_until: Option<Instant>,
}

impl Default for Lap {
    /// Begins somewhere: other processes begin elsewhere.
    fn default() -> Self {
        Self {
            after: Uuid::new_v4(),
            looks: BatchSize::new(None),
            resting_until: None,
        }
    }
}

impl Lap {
    fn is_resting(&self) -> bool {
        self.resting_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Goes on after `last`; with none the lap is over. Another look may have come further meanwhile.
    fn move_on(&mut self, last: Option<Uuid>) {
        match last {
            Some(last) => self.after = self.after.max(last),
            None if self.after.is_nil() => self.resting_until = Some(Instant::now() + REST),
            // It had begun somewhere: what is before that is left.
            None => self.after = Uuid::nil(),
        }
    }
}

impl Worker {
    /// One look at the runs that wait, unless a lap was over just now. Nothing depends on it: what it does not close is
    /// closed by its own delivery.
    pub(super) async fn close_idle(&self) {
        if !matches!(self.closed_until().await, Ok(None)) {
            return;
        }
        let (after, limit) = {
            let lap = self.lap.lock().await;
            if lap.is_resting() {
                return;
            }
            (lap.after, lap.looks.rows())
        };
        let started = Instant::now();
        let looked = queue::close_idle(
            &self.database,
            self.identity.prefix(),
            self.max_attempts,
            after,
            limit,
        )
        .await;
        let elapsed = started.elapsed();
        let mut lap = self.lap.lock().await;
        match looked {
            Ok(look) => {
                if look.last.is_some() {
                    lap.looks.follow(elapsed, false);
                }
                lap.move_on(look.last);
                drop(lap);
                self.report(&look.closed, elapsed);
            }
            Err(error) => {
                if !postgres::is_contention(&error) || !lap.looks.shrink() {
                    lap.resting_until = Some(Instant::now() + REST);
                }
                tracing::debug!(error = chain(&error), "cannot look for idle runs now");
            }
        }
    }

    fn report(&self, closed: &[ClosedRun], elapsed: Duration) {
        let Ok(runs) = u32::try_from(closed.len()) else {
            return;
        };
        for run in closed {
            let span = tracing::info_span!("purge run", otel.kind = "consumer", run_id = %run.id, org_id = %run.org,
                attempt = 1, trigger = run.trigger, trace_id = tracing::field::Empty);
            traces::set_parent(&span, run.traceparent.as_deref());
            span.in_scope(|| {
                tracing::debug!(run_id = %run.id, org_id = %run.org, "nothing to purge");
            });
            self.count("succeeded", &run.trigger);
            self.metrics
                .run_duration
                .observe(elapsed.as_secs_f64() / f64::from(runs));
        }
        if runs > 0 {
            tracing::info!(runs, "closed {runs} runs with nothing to purge");
        }
    }
}

//! One group of runs, from its claim to its endings: claim, look, sweep, verify, finish.

use std::slice;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field};

use super::{
    Worker,
    ending::Attempt,
    isolate::isolate_panics,
    record::Transition,
    time_slice::{TimeSlice, stopped},
};
use crate::{
    faults::{self, Point},
    ids::RunId,
    jobs::Verdict,
    purge::{EndedRun, Group, Member, PurgeError},
    retention::ResolveError,
    runs::{self, Delivery, FrozenPolicy, Outcome, OwnedRun},
    telemetry::traces,
};

impl Worker {
    /// Works on deliveries, and returns the verdict on each.
    pub(super) async fn work(
        &self,
        deliveries: Vec<Delivery>,
        stop: &CancellationToken,
    ) -> Vec<(Delivery, Verdict)> {
        let _at_work: Vec<_> = deliveries
            .iter()
            .map(|delivery| self.at_work.take(delivery.run))
            .collect();
        let mut verdicts: Vec<_> = deliveries
            .iter()
            .map(|delivery| (delivery.clone(), Verdict::Done))
            .collect();
        if stop.is_cancelled() {
            self.redeliver(&deliveries).await;
            return verdicts;
        }
        if let Ok(admitted) = self.admit(deliveries).await {
            let mut failed = Vec::new();
            self.attempt(&admitted, stop, &mut failed).await;
            for (delivery, verdict) in &mut verdicts {
                if failed.contains(&delivery.run) {
                    *verdict = Verdict::Killed;
                }
            }
        }
        verdicts
    }

    /// Hands on deliveries whose runs nobody has claimed. If the database refuses that for good, the runs are found stranded.
    async fn redeliver(&self, deliveries: &[Delivery]) {
        if !deliveries.is_empty() {
            let redeliver = |_| runs::redeliver(&self.database, deliveries, self.lease());
            let _ = self.record(Transition::Other, redeliver).await;
        }
    }

    /// Claims runs and purges them together. A run that was attempted before is claimed alone. Adds the runs that have failed for
    /// good to `failed`.
    async fn attempt(
        &self,
        deliveries: &[Delivery],
        stop: &CancellationToken,
        failed: &mut Vec<RunId>,
    ) {
        let claim = |again| {
            // A second delivery of the same run may be at work in this process: its claim is not ours to undo.
            let again = again && !self.at_work.has_twice(deliveries);
            runs::claim(
                &self.database,
                deliveries,
                self.max_attempts,
                self.lease(),
                again,
            )
        };
        let alone = match self.record(Transition::Claim, claim).await {
            Ok(claims) => {
                for (run, org, trigger) in claims.exhausted {
                    tracing::error!(run_id = %run, org_id = %org, error_kind = "attempts_exhausted",
                        "run failed: every attempt is used up and none reported back");
                    self.count(Outcome::Failed, trigger);
                    failed.push(run);
                }
                for (_, trigger) in claims.cancelled {
                    self.count(Outcome::Cancelled, trigger);
                }
                let mut attempted = claims.attempted;
                let others =
                    attempted.split_off(attempted.len().min(usize::from(claims.owned.is_empty())));
                // They need not wait for this one: another worker may be idle.
                self.redeliver(&others).await;
                if !claims.owned.is_empty() {
                    faults::reach(Point::AfterClaim);
                    failed.extend(self.purge(claims.owned, stop).await);
                }
                attempted
            }
            // The database may refuse the record of one of them.
            Err(_) if deliveries.len() > 1 => deliveries.to_vec(),
            Err(_) => Vec::new(),
        };
        for delivery in alone {
            Box::pin(self.attempt(slice::from_ref(&delivery), stop, failed)).await;
        }
    }

    /// Purges runs in a task of its own: heartbeats go on beside it, a panic ends these attempts and nothing else, and it ends
    /// when this future is dropped. Returns the runs that have failed for good.
    async fn purge(
        &self,
        owned: Vec<(OwnedRun, Result<FrozenPolicy, ResolveError>)>,
        stop: &CancellationToken,
    ) -> Vec<RunId> {
        let (mut members, mut unresolved) = (Vec::new(), Vec::new());
        let mut running = Vec::new();
        for (run, policy) in owned {
            let span = span_of(&run);
            tracing::debug!(parent: &span, run_id = %run.id, org_id = %run.org, attempt = run.attempt, "attempt begins");
            match policy {
                Ok(policy) => {
                    running.push((run.clone(), span.clone()));
                    members.push(Member::new(run, policy, span));
                }
                Err(error) => unresolved.push(Attempt::failed_at_once(run, span, error.into())),
            }
        }
        let mut failed = self.end(unresolved).await;
        if members.is_empty() {
            return failed;
        }
        let (worker, stop) = (self.clone(), stop.clone());
        let purged = isolate_panics(async move { Ok(worker.purge_group(members, &stop).await) });
        match purged.await {
            Ok(more) => failed.extend(more),
            // Nobody knows whose fault it is. Each is claimed alone from now on.
            Err(panic) => {
                let attempts = running.into_iter().map(|(run, span)| {
                    Attempt::failed_at_once(run, span, PurgeError::Panic(panic.to_string()))
                });
                failed.extend(self.end(attempts.collect()).await);
            }
        }
        failed
    }

    /// The road of every run: look, sweep until no pair has rows left, verify, finish.
    async fn purge_group(&self, members: Vec<Member>, stop: &CancellationToken) -> Vec<RunId> {
        let mut group = Group::new(members, self.purger.batch_size);
        let mut failed = Vec::new();
        let mut slice = TimeSlice::new();
        self.look(&mut group, stop).await;
        let not_due = self.purger.take_not_due(&mut group);
        failed.extend(self.end_runs(not_due).await);
        while !group.is_empty() {
            let ended = if stop.is_cancelled() {
                stopped(group.take(|_| true))
            } else if group.is_cycle_over() {
                slice.is_first_cycle = false;
                self.purger.verify(&mut group).await
            } else if let Some(at) = group.wait_until() {
                stop.run_until_cancelled(sleep_until(at)).await;
                continue;
            } else {
                self.sweep(&mut group, &mut slice, stop).await
            };
            failed.extend(self.end_runs(ended).await);
        }
        failed
    }

    /// Finds the datasets with rows due, once a permit for it is there.
    async fn look(&self, group: &mut Group, stop: &CancellationToken) {
        let throttle = &self.purger.throttle;
        let permit = throttle
            .acquire(&self.database, group.is_urgent(), stop)
            .await;
        group.note_wait(permit.throttled);
        let started = Instant::now();
        if !stop.is_cancelled() {
            self.purger.look(group).await;
            throttle.note_batch(started.elapsed());
        }
    }

    /// Waits for a permit, makes way for others, and sweeps once. Returns the runs whose attempts end by it.
    async fn sweep(
        &self,
        group: &mut Group,
        slice: &mut TimeSlice,
        stop: &CancellationToken,
    ) -> Vec<EndedRun> {
        let urgent = group.is_front_urgent();
        let throttle = &self.purger.throttle;
        let permit = throttle.acquire(&self.database, urgent, stop).await;
        if stop.is_cancelled() {
            return Vec::new();
        }
        let snoozed = self.make_way(group, slice, permit.mode()).await;
        if snoozed.is_empty() {
            self.purger.sweep(group, permit).await
        } else {
            snoozed
        }
    }
}

/// The span of an attempt, in the trace that asked for the run.
fn span_of(run: &OwnedRun) -> Span {
    let span = tracing::info_span!("purge run", otel.kind = "consumer", run_id = %run.id, org_id = %run.org,
        attempt = run.attempt, trigger = run.trigger.name(), replay_of = field::Empty, trace_id = field::Empty);
    if let Some(replayed) = run.replay_of {
        span.record("replay_of", field::display(replayed));
    }
    traces::set_parent(&span, run.traceparent.as_deref());
    traces::link(&span, run.replayed_traceparent.as_deref());
    span
}

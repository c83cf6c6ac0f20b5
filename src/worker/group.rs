//! One group of runs, from its claim to its endings: claim, look, sweep, verify, finish.

use std::{slice, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field};

use super::{Worker, isolate::isolate_panics, record::Transition};
use crate::{
    faults::{self, Point},
    ids::RunId,
    jobs::{self, Verdict},
    postgres,
    purge::{EndedRun, Group, Member, Mode, PurgeError},
    retention::{Plan, ResolveError},
    runs::{
        self, Delivery, Ending, Failure, Finish, Finished, FrozenPolicy, Outcome, OwnedRun,
        StepDelta, StepTotal,
    },
    telemetry::{logs::chain, traces},
};

/// How long a group goes on before it looks whether others wait. As long as a few batches: a claim costs a small part of it.
const TIME_SLICE: Duration = Duration::from_millis(250);
/// The priority of a delivery that somebody waits for, as `retention.deliver` sets it.
const URGENT_PRIORITY: i32 = 10;

/// An attempt that is over.
struct Attempt {
    run: OwnedRun,
    span: Span,
    began: Instant,
    /// The plan it went by; none: it could not be resolved.
    plan: Option<Plan>,
    steps: Vec<StepDelta>,
    rows: u64,
    result: Result<(), PurgeError>,
}

impl From<EndedRun> for Attempt {
    fn from(EndedRun { member, result }: EndedRun) -> Self {
        let mut steps = member.steps(result.is_ok());
        if is_snoozed(&result) {
            // It goes on soon, and only its waits are news.
            steps.retain(|step| step.throttled.is_some());
        }
        Self {
            steps,
            span: member.span,
            began: member.began,
            plan: Some(member.policy.plan),
            rows: member.rows,
            run: member.run,
            result,
        }
    }
}

/// Whether the attempt ended without an outcome: the run goes back to the queue, or is somebody else's.
fn is_snoozed(result: &Result<(), PurgeError>) -> bool {
    use PurgeError::{MappingChanged, Stopped, Superseded};
    matches!(result, Err(Stopped | Superseded | MappingChanged))
}

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
            let redeliver = |_| runs::redeliver(&self.database, &deliveries);
            let _ = self.record(Transition::Other, redeliver).await;
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

    /// Claims runs and purges them together. Runs that were attempted before follow, each alone. Adds the runs that have failed
    /// for good to `failed`.
    async fn attempt(
        &self,
        deliveries: &[Delivery],
        stop: &CancellationToken,
        failed: &mut Vec<RunId>,
    ) {
        let claim = |again| {
            runs::claim(
                &self.database,
                deliveries,
                self.max_attempts,
                self.lease(),
                again,
            )
        };
        let mut alone = match self.record(Transition::Claim, claim).await {
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
                if !claims.owned.is_empty() {
                    faults::reach(Point::AfterClaim);
                    failed.extend(self.purge(claims.owned, stop).await);
                }
                claims.attempted
            }
            // The database may refuse the record of one of them.
            Err(_) if deliveries.len() > 1 => deliveries.to_vec(),
            Err(_) => Vec::new(),
        };
        for delivery in alone.drain(..) {
            if stop.is_cancelled() {
                let redeliver = |_| runs::redeliver(&self.database, slice::from_ref(&delivery));
                let _ = self.record(Transition::Other, redeliver).await;
            } else {
                Box::pin(self.attempt(slice::from_ref(&delivery), stop, failed)).await;
            }
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
                Err(error) => unresolved.push(failed_at_once(run, span, error.into())),
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
                    failed_at_once(run, span, PurgeError::Panic(panic.to_string()))
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

    /// Takes out the runs that have to wait, once in a time slice: the scheduled ones when their maintenance window closes or
    /// when somebody waits for another run, and the large ones when others wait.
    async fn make_way(
        &self,
        group: &mut Group,
        slice: &mut TimeSlice,
        mode: Mode,
    ) -> Vec<EndedRun> {
        if !slice.is_over() {
            return Vec::new();
        }
        slice.began = Instant::now();
        let taken = match self.who_waits(group).await {
            Ok(Waiting::WindowIsClosed) => group.take(|member| !member.run.is_urgent),
            Ok(Waiting::UrgentRuns) => {
                group.take(|member| !member.run.is_urgent && member.can_move())
            }
            Ok(Waiting::Runs) if !slice.is_first_cycle => group.take(|member| member.rows > 0),
            // A worker may be idle.
            Ok(Waiting::Nobody) if mode == Mode::FullSpeed => group.take_half(),
            Ok(Waiting::Runs | Waiting::Nobody) => Vec::new(),
            Err(error) => {
                tracing::debug!(error = chain(&error), "cannot see who waits; looking again");
                Vec::new()
            }
        };
        stopped(taken)
    }

    async fn who_waits(&self, group: &Group) -> sqlx::Result<Waiting> {
        let all_urgent = group.is_urgent();
        if !all_urgent && self.closed_until().await?.is_some() {
            return Ok(Waiting::WindowIsClosed);
        }
        let wait = |priority| jobs::others_wait(&self.database, priority);
        Ok(if !all_urgent && wait(URGENT_PRIORITY).await? {
            Waiting::UrgentRuns
        } else if wait(if all_urgent { URGENT_PRIORITY } else { 0 }).await? {
            Waiting::Runs
        } else {
            Waiting::Nobody
        })
    }

    async fn end_runs(&self, ended: Vec<EndedRun>) -> Vec<RunId> {
        self.end(ended.into_iter().map(Attempt::from).collect())
            .await
    }

    /// Records how attempts end, counts them and tells about them. Returns the runs that have failed for good.
    async fn end(&self, attempts: Vec<Attempt>) -> Vec<RunId> {
        if attempts.is_empty() {
            return Vec::new();
        }
        let attempts = self.unless_mapping_changed(attempts).await;
        let endings: Vec<_> = attempts
            .iter()
            .map(|attempt| Finish {
                run: attempt.run.clone(),
                ending: self.ending(attempt),
                steps: attempt.steps.clone(),
            })
            .collect();
        let mut failed = Vec::new();
        let finish = || runs::finish(&self.database, &endings);
        match self.record_again(Transition::End, finish).await {
            Ok((finished, is_repeated)) => {
                for ((attempt, ending), finished) in attempts.iter().zip(&endings).zip(finished) {
                    let tell = || self.tell(attempt, &ending.ending, finished, is_repeated);
                    if attempt.span.in_scope(tell) {
                        failed.push(attempt.run.id);
                    }
                }
                tell_idle(&attempts);
            }
            // The database may refuse the record of one of them.
            Err(_) if attempts.len() > 1 => {
                for attempt in attempts {
                    failed.extend(Box::pin(self.end(vec![attempt])).await);
                }
            }
            Err(_) => {}
        }
        failed
    }

    /// The one place that decides whether a failed attempt is retried.
    fn ending(&self, attempt: &Attempt) -> Ending {
        let error = match &attempt.result {
            Ok(()) => return Ending::Succeeded,
            Err(_) if is_snoozed(&attempt.result) => return Ending::Snoozed,
            Err(error) => error,
        };
        let failure = Failure {
            kind: error.kind(),
            error: chain(error),
        };
        if error.cancels() {
            Ending::Cancelled(failure)
        } else if error.is_permanent() || attempt.run.attempt >= attempt.run.max_attempts {
            Ending::Failed(failure)
        } else {
            Ending::Retrying(failure, self.backoff.wait(attempt.run.attempt))
        }
    }

    /// A failure under a mapping that this process has not checked is the mapping's: an unknown plan, a missing view. It spends no
    /// attempt of the run, and this process stops.
    async fn unless_mapping_changed(&self, mut attempts: Vec<Attempt>) -> Vec<Attempt> {
        let has_failed =
            |attempt: &Attempt| attempt.result.is_err() && !is_snoozed(&attempt.result);
        if attempts.iter().any(has_failed) {
            let proved = async { self.database.begin().await?.prove_mapping().await };
            if proved
                .await
                .is_err_and(|error| postgres::is_mapping_changed(&error))
            {
                attempts
                    .iter_mut()
                    .filter(|attempt| has_failed(attempt))
                    .for_each(|attempt| attempt.result = Err(PurgeError::MappingChanged));
            }
        }
        attempts
    }

    /// Counts the end of an attempt and tells about it, in its span. Returns whether the run has failed for good.
    fn tell(
        &self,
        attempt: &Attempt,
        ending: &Ending,
        finished: Finished,
        is_repeated: bool,
    ) -> bool {
        let run = &attempt.run;
        let steps = match finished {
            Finished::Recorded(steps) => steps,
            Finished::EndedBefore => return false,
            Finished::Cancelled => {
                self.count(Outcome::Cancelled, run.trigger);
                return false;
            }
            // Where the end was recorded more than once, an earlier try may have been committed with its reply lost, and the run
            // gone on.
            Finished::Superseded if is_repeated => {
                tracing::info!(run_id = %run.id, org_id = %run.org, attempt = run.attempt,
                    "the run has gone on; whether this attempt's end was recorded before is unknown, since its reply was lost");
                return false;
            }
            Finished::Superseded => {
                self.metrics.lease_losses.inc();
                tracing::warn!(run_id = %run.id, org_id = %run.org, attempt = run.attempt,
                    "another worker took the run over; this attempt committed nothing more");
                return false;
            }
        };
        self.metrics
            .run_duration
            .observe(attempt.began.elapsed().as_secs_f64());
        match ending {
            Ending::Succeeded => {
                self.count(Outcome::Succeeded, run.trigger);
                tell_steps(attempt, &steps);
            }
            Ending::Snoozed => self.tell_snoozed(attempt),
            Ending::Cancelled(failure) => {
                self.count(Outcome::Cancelled, run.trigger);
                tracing::info!(run_id = %run.id, org_id = %run.org, error_kind = failure.kind, "run cancelled: {}", failure.error);
            }
            Ending::Retrying(failure, wait) => {
                self.doubt_mapping(failure);
                self.count(Outcome::Retried, run.trigger);
                tracing::warn!(run_id = %run.id, org_id = %run.org, attempt = run.attempt, error_kind = failure.kind,
                    error = failure.error, "attempt failed; the next one is in {:.1} s", wait.as_secs_f64());
            }
            Ending::Failed(failure) => {
                self.doubt_mapping(failure);
                self.count(Outcome::Failed, run.trigger);
                tracing::error!(run_id = %run.id, org_id = %run.org, attempt = run.attempt, error_kind = failure.kind,
                    error = failure.error, "run failed");
                return true;
            }
        }
        false
    }

    fn tell_snoozed(&self, attempt: &Attempt) {
        let run = &attempt.run;
        let why = if let Err(error @ PurgeError::MappingChanged) = &attempt.result {
            tracing::error!(run_id = %run.id, org_id = %run.org, error = %error, "this worker stops");
            self.mapping_changed.cancel();
            "the mapping has changed"
        } else {
            "others wait, the worker stops, or its maintenance window is over"
        };
        tracing::info!(run_id = %run.id, org_id = %run.org, "gave the run back: {why}");
    }

    fn doubt_mapping(&self, failure: &Failure) {
        if failure.kind == "row_security" {
            self.mapping_doubted.notify_one();
        }
    }
}

/// Who waits for a group to make way.
enum Waiting {
    WindowIsClosed,
    UrgentRuns,
    Runs,
    Nobody,
}

/// How long a group has been at work without looking whether others wait.
struct TimeSlice {
    began: Instant,
    /// Whether not every run has had a batch yet.
    is_first_cycle: bool,
}

impl TimeSlice {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            is_first_cycle: true,
        }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= TIME_SLICE
    }
}

fn stopped(members: Vec<Member>) -> Vec<EndedRun> {
    let stopped = members.into_iter().map(|member| EndedRun {
        member,
        result: Err(PurgeError::Stopped),
    });
    stopped.collect()
}

fn failed_at_once(run: OwnedRun, span: Span, error: PurgeError) -> Attempt {
    Attempt {
        run,
        span,
        began: Instant::now(),
        plan: None,
        steps: Vec::new(),
        rows: 0,
        result: Err(error),
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

/// Tells what a run did to each table. A run with nothing to purge is told of in sum.
fn tell_steps(attempt: &Attempt, steps: &[StepTotal]) {
    let (run, plan) = (&attempt.run, attempt.plan);
    if steps.iter().all(|step| step.rows_purged == 0) {
        tracing::debug!(run_id = %run.id, org_id = %run.org, "nothing to purge");
        return;
    }
    for step in steps {
        tracing::info!(run_id = %run.id, org_id = %run.org, plan = plan.map(Plan::name), table = step.table,
            rows_purged = step.rows_purged, rows_kept = step.rows_kept,
            cutoff = step.cutoff.map(|cutoff| cutoff.to_rfc3339()),
            "purged {} rows from {}", step.rows_purged, step.table);
    }
}

fn tell_idle(attempts: &[Attempt]) {
    let idle = attempts.iter();
    let runs = idle
        .filter(|attempt| attempt.result.is_ok() && attempt.rows == 0)
        .count();
    if runs > 0 {
        tracing::info!(runs, "finished {runs} runs with nothing to purge");
    }
}

//! How attempts end: recorded, counted and told.

use tokio::time::Instant;
use tracing::Span;

use super::{Worker, record::Transition};
use crate::{
    ids::RunId,
    postgres,
    purge::{EndedRun, PurgeError},
    retention::Plan,
    runs::{
        self, Ending, Failure, Finish, Finished, Outcome, OwnedRun, RunStatus, StepDelta, StepTotal,
    },
    telemetry::logs::chain,
};

/// An attempt that is over.
pub(super) struct Attempt {
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

impl Attempt {
    /// An attempt that failed before anything was purged.
    pub(super) fn failed_at_once(run: OwnedRun, span: Span, error: PurgeError) -> Self {
        Self {
            run,
            span,
            began: Instant::now(),
            plan: None,
            steps: Vec::new(),
            rows: 0,
            result: Err(error),
        }
    }
}

impl Worker {
    pub(super) async fn end_runs(&self, ended: Vec<EndedRun>) -> Vec<RunId> {
        self.end(ended.into_iter().map(Attempt::from).collect())
            .await
    }

    /// Records how attempts end, counts them and tells about them. Returns the runs that have failed for good.
    pub(super) async fn end(&self, attempts: Vec<Attempt>) -> Vec<RunId> {
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
        let finish =
            async |again| Ok((runs::finish(&self.database, &endings, again).await?, again));
        match self.record(Transition::End, finish).await {
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
        let (status, steps) = match finished {
            Finished::Recorded(status, steps) => (status, steps),
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
        // A run that goes back to the queue has ended no attempt.
        if status != RunStatus::Queued {
            self.metrics
                .run_duration
                .observe(attempt.began.elapsed().as_secs_f64());
        }
        match ending {
            Ending::Succeeded if status != RunStatus::Succeeded => {
                tracing::warn!(run_id = %run.id, org_id = %run.org,
                    "the end of the run could not be recorded at once: the run goes back to the queue, and is verified again");
            }
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

//! How an attempt's end is recorded, counted and told.

use super::{
    Worker,
    recording::{Step, Unrecorded},
    report_steps,
};
use crate::{
    purge::{OwnedRun, PurgeError, Report},
    queue::{self, Settled, Verdict},
    telemetry::logs::chain,
};

impl Worker {
    pub(super) async fn succeed(
        &self,
        run: &OwnedRun,
        report: &Report,
    ) -> Result<Verdict, Unrecorded> {
        let (closed, is_repeated) = self
            .record_again(Step::End, || queue::succeed(&self.database, run, report))
            .await?;
        let Some(steps) = closed else {
            return self.superseded(run, is_repeated).await;
        };
        self.count("succeeded", &run.trigger);
        report_steps(run.id, run.org, report.plan, &steps);
        Ok(Verdict::Done)
    }

    pub(super) async fn fail(
        &self,
        run: &OwnedRun,
        error: &PurgeError,
    ) -> Result<Verdict, Unrecorded> {
        let (kind, why) = (error.kind(), chain(error));
        if kind == "row_security" {
            self.mapping_doubted.notify_one();
        }
        let fail = || queue::fail_or_retry(&self.database, run, error, self.backoff);
        let (settled, is_repeated) = self.record_again(Step::End, fail).await?;
        match settled {
            Settled::Retrying(wait) => {
                tracing::warn!(run_id = %run.id, org_id = %run.org, attempt = run.attempt, error_kind = kind,
                    error = why, "attempt failed; the next one is in {:.1} s", wait.as_secs_f64());
                self.count("retried", &run.trigger);
                Ok(Verdict::Done)
            }
            Settled::Failed => {
                tracing::error!(run_id = %run.id, org_id = %run.org, attempt = run.attempt, error_kind = kind,
                    error = why, "run failed");
                self.count("failed", &run.trigger);
                Ok(Verdict::Killed)
            }
            Settled::Cancelled => {
                tracing::info!(run_id = %run.id, org_id = %run.org, error_kind = kind, "run cancelled: {why}");
                self.count("cancelled", &run.trigger);
                Ok(Verdict::Done)
            }
            Settled::Superseded => self.superseded(run, is_repeated).await,
            Settled::Done => Ok(Verdict::Done),
        }
    }

    /// The run was cancelled under this attempt, or another worker took it over: whoever did has recorded it. Where the end was
    /// recorded more than once (`is_repeated`), an earlier try of ours may have been taken, its reply lost, and the run gone on.
    pub(super) async fn superseded(
        &self,
        run: &OwnedRun,
        is_repeated: bool,
    ) -> Result<Verdict, Unrecorded> {
        if self
            .record(Step::Other, |_| queue::was_cancelled(&self.database, run))
            .await?
        {
            self.count("cancelled", &run.trigger);
        } else if is_repeated {
            tracing::info!(run_id = %run.id, org_id = %run.org, attempt = run.attempt,
                "the run has gone on; whether this attempt's end was recorded before is unknown, since its reply was lost");
        } else {
            self.metrics.lease_losses.inc();
            tracing::warn!(run_id = %run.id, org_id = %run.org, attempt = run.attempt,
                "another worker took the run over; this attempt committed nothing more");
        }
        Ok(Verdict::Done)
    }
}

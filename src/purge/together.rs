//! Several small organizations purged in one transaction: on most nights most of them have a handful of rows to lose,
//! and a transaction each would cost more than the rows.
//!
//! Each is purged whole or not at all: one that is large, or has something in its way, is purged alone, batch by batch.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::Span;

use super::{
    at_rest::{AtRest, Findings, find, verified},
    pass::{Done, Place},
};
use crate::{ids::OrgId, postgres::Transaction, telemetry::logs::chain};

/// How much may be purged together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Expired rows of one organization: one with more is not small.
    pub each: i64,
    /// Expired rows in all.
    pub all: i64,
    /// Runs beside the delivery's own.
    pub others: i64,
}

/// What deletions aim at, with time to verify and close before the transaction must end.
const AIM: Duration = Duration::from_millis(75);
/// Where one takes longer than those before it, no further statement of it is begun: the others could not be closed.
const LATEST: Duration = Duration::from_millis(80);
/// How much work may be lost with the one that does not fit. A mark costs a round trip, as much as a few rows do.
const MARK_EVERY: Duration = Duration::from_millis(10);

/// Whether there is time for one like the `done` ones before it, which took so long together.
fn has_time(done: usize, elapsed: Duration) -> bool {
    let done = u32::try_from(done).unwrap_or(u32::MAX);
    done == 0 || elapsed + elapsed / done < AIM
}

/// Purges the first of `organizations`, each with its plan as it is written, and of the others as many as are small and there
/// is time for: each within the span that `span_of` makes for its place. Each that was purged, or had nothing to purge, is
/// verified, and comes back with its span; one that was not is `None`.
///
/// Nothing at all comes back where the first is too large or something is left behind: then the transaction is to be
/// rolled back, as after an error.
///
/// # Errors
/// When the database fails, or it takes too long.
pub async fn purge_together(
    tx: &mut Transaction<'_>,
    organizations: &[(OrgId, Option<&str>)],
    now: DateTime<Utc>,
    limits: Limits,
    span_of: impl Fn(usize) -> Span,
) -> sqlx::Result<Option<Vec<Option<(Span, AtRest)>>>> {
    let found = find(tx, organizations.to_vec(), now).await?;
    let (mut all, mut due) = (Vec::new(), Vec::new());
    for (n, found) in found.into_iter().enumerate() {
        match found.map(AtRest::try_from).transpose() {
            Ok(rest) => all.push(rest.map(|rest| (span_of(n), rest))),
            Err(found) => {
                all.push(None);
                due.push((n, organizations[n].0, found));
            }
        }
    }
    let purged = purge_small(tx, &due, limits, &span_of).await?;
    if all[0].is_none() && purged.first().is_none_or(|(n, ..)| *n > 0) {
        return Ok(None);
    }
    let asked = purged.iter().map(|(n, ..)| organizations[*n]).collect();
    let verified = verified(tx, asked, now).await?;
    for ((n, span, done), rest) in purged.into_iter().zip(verified) {
        let Some(rest) = rest else {
            return Ok(None);
        };
        all[n] = Some((span, rest.after(done)));
    }
    Ok(Some(all))
}

/// Purges those that are `due`, by their places, until one does not fit; an error of the first is everybody's.
async fn purge_small(
    tx: &mut Transaction<'_>,
    due: &[(usize, OrgId, Findings)],
    limits: Limits,
    span_of: &impl Fn(usize) -> Span,
) -> sqlx::Result<Vec<(usize, Span, Vec<Done>)>> {
    tx.begin_holding();
    let began = Instant::now();
    let (mut purged, mut left) = (Vec::new(), limits.all);
    let (mut marked, mut marked_at) = (0, began);
    for (n, org, found) in due {
        if left == 0 || !has_time(purged.len(), began.elapsed()) {
            break;
        }
        // Not before the delivery's own: without it all is rolled back. After the first one at once: it stays, whatever
        // becomes of those that follow.
        let is_own = *n == 0;
        if !is_own && (purged.len() < 2 || marked_at.elapsed() > MARK_EVERY) {
            tx.mark().await?;
            (marked, marked_at) = (purged.len(), Instant::now());
        }
        let span = span_of(*n);
        let until = (!purged.is_empty()).then(|| began + LATEST);
        match purge(tx, *org, found, limits.each.min(left), until, &span).await {
            Ok(Some(done)) => {
                left -= done.iter().map(|done| done.batch.seen).sum::<i64>();
                purged.push((*n, span, done));
                continue;
            }
            Ok(None) => {}
            Err(error) if purged.is_empty() => return Err(error),
            Err(error) => tracing::debug!(%org, error = chain(&error), "not together with others"),
        }
        // One that does not fit takes back what went since the mark, and nothing else: the transaction may close others.
        if !is_own {
            tx.back_to_mark().await?;
            purged.truncate(marked);
        }
        break;
    }
    Ok(purged)
}

/// Deletes what was `found` of one organization, with the statements that every purge deletes with; nothing comes back where
/// that is more than `limit` rows, or cannot be done `until` then.
async fn purge(
    tx: &mut Transaction<'_>,
    org: OrgId,
    found: &Findings,
    limit: i64,
    until: Option<Instant>,
    span: &Span,
) -> sqlx::Result<Option<Vec<Done>>> {
    let (mut all, mut left) = (Vec::new(), limit);
    for (n, dataset, scope) in found.due(org) {
        tx.keep_brief()?;
        if until.is_some_and(|until| Instant::now() > until) {
            return Ok(None);
        }
        let mut place = Place::in_dataset(n, &[], span.clone());
        let done = place.delete(tx, dataset, scope, left + 1).await?;
        if done.batch.seen > left {
            return Ok(None);
        }
        left -= done.batch.seen;
        if done.batch.seen > 0 {
            all.push(done);
        }
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_one_is_begun_only_when_it_will_likely_be_done_in_time() {
        let after = |done, millis| has_time(done, Duration::from_millis(millis));
        assert!(after(0, 0) && after(0, 200), "the first always is");
        assert!(after(1, 37) && !after(1, 38));
        assert!(after(20, 70) && !after(20, 72));
    }
}

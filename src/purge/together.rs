//! Several small organizations purged in one transaction: on most nights most of them have a handful of rows to lose,
//! and a transaction each would cost more than the rows.
//!
//! All or nothing: what is not undisturbed (a row that is held, one that came meanwhile) is purged alone, batch by batch.

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::Span;

use super::{
    AtRest, at_rest,
    batch_size::SHORT,
    datasets::{DATASETS, Scope},
    pass::{Done, Place},
};
use crate::{
    ids::OrgId,
    postgres::Transaction,
    retention::{Cutoffs, Plan},
};

/// Purges the first of `organizations`, each with its plan as it is written, and of the others those that, with it, come to
/// no more than `limit` expired rows and a moment's work: each within the span that `span_of` makes for its place. Each that
/// was purged is verified, and comes back with its span; one that was not is `None`.
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
    limit: i64,
    span_of: impl Fn(usize) -> Span,
) -> sqlx::Result<Option<Vec<Option<(Span, AtRest)>>>> {
    let sized = size_up(tx, organizations, now, limit).await?;
    tx.begin_holding();
    let began = Instant::now();
    let mut left = limit;
    let mut purged = Vec::with_capacity(organizations.len());
    for (n, sized) in sized.iter().enumerate() {
        let fits = |sized: &&Sized| sized.rows() <= left && began.elapsed() < SHORT;
        let Some(sized) = sized.as_ref().filter(fits) else {
            if n == 0 {
                return Ok(None);
            }
            purged.push(None);
            continue;
        };
        left -= sized.rows();
        let span = span_of(n);
        let done = purge(tx, organizations[n].0, sized, &span).await?;
        purged.push(Some((span, done)));
    }
    tx.keep_brief()?;
    verify(tx, organizations, purged, now).await
}

/// What an organization has to lose.
struct Sized {
    cutoffs: Cutoffs,
    /// Expired rows, protected ones too, in the datasets' order.
    expired: Vec<i64>,
}

impl Sized {
    fn rows(&self) -> i64 {
        self.expired.iter().sum()
    }
}

/// Counts up to a little over `limit` in each dataset; nothing of an organization whose plan is unknown.
async fn size_up(
    tx: &mut Transaction<'_>,
    organizations: &[(OrgId, Option<&str>)],
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Option<Sized>>> {
    let mut sized: Vec<_> = organizations
        .iter()
        .map(|(_, plan)| {
            let plan: Plan = plan.as_ref()?.parse().ok()?;
            Some(Sized {
                cutoffs: plan.policy().cutoffs(now),
                expired: vec![0; DATASETS.len()],
            })
        })
        .collect();
    for (n, dataset) in DATASETS.iter().enumerate() {
        let (scopes, counts): (Vec<_>, Vec<_>) = organizations
            .iter()
            .zip(&mut sized)
            .filter_map(|((org, _), sized)| {
                let sized = sized.as_mut()?;
                let cutoff = sized.cutoffs.get(dataset.name())?;
                Some((Scope { org: *org, cutoff }, &mut sized.expired[n]))
            })
            .unzip();
        let found = dataset.expired(tx, &scopes, limit + 1).await?;
        for (count, found) in counts.into_iter().zip(found) {
            *count = found;
        }
    }
    Ok(sized)
}

/// Deletes what one organization has to lose, with the statements that every purge deletes with.
async fn purge(
    tx: &mut Transaction<'_>,
    org: OrgId,
    sized: &Sized,
    span: &Span,
) -> sqlx::Result<Vec<Done>> {
    let mut done = Vec::new();
    for (n, dataset) in DATASETS.iter().enumerate() {
        let Some(cutoff) = sized.cutoffs.get(dataset.name()) else {
            continue;
        };
        if sized.expired[n] == 0 {
            continue;
        }
        tx.keep_brief()?;
        let scope = Scope { org, cutoff };
        let mut place = Place::in_dataset(n, &[], span.clone());
        let limit = sized.expired[n] + 1;
        done.push(place.delete(tx, *dataset, scope, limit).await?);
    }
    Ok(done)
}

/// Asks whether those that were purged have nothing left, by other SQL than the deletes'.
async fn verify(
    tx: &mut Transaction<'_>,
    organizations: &[(OrgId, Option<&str>)],
    purged: Vec<Option<(Span, Vec<Done>)>>,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Vec<Option<(Span, AtRest)>>>> {
    let asked = organizations.iter().zip(&purged);
    let asked = asked.filter(|(_, purged)| purged.is_some());
    let asked = asked.map(|(organization, _)| *organization).collect();
    let mut verified = at_rest(tx, asked, now).await?.into_iter();
    let mut all = Vec::with_capacity(purged.len());
    for purged in purged {
        let Some((span, done)) = purged else {
            all.push(None);
            continue;
        };
        let Some(rest) = verified.next().flatten() else {
            return Ok(None);
        };
        all.push(Some((span, rest.after(done))));
    }
    Ok(Some(all))
}

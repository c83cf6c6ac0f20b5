//! Which of many organizations have nothing to purge, asked with the same SQL that verifies a purge.

use chrono::{DateTime, Utc};

use super::datasets::{DATASETS, Remains, Scope};
use crate::{
    ids::OrgId,
    postgres::Transaction,
    retention::{Cutoff, Cutoffs, Plan},
};

/// An organization with nothing to purge.
#[derive(Debug, Clone)]
pub struct AtRest {
    /// Its plan.
    pub plan: Plan,
    cutoffs: Cutoffs,
    remains: Vec<Remains>,
}

impl AtRest {
    /// For every table its cutoff, none where there is no rule, and how many expired rows a rule protects.
    pub fn by_table(&self) -> impl Iterator<Item = (&'static str, Option<Cutoff>, u64)> {
        DATASETS
            .iter()
            .zip(&self.remains)
            .flat_map(|(dataset, remains)| {
                let cutoff = self.cutoffs.get(dataset.name());
                let tables = dataset.tables().iter().zip(&remains.kept);
                tables.map(move |(table, kept)| (*table, cutoff, *kept))
            })
    }
}

/// For each organization, with its plan as it is written: whether it has nothing to purge as of `now`. One whose plan
/// is unknown has neither something nor nothing.
///
/// # Errors
/// When the database fails.
pub async fn at_rest(
    tx: &mut Transaction<'_>,
    organizations: Vec<(OrgId, Option<&str>)>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Option<AtRest>>> {
    let mut found: Vec<_> = organizations
        .iter()
        .map(|(_, plan)| {
            let plan: Plan = plan.as_ref()?.parse().ok()?;
            Some(AtRest {
                plan,
                cutoffs: plan.policy().cutoffs(now),
                remains: Vec::with_capacity(DATASETS.len()),
            })
        })
        .collect();
    for dataset in DATASETS {
        let asked: Vec<_> = found
            .iter()
            .zip(&organizations)
            .map(|(rest, (org, _))| {
                let cutoff = rest.as_ref()?.cutoffs.get(dataset.name())?;
                Some(Scope { org: *org, cutoff })
            })
            .collect();
        let scopes: Vec<Scope> = asked.iter().flatten().copied().collect();
        let mut answers = dataset.remains(tx, &scopes, 1).await?.into_iter();
        for (rest, asked) in found.iter_mut().zip(asked) {
            let nothing = Remains::nothing(dataset.tables().len());
            let remains = asked.and_then(|_| answers.next()).unwrap_or(nothing);
            // What has something in one dataset need not be looked at in the next.
            let is_clean = remains.is_clean();
            if let Some(known) = rest {
                known.remains.push(remains);
            }
            if !is_clean {
                *rest = None;
            }
        }
    }
    Ok(found)
}

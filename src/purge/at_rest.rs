//! Which of many organizations have nothing to purge, or nothing any more, and in which datasets the others have something:
//! asked with the same SQL that verifies a purge.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    ClosedStep,
    datasets::{DATASETS, Dataset, Remains, Scope},
    pass::Done,
};
use crate::{
    ids::OrgId,
    postgres::Transaction,
    retention::{Cutoff, Cutoffs, Plan},
    telemetry::metrics::Metrics,
};

/// So many of an organization's oldest expired rows are looked at first; as many times more where rules protect them all.
const FEW: i64 = 4;

/// What was found of an organization.
#[derive(Debug, Clone)]
pub(super) struct Findings {
    plan: Plan,
    cutoffs: Cutoffs,
    /// By dataset.
    remains: Vec<Remains>,
}

impl Findings {
    fn is_clean(&self) -> bool {
        self.remains.iter().all(Remains::is_clean)
    }

    /// The datasets, by their places, in which `org` has something to purge.
    pub(super) fn due(
        &self,
        org: OrgId,
    ) -> impl Iterator<Item = (usize, &'static dyn Dataset, Scope)> {
        let datasets = DATASETS.iter().zip(&self.remains).enumerate();
        datasets.filter_map(move |(n, (dataset, remains))| {
            let cutoff = self.cutoffs.get(dataset.name())?;
            (!remains.is_clean()).then_some((n, *dataset, Scope { org, cutoff }))
        })
    }
}

/// An organization with nothing to purge.
#[derive(Debug, Clone)]
pub struct AtRest {
    found: Findings,
    /// What the same transaction purged before.
    done: Vec<Done>,
}

impl TryFrom<Findings> for AtRest {
    type Error = Findings;

    /// Where there is something to purge, what was found comes back.
    fn try_from(found: Findings) -> Result<Self, Findings> {
        if found.is_clean() {
            Ok(Self {
                found,
                done: Vec::new(),
            })
        } else {
            Err(found)
        }
    }
}

/// What the record says of one of its tables.
#[derive(Debug, Clone, Copy)]
pub struct RestingTable<'a> {
    /// The table.
    pub table: &'static str,
    /// Rows strictly older are gone; none: no rule.
    pub cutoff: Option<Cutoff>,
    /// How many of them went just now.
    pub purged: u64,
    /// How many are there still, protected by a rule.
    pub kept: u64,
    /// Whether the table was gone over just now.
    pub is_swept: bool,
    /// Rows of other tables that went along, by table.
    pub cascaded: Option<&'a Value>,
    /// The last row that was looked at then, of a dataset's own table: its timestamp and key.
    pub last: Option<(&'a str, &'a str)>,
}

impl From<RestingTable<'_>> for ClosedStep {
    fn from(table: RestingTable<'_>) -> Self {
        Self {
            table_name: table.table.to_owned(),
            cutoff: table.cutoff.map(|cutoff| cutoff.0),
            rows_purged: i64::try_from(table.purged).unwrap_or(i64::MAX),
            rows_kept: i64::try_from(table.kept).unwrap_or(i64::MAX),
        }
    }
}

impl AtRest {
    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.found.plan
    }

    /// The same after what was `done`.
    pub(super) fn after(self, done: Vec<Done>) -> Self {
        Self { done, ..self }
    }

    /// What the record says of every table.
    pub fn by_table(&self) -> impl Iterator<Item = RestingTable<'_>> {
        DATASETS
            .iter()
            .zip(&self.found.remains)
            .flat_map(move |(dataset, remains)| {
                let name = dataset.name();
                let done = self.done.iter().find(|done| done.dataset.name() == name);
                let done = done.filter(|done| done.batch.rows() > 0);
                let tables = dataset.tables().iter().zip(&remains.kept).enumerate();
                tables.map(move |(n, (table, kept))| RestingTable {
                    table,
                    cutoff: self.found.cutoffs.get(name),
                    purged: done.map_or(0, |done| done.batch.purged[n]),
                    kept: *kept,
                    is_swept: done.is_some(),
                    cascaded: done
                        .filter(|_| n == 0)
                        .and_then(|done| done.cascaded.as_ref()),
                    last: done
                        .filter(|_| n == 0)
                        .and_then(|done| done.progress.last()),
                })
            })
    }

    /// Counts what was purged, once it is committed.
    pub fn count(&self, metrics: &Metrics) {
        for done in &self.done {
            done.count(metrics, self.plan());
        }
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
    resting(tx, organizations, now, FEW).await
}

/// In which datasets each of them has something to purge; none where the plan is unknown.
pub(super) async fn find(
    tx: &mut Transaction<'_>,
    organizations: Vec<(OrgId, Option<&str>)>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Option<Findings>>> {
    look(tx, organizations, now, FEW, Depth::All).await
}

/// The same as [`at_rest`] right after a purge: what was purged is walked over, and once is enough.
pub(super) async fn verified(
    tx: &mut Transaction<'_>,
    organizations: Vec<(OrgId, Option<&str>)>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Option<AtRest>>> {
    resting(tx, organizations, now, i64::MAX).await
}

async fn resting(
    tx: &mut Transaction<'_>,
    organizations: Vec<(OrgId, Option<&str>)>,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Option<AtRest>>> {
    let found = look(tx, organizations, now, limit, Depth::FirstDue).await?;
    let resting = found.into_iter().map(|found| AtRest::try_from(found?).ok());
    Ok(resting.collect())
}

/// Where to stop looking at an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// What has something in one dataset need not be looked at in the next.
    FirstDue,
    /// Every dataset.
    All,
}

async fn look(
    tx: &mut Transaction<'_>,
    organizations: Vec<(OrgId, Option<&str>)>,
    now: DateTime<Utc>,
    limit: i64,
    depth: Depth,
) -> sqlx::Result<Vec<Option<Findings>>> {
    let mut found: Vec<_> = organizations
        .iter()
        .map(|(_, plan)| {
            let plan: Plan = plan.as_ref()?.parse().ok()?;
            Some(Findings {
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
            .map(|(found, (org, _))| {
                let found = found.as_ref()?;
                let cutoff = found.cutoffs.get(dataset.name())?;
                (depth == Depth::All || found.is_clean()).then_some(Scope { org: *org, cutoff })
            })
            .collect();
        let scopes: Vec<Scope> = asked.iter().flatten().copied().collect();
        tx.keep_brief()?;
        let mut answers = remains(tx, *dataset, &scopes, limit).await?.into_iter();
        for (found, asked) in found.iter_mut().zip(asked) {
            let nothing = Remains::nothing(dataset.tables().len());
            let remains = asked.and_then(|_| answers.next()).unwrap_or(nothing);
            if let Some(found) = found {
                found.remains.push(remains);
            }
        }
    }
    Ok(found)
}

/// What is left of a dataset, for each of the scopes; where something is left among the oldest `limit` rows, the others
/// are not looked at.
async fn remains(
    tx: &mut Transaction<'_>,
    dataset: &dyn Dataset,
    scopes: &[Scope],
    mut limit: i64,
) -> sqlx::Result<Vec<Remains>> {
    if scopes.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = dataset.remains(tx, scopes, limit).await?;
    loop {
        let unknown: Vec<_> = (0..found.len())
            .filter(|n| found[*n].is_clean() && !found[*n].is_whole)
            .collect();
        if unknown.is_empty() {
            return Ok(found);
        }
        limit *= FEW;
        tx.keep_brief()?;
        let asked: Vec<_> = unknown.iter().map(|n| scopes[*n]).collect();
        let more = dataset.remains(tx, &asked, limit).await?;
        for (n, more) in unknown.into_iter().zip(more) {
            found[n] = more;
        }
    }
}

//! How far behind the promises the whole database is: what the gauges show.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::datasets::DATASETS;
use crate::{
    ids::OrgId,
    postgres::{self, Database},
    retention::Plan,
};

/// How many of the worst organizations are named.
const NAMED: usize = 100;

/// How far behind the promises the database is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Overdue {
    /// By dataset, under its first table's name: seconds that the oldest expired row is past its cutoff.
    pub seconds: BTreeMap<String, f64>,
    /// How many organizations have an expired, unprotected row.
    pub organizations: i64,
    /// Some of them, the worst first.
    pub worst: Vec<OverdueOrganization>,
    /// Plans that are unknown, as they are written, and how many organizations have each.
    pub unknown_plans: BTreeMap<String, i64>,
}

/// An organization with an expired, unprotected row.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct OverdueOrganization {
    /// The organization.
    pub id: OrgId,
    /// How many seconds its oldest such row is past its cutoff.
    pub seconds: f64,
}

impl Overdue {
    /// Organizations whose plan is unknown.
    #[must_use]
    pub fn unresolved(&self) -> i64 {
        self.unknown_plans.values().sum()
    }
}

/// Looks at the oldest expired row of every organization and dataset; pauses between two datasets.
///
/// # Errors
/// When the database fails.
pub async fn overdue(database: &Database, pause: Duration) -> sqlx::Result<Overdue> {
    let now = postgres::now(database).await?;
    let spellings = sqlx::query!(
        r#"-- purge.plan_spellings
        SELECT retention.excerpt(coalesce(plan, '')) AS "plan!", count(*) AS "organizations!" FROM main_app.organizations GROUP BY 1"#
    )
    .fetch_all(database)
    .await?;
    let mut found = Overdue::default();
    let mut known = Vec::new();
    for spelling in spellings {
        match spelling.plan.parse::<Plan>() {
            Ok(plan) => known.push((spelling.plan, plan.policy().cutoffs(now))),
            Err(_) => {
                found
                    .unknown_plans
                    .insert(spelling.plan, spelling.organizations);
            }
        }
    }
    let mut organizations: HashMap<OrgId, f64> = HashMap::new();
    for dataset in DATASETS {
        let (plans, cutoffs): (Vec<_>, Vec<_>) = known
            .iter()
            .filter_map(|(plan, cutoffs)| Some((plan.clone(), cutoffs.get(dataset.name())?.0)))
            .unzip();
        sleep(pause).await;
        let mut tx = database.begin().await?;
        let rows = dataset.overdue(&mut tx, &plans, &cutoffs).await?;
        tx.commit().await?;
        let oldest = rows.iter().map(|row| row.seconds).fold(0.0, f64::max);
        found.seconds.insert(dataset.tables()[0].to_owned(), oldest);
        for row in rows {
            let worst = organizations.entry(OrgId(row.org)).or_default();
            *worst = worst.max(row.seconds);
        }
    }
    found.organizations = i64::try_from(organizations.len()).unwrap_or(i64::MAX);
    found.worst = organizations
        .into_iter()
        .map(|(id, seconds)| OverdueOrganization { id, seconds })
        .collect();
    found
        .worst
        .sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then(a.id.cmp(&b.id)));
    found.worst.truncate(NAMED);
    Ok(found)
}

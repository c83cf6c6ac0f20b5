//! What a purge now would remove. Changes nothing.

use sqlx::PgPool;

use super::datasets::{DATASETS, Scope, tables};
use crate::{
    ids::OrgId,
    postgres,
    retention::{self, Plan, ResolveError},
    telemetry::logs,
};

/// What a purge of one organization would remove now.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The organization.
    pub org: OrgId,
    /// Its plan, or why there is none.
    pub plan: Result<Plan, String>,
    /// Rows by table, in the datasets' order; all 0 where the plan is unresolved.
    pub tables: Vec<(&'static str, u64)>,
}

/// Counts what a purge of `org` would remove now.
///
/// # Errors
/// When the organization does not exist or the database fails. An unknown plan is no error here: nothing would go.
pub async fn preview(pool: &PgPool, org: OrgId) -> Result<Preview, ResolveError> {
    let mut tx = postgres::begin_reading(pool).await?;
    let nothing = || tables().map(|table| (table, 0)).collect();
    let plan = match retention::resolve(&mut tx, org).await {
        Ok(plan) => plan,
        Err(error @ ResolveError::UnknownPlan(..)) => {
            let why = logs::chain(&error);
            return Ok(Preview {
                org,
                plan: Err(why),
                tables: nothing(),
            });
        }
        Err(error) => return Err(error),
    };
    let now = postgres::now(&mut tx).await?;
    let cutoffs = plan.policy().cutoffs(now);
    let mut tables = Vec::new();
    for dataset in DATASETS {
        let counts = match cutoffs.get(dataset.name()) {
            Some(cutoff) => {
                dataset
                    .count_expired(&mut tx, Scope { org, cutoff })
                    .await?
            }
            None => vec![0; dataset.tables().len()],
        };
        tables.extend(dataset.tables().iter().copied().zip(counts));
    }
    Ok(Preview {
        org,
        plan: Ok(plan),
        tables,
    })
}

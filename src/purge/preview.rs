//! What a purge now would remove. Changes nothing.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::datasets::{DATASETS, Scope, tables};
use crate::{
    ids::OrgId,
    postgres::{self, Database, Reading},
    retention::{self, Plan, ResolveError},
};

/// What a purge of one organization would remove now. Serializes as the contract's JSON.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Preview {
    /// The organization.
    pub org_id: OrgId,
    /// Its plan; none where it cannot be resolved: then nothing would go.
    #[schema(value_type = Option<String>)]
    pub plan: Option<Plan>,
    /// Rows that would go, by table.
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    pub tables: RowsByTable,
    /// `policy_unresolved` where the plan cannot be resolved.
    pub error_kind: Option<&'static str>,
}

/// Rows by table, in the datasets' order. Serializes as a map.
#[derive(Debug, Clone)]
pub struct RowsByTable(pub Vec<(&'static str, u64)>);

impl Serialize for RowsByTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// Counts what a purge of `org` would remove now.
///
/// # Errors
/// When the organization does not exist or the database fails. An unknown plan is no error here: nothing would go.
pub async fn preview(reading: &Reading, org: OrgId) -> Result<Preview, ResolveError> {
    let mut turn = reading.begin();
    loop {
        match preview_on(turn.database(), org).await {
            Err(ResolveError::Database(error)) if turn.goes_on_after(&error) => {}
            // A replica may not have heard of it yet.
            Err(ResolveError::NoOrganization(_)) if turn.goes_on_to_the_primary() => {}
            outcome => return outcome,
        }
    }
}

async fn preview_on(database: &Database, org: OrgId) -> Result<Preview, ResolveError> {
    let mut tx = database.begin_reading().await?;
    let plan = match retention::resolve(&mut tx, org).await {
        Ok(plan) => plan,
        Err(ResolveError::UnknownPlan(..)) => {
            return Ok(Preview {
                org_id: org,
                plan: None,
                tables: RowsByTable(tables().map(|table| (table, 0)).collect()),
                error_kind: Some("policy_unresolved"),
            });
        }
        Err(error) => return Err(error),
    };
    let cutoffs = plan.policy().cutoffs(postgres::now(&mut tx).await?);
    let mut rows = Vec::new();
    for dataset in DATASETS {
        let counts = match cutoffs.get(dataset.name()) {
            Some(cutoff) => {
                dataset
                    .count_expired(&mut tx, Scope { org, cutoff })
                    .await?
            }
            None => vec![0; dataset.tables().len()],
        };
        rows.extend(dataset.tables().iter().copied().zip(counts));
    }
    Ok(Preview {
        org_id: org,
        plan: Some(plan),
        tables: RowsByTable(rows),
        error_kind: None,
    })
}

//! Explains a statement without running it: whether Postgres accepts it, and which tables it would read.

use serde::Deserialize;
use sqlx::{AssertSqlSafe, types::Json};

use super::Database;

/// The parts of a query plan that say where rows come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlanNode {
    /// `Seq Scan`, `Append`, …
    #[serde(rename = "Node Type")]
    pub node_type: String,
    /// The scanned table.
    #[serde(rename = "Relation Name")]
    pub relation: Option<String>,
    /// The condition that rows must meet.
    pub filter: Option<String>,
    /// `false` if the node can never return a row.
    #[serde(rename = "One-Time Filter")]
    pub one_time_filter: Option<String>,
    /// The output expressions, one per column, as Postgres writes them.
    #[serde(default)]
    pub output: Vec<String>,
    /// The child nodes.
    #[serde(default)]
    pub plans: Vec<PlanNode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Explained {
    plan: PlanNode,
}

/// Returns the plan of `statement` without running it.
///
/// # Errors
/// The error that the statement would raise before its first row: a missing table or right, a policy that hides rows,
/// or a view that does not support deletion.
#[expect(
    clippy::disallowed_methods,
    reason = "the views may not exist, so no macro can check the statement"
)]
pub async fn explain(database: &Database, statement: &str) -> sqlx::Result<PlanNode> {
    let explain = format!("EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {statement}");
    let Json(explained) = sqlx::query_scalar::<_, Json<Vec<Explained>>>(AssertSqlSafe(explain))
        .persistent(false)
        .fetch_one(database)
        .await?;
    let plan = explained.into_iter().next().map(|explained| explained.plan);
    plan.ok_or(sqlx::Error::RowNotFound)
}

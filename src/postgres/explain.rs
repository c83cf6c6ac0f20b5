//! What Postgres makes of a statement, without running it: whether it may, and which tables it would read.

use serde::Deserialize;
use sqlx::{AssertSqlSafe, types::Json};

use super::Database;

/// A plan, as far as it tells where rows come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlanNode {
    /// `Seq Scan`, `Append`, …
    #[serde(rename = "Node Type")]
    pub node_type: String,
    /// The table that is scanned.
    #[serde(rename = "Relation Name")]
    pub relation: Option<String>,
    /// The condition that rows must meet.
    pub filter: Option<String>,
    /// `false` where no row can ever come.
    #[serde(rename = "One-Time Filter")]
    pub one_time_filter: Option<String>,
    /// What it puts out, column by column, as Postgres writes expressions.
    #[serde(default)]
    pub output: Vec<String>,
    /// Where its rows come from.
    #[serde(default)]
    pub plans: Vec<PlanNode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Explained {
    plan: PlanNode,
}

/// The plan of `statement`, which is not run.
///
/// # Errors
/// What the statement itself would fail of before its first row: a missing table or right, a policy that would hide rows,
/// a view that cannot be deleted from.
#[expect(
    clippy::disallowed_methods,
    reason = "the views to explain may be missing: no macro can check them"
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

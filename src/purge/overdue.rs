//! How far behind the promises the whole database is: what the gauges show.

use std::collections::HashSet;

use sqlx::PgPool;

use super::datasets::DATASETS;
use crate::{postgres, retention::Plan};

/// How far behind the promises the database is.
#[derive(Debug, Default)]
pub struct Overdue {
    /// By dataset, under its first table's name: seconds that the oldest expired row is past its cutoff.
    pub seconds: Vec<(&'static str, f64)>,
    /// Organizations with an expired, unprotected row.
    pub organizations: usize,
    /// Organizations whose plan is unknown.
    pub unresolved: i64,
}

/// Looks at the oldest expired row of every organization and dataset.
///
/// # Errors
/// When the database fails.
pub async fn overdue(pool: &PgPool) -> sqlx::Result<Overdue> {
    let mut conn = pool.acquire().await?;
    let now = postgres::now(&mut conn).await?;
    let spellings = sqlx::query!(
        r#"-- purge.plan_spellings
        SELECT plan, count(*) AS "organizations!" FROM public.organizations GROUP BY plan"#
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut found = Overdue::default();
    let mut known = Vec::new();
    for spelling in spellings {
        match spelling.plan.parse::<Plan>() {
            Ok(plan) => known.push((spelling.plan, plan.policy().cutoffs(now))),
            Err(_) => found.unresolved += spelling.organizations,
        }
    }
    let mut organizations = HashSet::new();
    for dataset in DATASETS {
        let (plans, cutoffs): (Vec<_>, Vec<_>) = known
            .iter()
            .filter_map(|(plan, cutoffs)| Some((plan.clone(), cutoffs.get(dataset.name())?.0)))
            .unzip();
        let rows = dataset.overdue(&mut conn, &plans, &cutoffs).await?;
        let oldest = rows.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
        found.seconds.push((dataset.tables()[0], oldest));
        organizations.extend(rows.into_iter().map(|(org, _)| org));
    }
    found.organizations = organizations.len();
    Ok(found)
}

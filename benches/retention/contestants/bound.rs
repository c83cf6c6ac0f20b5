//! The bound: what Postgres needs to delete these rows at all. One statement per table over the whole database, on
//! one connection, each its own transaction, with all the rules. Flags go by the foreign key's cascade, which was the
//! fastest of what was tried: an explicit DELETE of the flags first leaves the cascade to look for them once more.

use std::time::Instant;

use anyhow::Result;

use super::Outcome;
use crate::sql;

pub(super) async fn purge(url: &str) -> Result<Outcome> {
    let mut connection = sql::connection(url).await?;
    sql::script(&mut connection, "SET work_mem = '256MB'").await?;
    sql::script(&mut connection, include_str!("bound.sql")).await?;
    let began = Instant::now();
    for statement in [
        include_str!("bound_checks.sql"),
        include_str!("bound_payloads.sql"),
        include_str!("bound_approvals.sql"),
    ] {
        sql::execute(&mut connection, statement).await?;
    }
    Ok(Outcome::taking(began.elapsed()))
}

//! Whether exactly the right rows went, by SQL that shares nothing with those that delete: what must stay is worked
//! out on the seeded database, row by row, and compared with what did.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use sqlx::{PgPool, Row};

use crate::sql;

const ROWS: &str = include_str!("rows.sql");
/// The tables that lose rows.
pub(crate) const PURGED: [&str; 4] = [
    "drift_checks",
    "workflow_drift_flags",
    "incident_payloads",
    "approvals",
];

/// Count and checksum by table.
type Rows = BTreeMap<String, (i64, i64)>;

/// What is there before a purge, and what must be there after it.
pub(crate) struct Expected {
    seeded: Rows,
    stays: Rows,
}

impl Expected {
    /// Works it out on a seeded database.
    pub(crate) async fn of(url: &str) -> Result<Self> {
        let pool = sql::pool(url)?;
        let expected = Self {
            seeded: rows(&pool, false).await?,
            stays: rows(&pool, true).await?,
        };
        pool.close().await;
        Ok(expected)
    }

    /// How many rows of a table there are, and how many of them must go.
    pub(crate) fn table(&self, table: &str) -> (u64, u64) {
        let count = |rows: &Rows| rows.get(table).map_or(0, |(count, _)| *count);
        let there = count(&self.seeded);
        let goes = there - count(&self.stays);
        (there.unsigned_abs(), goes.unsigned_abs())
    }

    /// How many rows must go in all.
    pub(crate) fn goes(&self) -> u64 {
        PURGED.iter().map(|table| self.table(table).1).sum()
    }

    /// Compares with a copy that was purged.
    pub(crate) async fn check(&self, pool: &PgPool) -> Result<()> {
        let left = rows(pool, false).await?;
        if left == self.stays {
            return Ok(());
        }
        for (table, should) in &self.stays {
            let is = left.get(table).copied().unwrap_or_default();
            if is != *should {
                println!(
                    "{table}: {} rows, checksum {}; must be {} rows, checksum {}",
                    is.0, is.1, should.0, should.1
                );
            }
        }
        bail!("not exactly the right rows went")
    }

    /// Compares what the product recorded with what went.
    pub(crate) async fn check_records(&self, pool: &PgPool) -> Result<()> {
        let recorded = sql::rows(
            pool,
            "-- bench.verify.records
             SELECT table_name, sum(rows_purged)::bigint AS rows FROM retention.purge_run_steps GROUP BY table_name",
        )
        .await?;
        for row in recorded {
            let (table, rows): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let (_, goes) = self.table(&table);
            if goes != rows.unsigned_abs() {
                bail!("{table}: {goes} rows went, and the runs recorded {rows}");
            }
        }
        Ok(())
    }
}

/// After a purge beside which the main app wrote: nothing is left that would have to go. Approvals are not looked at:
/// those of an incident that was closed meanwhile may be due only since then.
pub(crate) async fn check_nothing_due(pool: &PgPool) -> Result<()> {
    let (is, stays) = (rows(pool, false).await?, rows(pool, true).await?);
    for table in PURGED.into_iter().filter(|table| *table != "approvals") {
        if is.get(table) != stays.get(table) {
            bail!("{table}: expired rows are left");
        }
    }
    Ok(())
}

async fn rows(pool: &PgPool, before: bool) -> Result<Rows> {
    let found = sql::rows(pool, &ROWS.replace("{before}", &before.to_string())).await?;
    let mut tables = Rows::new();
    for row in found {
        tables.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    Ok(tables)
}

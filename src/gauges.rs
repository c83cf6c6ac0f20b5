//! The gauges' loop: what only the database knows is read in the background at a fixed interval, never by a
//! scrape. A failure keeps the last values.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    purge, queue,
    telemetry::{
        logs::chain,
        metrics::{Metrics, STATUSES},
    },
};

/// How old a gauge can be.
const REFRESH_EVERY: Duration = Duration::from_secs(30);

/// Refreshes the gauges until dropped.
pub async fn keep_fresh(pool: PgPool, metrics: Arc<Metrics>) {
    let mut ticks = interval(REFRESH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = refresh(&pool, &metrics).await {
            tracing::warn!(
                error = chain(&error),
                "cannot refresh the gauges; they keep their last values"
            );
        }
    }
}

/// Reads every gauge once.
///
/// # Errors
/// When the database fails; then some keep their last values.
#[allow(
    clippy::cast_possible_wrap,
    reason = "a count of organizations fits in 63 bits"
)]
pub async fn refresh(pool: &PgPool, metrics: &Metrics) -> sqlx::Result<()> {
    let runs = queue::count_by_status(pool).await?;
    for status in STATUSES {
        let count = runs.get(status).copied().unwrap_or(0);
        metrics.queue_runs.with_label_values(&[status]).set(count);
    }
    let overdue = purge::overdue(pool).await?;
    for (table, seconds) in &overdue.seconds {
        metrics.overdue.with_label_values(&[table]).set(*seconds);
    }
    metrics
        .organizations_overdue
        .set(overdue.organizations as i64);
    metrics.organizations_unresolved.set(overdue.unresolved);
    Ok(())
}

//! `purge`: enqueues; follows the runs, or works them off here, when asked to.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Result;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Settings,
    database::Use,
    output::{self, say},
    serve::new_metrics,
    stopping,
    whose::Whose,
};
use crate::{
    attach::{AttachError, Depth},
    config::Config,
    figures,
    postgres::Database,
    purge::datasets,
    queue::{self, Enqueued, Lease, Total},
    retention::Plan,
    worker::Worker,
};

/// Organizations per transaction.
const CHUNK: usize = 500;
/// How often the runs are looked at.
const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    whose: Whose,
    /// Follow the runs to their end
    #[arg(long, conflicts_with = "work")]
    wait: bool,
    /// Work the runs off in this process, then exit
    #[arg(long)]
    work: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: PurgeArgs, settings: &Settings) -> Result<ExitCode> {
    // Who works them off here calls the mapping's functions: they are tried first.
    let depth = if args.work {
        Depth::Trial
    } else {
        Depth::Structure
    };
    let (config, database) = settings.ready_database_to(Use::Ask, depth).await?;
    let mut runs = enqueue(&database, &args.whose, args.reason.as_deref()).await?;
    let ids: Vec<Uuid> = runs.iter().map(|run| run.run_id.0).collect();
    let stop = stopping::on_signal()?;
    let follow = args.wait || args.work;
    if args.work {
        work(&config, &database, &ids, &stop).await?;
    } else if args.wait {
        let lease = Lease::of(config.worker.heartbeat);
        if queue::live_workers(&database, lease).await? == 0 {
            output::complain(
                "warning: no worker is alive: the runs wait until `drift-retention serve` works them off; \
                 `purge --work` does it here",
            );
        }
        finished(&database, &ids, &stop).await?;
    }
    let failed = if follow {
        conclude(&database, &mut runs, args.json).await?
    } else {
        false
    };
    if args.json {
        output::json(&json!({"runs": runs}))?;
    } else if !follow {
        print_enqueued(&runs)?;
    }
    Ok(if failed || (follow && stop.is_cancelled()) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn enqueue(
    database: &Database,
    whose: &Whose,
    reason: Option<&str>,
) -> Result<Vec<Enqueued>> {
    let by = output::actor();
    if let Some(org) = whose.org {
        let mut tx = database.begin().await?;
        let run = queue::enqueue_purge(&mut tx, org, &by, reason).await?;
        tx.commit().await?;
        return Ok(vec![run]);
    }
    let orgs: Vec<Uuid> = whose
        .ids(database)
        .await?
        .into_iter()
        .map(|org| org.0)
        .collect();
    let bar = output::progress(orgs.len(), "enqueueing");
    let mut runs = Vec::with_capacity(orgs.len());
    for chunk in orgs.chunks(CHUNK) {
        let mut tx = database.begin().await?;
        runs.extend(queue::enqueue_purges(&mut tx, chunk, &by, reason).await?);
        tx.commit().await?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(runs)
}

/// Works in this process until the runs are final.
pub(super) async fn work(
    config: &Config,
    database: &Database,
    ids: &[Uuid],
    stop: &CancellationToken,
) -> Result<()> {
    let worker = Worker::new(database.clone(), new_metrics()?, config);
    let enough = stop.child_token();
    let (followed, ()) = tokio::join!(
        async {
            let followed = tokio::select! {
                followed = finished(database, ids, stop) => followed,
                () = worker.mapping_changed.cancelled() => Err(AttachError::Changed.into()),
            };
            enough.cancel();
            followed
        },
        worker.run(&enough)
    );
    followed
}

/// Follows the runs until they are final, or `stop`.
async fn finished(database: &Database, ids: &[Uuid], stop: &CancellationToken) -> Result<()> {
    let bar = output::progress(ids.len(), "purging");
    let mut left = ids.to_vec();
    while !stop.is_cancelled() {
        left = queue::unfinished(database, &left).await?;
        bar.set_position((ids.len() - left.len()) as u64);
        if left.is_empty() {
            break;
        }
        tokio::select! {
            () = sleep(POLL) => {}
            () = stop.cancelled() => {}
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Tells what went and what failed; returns whether anything failed. The runs take their final status.
async fn conclude(database: &Database, runs: &mut [Enqueued], json: bool) -> Result<bool> {
    let ids: Vec<Uuid> = runs.iter().map(|run| run.run_id.0).collect();
    let unsuccessful = queue::unsuccessful(database, &ids).await?;
    let unfinished = queue::unfinished(database, &ids).await?;
    let by_id: BTreeMap<Uuid, &str> = unsuccessful
        .iter()
        .map(|run| (run.id, run.status.as_str()))
        .collect();
    for run in runs.iter_mut() {
        let status = by_id.get(&run.run_id.0).copied();
        if let Some(status) = status {
            status.clone_into(&mut run.status);
        } else if !unfinished.contains(&run.run_id.0) {
            "succeeded".clone_into(&mut run.status);
        }
    }
    if !json {
        say!("{}", totals(database, &ids).await?)?;
        for run in &unsuccessful {
            say!(
                "{} {} of {}{}: {}",
                run.status,
                run.id,
                run.org_id,
                run.error_kind
                    .as_ref()
                    .map_or_else(String::new, |kind| format!(" ({kind})")),
                run.error.as_deref().unwrap_or("cancelled")
            )?;
        }
        if !unfinished.is_empty() {
            say!(
                "{} of {} runs are not finished: the next `serve` or `purge --work` goes on with them; \
                 `runs cancel ID` gives one up",
                unfinished.len(),
                ids.len()
            )?;
        }
    }
    Ok(!unsuccessful.is_empty())
}

/// What the runs purged, per plan and table; `+ n kept` are rows that a rule protects.
pub(super) async fn totals(database: &Database, ids: &[Uuid]) -> Result<output::Table> {
    let totals = queue::totals(database, ids).await?;
    let mut header = vec!["plan"];
    header.extend(datasets::tables());
    let mut table = output::table(&header, 1);
    for plan in Plan::ALL {
        let mut row = vec![plan.to_string()];
        row.extend(datasets::tables().map(|name| {
            let total = totals
                .iter()
                .find(|total| total.plan == plan.name() && total.table == name);
            total.map_or_else(|| "–".to_owned(), cell)
        }));
        table.add_row(row);
    }
    Ok(table)
}

fn cell(total: &Total) -> String {
    let purged = figures::number(total.rows_purged);
    match total.rows_kept {
        0 => purged,
        kept => format!("{purged} (+{} kept)", figures::number(kept)),
    }
}

fn print_enqueued(runs: &[Enqueued]) -> Result<()> {
    let coalesced = runs.iter().filter(|run| run.coalesced).count();
    match runs {
        [run] if run.coalesced => say!(
            "run {} is {} already: this request joins it",
            run.run_id,
            run.status
        )?,
        [run] => say!("run {} is queued", run.run_id)?,
        runs => say!(
            "{} runs queued, {coalesced} requests joined a live run",
            runs.len() - coalesced
        )?,
    }
    if !runs.is_empty() {
        say!("follow with: {} runs list", output::program())?;
    }
    Ok(())
}

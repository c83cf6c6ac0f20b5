//! `purge`: enqueues runs. On request it follows them, or executes them in this process.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Result;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Settings,
    database::Usage,
    org_selection::OrgSelection,
    output::{self, say},
    serve::new_metrics,
    stopping,
};
use crate::{
    attach::{AttachError, Depth},
    config::Config,
    humanize, jobs,
    postgres::{self, Database},
    purge::datasets,
    retention::Plan,
    runs::{self, Enqueued, Lease, RunStatus, Total},
    worker::Worker,
};

/// Organizations that one transaction enqueues.
const ORGS_PER_TRANSACTION: usize = 500;
/// How often the runs are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    selection: OrgSelection,
    /// Follow the runs to their end
    #[arg(long, conflicts_with = "work")]
    wait: bool,
    /// Execute the runs in this process, then exit
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
    // With --work this process calls the mapping's functions, so they are tested first.
    let depth = if args.work {
        Depth::Trial
    } else {
        Depth::Structure
    };
    let (config, database) = settings.ready_database_for(Usage::Ask, depth).await?;
    let (mut runs, blocked) = enqueue(&database, &args.selection, args.reason.as_deref()).await?;
    for org in &blocked {
        output::print_error(format_args!(
            "error: no purge of organization {org} was enqueued: another transaction is enqueueing one and has not ended; \
             try again in a moment"
        ));
    }
    let ids: Vec<Uuid> = runs.iter().map(|run| run.run_id.0).collect();
    let stop = stopping::on_signal()?;
    let follow = args.wait || args.work;
    if args.work {
        work(&config, &database, &ids, &stop).await?;
    } else if args.wait {
        let lease = Lease::of(config.worker.heartbeat);
        if jobs::live_workers(&database, lease).await? == 0 {
            output::print_error(
                "warning: no worker is alive: the runs wait until `drift-retention serve` executes them; \
                 `purge --work` executes them here",
            );
        }
        wait_until_final(&database, &ids, &stop).await?;
    }
    let failed = if follow {
        print_results(&database, &mut runs, args.json).await?
    } else {
        false
    };
    if args.json {
        output::json(&json!({"runs": runs}))?;
    } else if !follow {
        print_enqueued(&runs)?;
    }
    Ok(
        if failed || !blocked.is_empty() || (follow && stop.is_cancelled()) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        },
    )
}

/// Enqueues the runs. Returns them and the organizations that another transaction had locked.
async fn enqueue(
    database: &Database,
    selection: &OrgSelection,
    reason: Option<&str>,
) -> Result<(Vec<Enqueued>, Vec<Uuid>)> {
    let by = output::actor();
    if let Some(org) = selection.org {
        let mut tx = database.begin_with(&[runs::ANSWER_SOON]).await?;
        let run = runs::enqueue_purge(&mut tx, org, &by, reason).await?;
        tx.commit().await?;
        return Ok((vec![run], Vec::new()));
    }
    let orgs: Vec<Uuid> = selection
        .ids(database)
        .await?
        .into_iter()
        .map(|org| org.0)
        .collect();
    let bar = output::progress(orgs.len(), "enqueueing");
    let (mut runs, mut blocked) = (Vec::with_capacity(orgs.len()), Vec::new());
    for chunk in orgs.chunks(ORGS_PER_TRANSACTION) {
        match enqueue_all(database, chunk, &by, reason).await? {
            Some(enqueued) => runs.extend(enqueued),
            // One locked organization must not hold up the others, so enqueue them one by one.
            None => {
                for org in chunk {
                    match enqueue_all(database, &[*org], &by, reason).await? {
                        Some(enqueued) => runs.extend(enqueued),
                        None => blocked.push(*org),
                    }
                }
            }
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok((runs, blocked))
}

/// Enqueues a purge of each of `orgs`, or of none if another transaction has locked one of them.
async fn enqueue_all(
    database: &Database,
    orgs: &[Uuid],
    by: &str,
    reason: Option<&str>,
) -> Result<Option<Vec<Enqueued>>> {
    let mut tx = database.begin_with(&[runs::ANSWER_SOON]).await?;
    match runs::enqueue_purges(&mut tx, orgs, by, reason).await {
        Ok(runs) => {
            tx.commit().await?;
            Ok(Some(runs))
        }
        Err(error) if postgres::is_contention(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Runs a worker in this process until the runs are final.
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
                followed = wait_until_final(database, ids, stop) => followed,
                () = worker.mapping_changed.cancelled() => Err(AttachError::Changed.into()),
            };
            enough.cancel();
            followed
        },
        worker.run(&enough)
    );
    followed
}

/// Polls the runs until they are final or `stop` is cancelled.
async fn wait_until_final(
    database: &Database,
    ids: &[Uuid],
    stop: &CancellationToken,
) -> Result<()> {
    let bar = output::progress(ids.len(), "purging");
    let mut left = ids.to_vec();
    while !stop.is_cancelled() {
        left = runs::unfinished(database, &left).await?;
        bar.set_position((ids.len() - left.len()) as u64);
        if left.is_empty() {
            break;
        }
        tokio::select! {
            () = sleep(POLL_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Prints the purged rows and the failed runs, and sets the final status in `runs`. Returns whether any run failed.
async fn print_results(database: &Database, runs: &mut [Enqueued], json: bool) -> Result<bool> {
    let ids: Vec<Uuid> = runs.iter().map(|run| run.run_id.0).collect();
    let unsuccessful = runs::unsuccessful(database, &ids).await?;
    let unfinished = runs::unfinished(database, &ids).await?;
    let by_id: BTreeMap<Uuid, RunStatus> = unsuccessful
        .iter()
        .map(|run| (run.id, run.status))
        .collect();
    for run in runs.iter_mut() {
        let status = by_id.get(&run.run_id.0).copied();
        if let Some(status) = status {
            run.status = status;
        } else if !unfinished.contains(&run.run_id.0) {
            run.status = RunStatus::Succeeded;
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
                "{} of {} runs are not finished: the next `serve` or `purge --work` continues them; \
                 `runs cancel ID` cancels one",
                unfinished.len(),
                ids.len()
            )?;
        }
    }
    Ok(!unsuccessful.is_empty())
}

/// The purged rows per plan and table. `+n kept` counts rows that a rule protects.
pub(super) async fn totals(database: &Database, ids: &[Uuid]) -> Result<output::Table> {
    let totals = runs::totals(database, ids).await?;
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
    let purged = humanize::number(total.rows_purged);
    match total.rows_kept {
        0 => purged,
        kept => format!("{purged} (+{} kept)", humanize::number(kept)),
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

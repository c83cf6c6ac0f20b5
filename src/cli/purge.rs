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
    figures, jobs,
    postgres::{self, Database},
    purge::datasets,
    retention::Plan,
    runs::{self, Enqueued, Lease, RunStatus, Total},
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
    let (mut runs, blocked) = enqueue(&database, &args.whose, args.reason.as_deref()).await?;
    for org in &blocked {
        output::complain(format_args!(
            "error: no purge of organization {org} was enqueued: another transaction is asking for one and has not ended; \
             ask again in a moment"
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
    Ok(
        if failed || !blocked.is_empty() || (follow && stop.is_cancelled()) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        },
    )
}

/// What was enqueued, and the organizations for which another transaction stood in the way.
async fn enqueue(
    database: &Database,
    whose: &Whose,
    reason: Option<&str>,
) -> Result<(Vec<Enqueued>, Vec<Uuid>)> {
    let by = output::actor();
    if let Some(org) = whose.org {
        let mut tx = database.begin_with(&[runs::ANSWER_SOON]).await?;
        let run = runs::enqueue_purge(&mut tx, org, &by, reason).await?;
        tx.commit().await?;
        return Ok((vec![run], Vec::new()));
    }
    let orgs: Vec<Uuid> = whose
        .ids(database)
        .await?
        .into_iter()
        .map(|org| org.0)
        .collect();
    let bar = output::progress(orgs.len(), "enqueueing");
    let (mut runs, mut blocked) = (Vec::with_capacity(orgs.len()), Vec::new());
    for chunk in orgs.chunks(CHUNK) {
        match enqueue_all(database, chunk, &by, reason).await? {
            Some(enqueued) => runs.extend(enqueued),
            // The others are not to wait for it.
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

/// Enqueues a purge of each of `orgs`, or of none where another transaction stands in the way of one.
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
        left = runs::unfinished(database, &left).await?;
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

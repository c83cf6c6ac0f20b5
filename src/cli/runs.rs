//! `runs`: list, show, replay, cancel.

use std::process::ExitCode;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use clap::{ArgGroup, Subcommand};
use serde_json::json;

use super::{
    Settings,
    output::{self, say},
};
use crate::{
    humanize,
    ids::{OrgId, RunId},
    postgres::{self, Database},
    runs::{self, Cursor, OperateError, Operator, Replayable, Replayed, Run, RunFilter, RunStatus},
};

#[derive(Debug, Subcommand)]
pub(super) enum RunsCommand {
    /// List runs, newest first
    List(ListArgs),
    /// Show one run: its steps, counts, cutoffs and error
    Show {
        /// The run
        id: RunId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replay failed or cancelled runs, each as a new run
    Replay(ReplayArgs),
    /// Cancel a live run; a running one stops at its next batch
    Cancel {
        /// The run
        id: RunId,
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only runs in this status
    #[arg(long)]
    status: Option<RunStatus>,
    /// Only runs of this organization
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// The most runs to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Continue after a page: its `next_cursor`
    #[arg(long)]
    cursor: Option<Cursor>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").args(["ids", "failed"]).required(true)))]
pub(super) struct ReplayArgs {
    /// The runs
    #[arg(value_name = "ID")]
    ids: Vec<RunId>,
    /// The latest failed run of each organization, unless a later run succeeded
    #[arg(long, conflicts_with = "ids")]
    failed: bool,
    /// With --failed: only runs with this error kind
    #[arg(long, requires = "failed", value_name = "KIND")]
    error_kind: Option<String>,
    /// With --failed: only show what would be replayed
    #[arg(long, requires = "failed")]
    dry_run: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: RunsCommand, settings: &Settings) -> Result<ExitCode> {
    let (_, database) = settings.records_database().await?;
    match command {
        RunsCommand::List(args) => list(&database, args).await,
        RunsCommand::Show { id, json } => show(&database, id, json).await,
        RunsCommand::Replay(args) => replay(&database, args).await,
        RunsCommand::Cancel { id, reason } => {
            let org = runs::cancel(
                &database,
                id,
                &Operator {
                    name: output::actor(),
                    reason,
                },
            )
            .await?;
            say!("run {id} of organization {org} is cancelled")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(database: &Database, args: ListArgs) -> Result<ExitCode> {
    let filter = RunFilter {
        org: args.org,
        status: args.status,
        ..RunFilter::default()
    };
    let page = runs::list(database, &filter, args.cursor, args.limit).await?;
    if args.json {
        output::json(&page)?;
        return Ok(ExitCode::SUCCESS);
    }
    if page.items.is_empty() {
        say!("no runs; `drift-retention purge --all` enqueues some")?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = postgres::now(database).await?;
    let mut table = output::table(&["run", "status", "org", "created", "rows"], 3);
    for run in &page.items {
        table.add_row([
            run.id.to_string(),
            run.status.to_string(),
            // 80 columns hold only one whole id. `runs show` and --json have the organization's whole id and the plan.
            run.org_id.to_string().chars().take(8).collect(),
            humanize::age(now, run.created_at),
            humanize::number(run.rows_purged()),
        ]);
    }
    say!("{table}")?;
    if let Some(cursor) = page.next_cursor {
        say!("more: --cursor {cursor}")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(database: &Database, id: RunId, json: bool) -> Result<ExitCode> {
    let Some(run) = runs::get(database, id).await? else {
        bail!(OperateError::NoRun(id))
    };
    if json {
        output::json(&run)?;
    } else {
        say!("{}", facts(&run))?;
        say!("{}", steps(&run))?;
        for (step, along) in run
            .steps
            .iter()
            .filter_map(|step| Some((step, step.cascaded_in_words()?)))
        {
            say!(
                "A foreign key also removed {along} with rows of {}.",
                step.table_name
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(run: &Run) -> output::Table {
    let time = |at: Option<DateTime<Utc>>| at.map(|at| at.format("%F %T%.3f UTC").to_string());
    let mut table = output::table(&["run", &run.id.to_string()], 2);
    let attempts = format!("{} of {}", run.attempts, run.max_attempts);
    let facts = [
        ("status", Some(run.status.to_string())),
        ("organization", Some(run.org_id.to_string())),
        ("plan", run.plan.clone()),
        ("trigger", Some(run.trigger.to_string())),
        ("requested by", Some(run.requested_by.clone())),
        ("reason", run.reason.clone()),
        ("slot", time(run.scheduled_for)),
        ("replay of", run.replay_of.map(|id| id.to_string())),
        ("attempts", Some(attempts)),
        ("created", time(Some(run.created_at))),
        ("started", time(run.started_at)),
        ("next attempt", time(run.next_attempt_at)),
        ("finished", time(run.finished_at)),
        ("verified", time(run.verified_at)),
        ("throttled", run.throttled()),
        ("error kind", run.error_kind.clone()),
        ("error", run.error.clone()),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            table.add_row([name, &value]);
        }
    }
    table
}

fn steps(run: &Run) -> output::Table {
    let mut table = output::table(
        &["table", "status", "cutoff", "purged", "kept", "batches"],
        3,
    );
    for step in &run.steps.0 {
        table.add_row([
            step.table_name.clone(),
            step.status.clone(),
            step.cutoff.map_or("no rule".into(), |cutoff| {
                cutoff.format("%F %T UTC").to_string()
            }),
            humanize::number(step.rows_purged),
            humanize::number(step.rows_kept),
            step.batches.to_string(),
        ]);
    }
    table
}

async fn replay(database: &Database, args: ReplayArgs) -> Result<ExitCode> {
    let by = Operator {
        name: output::actor(),
        reason: args.reason,
    };
    let filter = RunFilter {
        error_kind: args.error_kind,
        ..RunFilter::default()
    };
    if args.dry_run {
        let runs = runs::replayable(database, &filter, None).await?.0;
        return show_dry_run(&runs, args.json);
    }
    let mut replayed = Vec::new();
    if args.failed {
        replayed = runs::replay_matching(database, &filter, &by, None).await?.0;
    }
    for id in args.ids {
        replayed.push(runs::replay(database, id, &by).await?);
    }
    if args.json {
        output::json(&json!({"replayed": replayed}))?;
    } else if replayed.is_empty() {
        say!("nothing to replay")?;
    }
    for Replayed {
        replay_of,
        enqueued,
    } in replayed.iter().filter(|_| !args.json)
    {
        if enqueued.coalesced {
            say!(
                "{replay_of}: its organization has a live run already, {}",
                enqueued.run_id
            )?;
        } else {
            say!("{replay_of} is replayed as {}", enqueued.run_id)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_dry_run(runs: &[Replayable], json: bool) -> Result<ExitCode> {
    if json {
        let runs: Vec<_> = runs
            .iter()
            .map(|run| json!({"run_id": run.id, "org_id": run.org_id}))
            .collect();
        output::json(&json!({"would_replay": runs}))?;
    } else {
        for run in runs {
            say!("would replay {} of organization {}", run.id, run.org_id)?;
        }
        say!("{} runs; nothing was changed", runs.len())?;
    }
    Ok(ExitCode::SUCCESS)
}

//! `policy`: shows the retention windows of a plan or of an organization's plan.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{
    Settings,
    output::{self, say},
};
use crate::{
    ids::OrgId,
    retention::{self, DatasetName, Plan},
};

#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(flatten)]
    of: Of,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Of {
    /// An organization
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// A plan: free, pro, agency, enterprise
    #[arg(long, value_name = "NAME")]
    plan: Option<Plan>,
}

pub(super) async fn run(args: &PolicyArgs, settings: &Settings) -> Result<ExitCode> {
    let plan = match (args.of.plan, args.of.org) {
        (None, Some(org)) => {
            let (_, database) = settings.ready_database().await?;
            retention::resolve(&database, org).await?
        }
        (plan, _) => plan.unwrap_or(Plan::Free),
    };
    let policy = plan.policy();
    if args.json {
        output::json(&json!({"plan": plan.name(), "windows_days": policy}))?;
        return Ok(ExitCode::SUCCESS);
    }
    say!("Plan {plan}")?;
    let mut table = output::table(&["what", "kept for"], 1);
    let rows = [
        ("Drift check history", DatasetName::DriftChecks),
        ("Closed incident payloads", DatasetName::IncidentPayloads),
        ("Approval history", DatasetName::Approvals),
    ];
    for (what, dataset) in rows {
        let window = policy.get(dataset);
        let days = window.map_or("no rule".to_owned(), |window| {
            format!("{} days", window.in_days())
        });
        table.add_row([what.to_owned(), days]);
    }
    table.add_row(["Open incidents", "never purged"]);
    say!("{table}")?;
    Ok(ExitCode::SUCCESS)
}

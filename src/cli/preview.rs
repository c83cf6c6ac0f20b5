//! `preview`: counts the rows that a purge would remove now.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{
    Settings, database,
    org_selection::OrgSelection,
    output::{self, say},
};
use crate::{
    humanize,
    ids::OrgId,
    postgres::Reading,
    purge::{self, Counting, Preview},
    retention::Plan,
};

#[derive(Debug, clap::Args)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    selection: OrgSelection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &PreviewArgs, settings: &Settings) -> Result<ExitCode> {
    let (config, database) = settings.ready_database().await?;
    let reading = database::open_reading(&config, &database)?;
    let orgs = args.selection.ids(&database).await?;
    let previews = previews(&reading, &orgs).await?;
    if args.json {
        output::json(&json!({"organizations": previews}))?;
    } else {
        say!("{}", to_table(&previews))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The previews of `orgs`, with a progress bar.
pub(super) async fn previews(reading: &Reading, orgs: &[OrgId]) -> Result<Vec<Preview>> {
    let bar = output::progress(orgs.len(), "previewing");
    let mut previews = Vec::with_capacity(orgs.len());
    for org in orgs {
        previews.push(purge::preview(reading, *org, Counting::Exact).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(previews)
}

fn to_table(previews: &[Preview]) -> output::Table {
    let mut table = output::table(
        &[
            "organization",
            "plan",
            "checks",
            "flags",
            "payloads",
            "approvals",
        ],
        2,
    );
    for preview in previews {
        let plan = preview.plan.map_or("unresolved", Plan::name);
        let mut row = vec![preview.org_id.to_string(), plan.to_owned()];
        row.extend(
            preview
                .tables
                .0
                .iter()
                .map(|(_, rows)| humanize::number(*rows)),
        );
        table.add_row(row);
    }
    table
}

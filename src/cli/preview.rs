//! `preview`: what a purge now would remove.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{
    Settings, database,
    output::{self, say},
    whose::Whose,
};
use crate::{
    figures,
    ids::OrgId,
    postgres::Reading,
    purge::{self, Counting, Preview},
    retention::Plan,
};

#[derive(Debug, clap::Args)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    whose: Whose,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &PreviewArgs, settings: &Settings) -> Result<ExitCode> {
    let (config, database) = settings.ready_database().await?;
    let reading = database::open_reading(&config, &database)?;
    let orgs = args.whose.ids(&database).await?;
    let previews = previews(&reading, &orgs).await?;
    if args.json {
        output::json(&json!({"organizations": previews}))?;
    } else {
        say!("{}", to_table(&previews))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The previews of `orgs`, with a progress bar where they take a while.
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
                .map(|(_, rows)| figures::number(*rows)),
        );
        table.add_row(row);
    }
    table
}

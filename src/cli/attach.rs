//! `attach`: prints the mapping to an existing main app as a template, and checks it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::{
    Settings,
    database::{self, Usage},
    output::{self, say},
};
use crate::{
    attach::{self, AttachError, Depth, Object, Report, Severity},
    humanize,
    postgres::migrations,
};

/// The end of the template: statements on the main app's tables, which the operator runs.
const ON_TABLES: &str = include_str!("attach/on_tables.sql");

/// Functions that are tested only if everything else is right.
const TESTED_LAST: [&str; 2] = ["main_app.lock_plan", "main_app.erase_payloads"];

/// The beginning of the template: it lets an operator apply the file more than once.
const REAPPLY_HINT: &str = "
-- To apply this file again after a correction, uncomment these two lines; then apply roles.sql again.
-- DROP TRIGGER IF EXISTS note_rewritten_payload ON public.incident_payloads;
-- DROP SCHEMA IF EXISTS main_app CASCADE;
";

#[derive(Debug, Subcommand)]
pub(super) enum AttachCommand {
    /// Print the mapping as an SQL template, with the reference names
    Template,
    /// Check the mapping, table by table; changes nothing
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: AttachCommand, settings: &Settings) -> Result<ExitCode> {
    match command {
        AttachCommand::Template => {
            let template = format!(
                "BEGIN;\n{REAPPLY_HINT}\n{}\nCOMMIT;\n\n{ON_TABLES}",
                attach::TEMPLATE
            );
            output::bytes(template.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        AttachCommand::Check { json } => check(settings, json).await,
    }
}

async fn check(settings: &Settings, json: bool) -> Result<ExitCode> {
    let config = settings.load()?;
    let database = database::open(&config, Usage::Ask).await?;
    migrations::check(&database).await?;
    if !migrations::is_mapped(&database).await? {
        return Err(AttachError::Missing.into());
    }
    let report = attach::check(&database, &config.attach.cascades, Depth::Values).await?;
    if json {
        output::json(&report)?;
    } else {
        print_report(&report)?;
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print_report(report: &Report) -> Result<()> {
    let is_tested_last = |object: &Object| TESTED_LAST.contains(&object.name.as_str());
    let others = report
        .objects
        .iter()
        .filter(|object| !is_tested_last(object));
    let is_refused = others
        .flat_map(|object| &object.problems)
        .any(|problem| problem.severity == Severity::Refuse);
    for object in &report.objects {
        let hint = if is_refused && is_tested_last(object) {
            ": not tested yet, fix the others first"
        } else {
            ""
        };
        say!("{}{hint}", headline(object))?;
        for problem in &object.problems {
            say!("  {}: {}", problem.severity, problem.what)?;
            say!("    {}", problem.remedy)?;
        }
    }
    let (refusals, warnings) = (report.refusals().count(), report.warnings().count());
    say!("")?;
    match (refusals, warnings) {
        (0, 0) => say!("The mapping can be used.")?,
        (0, n) => say!(
            "The mapping can be used. {} to read.",
            counted(n, "warning")
        )?,
        (n, _) => say!(
            "Refused: {} to fix before anything is purged.",
            counted(n, "problem")
        )?,
    }
    Ok(())
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `main_app.drift_checks ← public.checks, key uuid, clock checked_at, about 1 240 rows`
fn headline(object: &Object) -> String {
    let mut parts = Vec::new();
    parts.extend(object.maps_to.clone());
    parts.extend(object.key_type.iter().map(|key| format!("key {key}")));
    parts.extend(object.clock.iter().map(|clock| format!("clock {clock}")));
    parts.extend(
        object
            .rows
            .map(|rows| format!("about {} rows", humanize::number(rows))),
    );
    if parts.is_empty() {
        return object.name.clone();
    }
    format!("{}: {}", object.name, parts.join(", "))
}

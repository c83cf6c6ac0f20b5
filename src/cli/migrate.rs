//! `migrate`: the only command that changes the schema.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::{Settings, output};
use crate::postgres::{self, migrations};

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// Bring the schema up to this version
    Up,
    /// Take one step back, or all those after a version
    Down {
        /// Step back to this version; 0: all the way
        #[arg(long, value_name = "VERSION")]
        to: Option<i64>,
    },
    /// Show every migration and whether it is applied
    Status,
}

pub(super) async fn run(command: MigrateCommand, settings: &Settings) -> Result<ExitCode> {
    let config = settings.load()?;
    let database = postgres::pool_for_migrations(config.direct_database_url()?)?;
    match command {
        MigrateCommand::Up => migrations::up(&database).await?,
        MigrateCommand::Down { to } => migrations::down(&database, to).await?,
        MigrateCommand::Status => {}
    }
    let mut table = output::table(&["version", "migration", "applied"], 3);
    for migration in migrations::status(&database).await? {
        let applied = if migration.applied { "yes" } else { "no" };
        table.add_row([
            migration.version.to_string(),
            migration.name,
            applied.to_owned(),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

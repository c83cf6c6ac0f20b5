//! `migrate`: the only command that changes the schema.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::{
    Settings, database,
    output::{self, say},
};
use crate::postgres::{self, migrations};

/// What comes after `migrate up` on a database without a mapping.
const NEXT: &str = "
Next, map the main app's tables:
  drift-retention attach template > main_app.sql    fill it in, apply it with psql
  drift-retention attach check                      prove it
To try drift-retention without a main app:
  drift-retention migrate up --main-app             creates a reference main app";

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// Bring the schemas retention and apalis up to this version; changes nothing else
    Up {
        /// And create the reference main app in schema public, with its mapping
        #[arg(long)]
        main_app: bool,
    },
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
    let url = config.direct_database_url()?;
    database::usable_urls(&config)?;
    let database = postgres::pool_for_migrations(url)?;
    match command {
        MigrateCommand::Up { main_app: true } => migrations::up_main_app(&database).await?,
        MigrateCommand::Up { main_app: false } => migrations::up(&database).await?,
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
    say!("{table}")?;
    if matches!(command, MigrateCommand::Up { .. }) && !migrations::is_mapped(&database).await? {
        say!("{NEXT}")?;
    }
    Ok(ExitCode::SUCCESS)
}

//! `migrate`: the only command that changes the schema.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::{
    Settings, database,
    output::{self, say},
};
use crate::postgres::{self, migrations};

/// The hint after `migrate up` on a database without a mapping.
const NEXT_STEPS: &str = "
Next, map the main app's tables:
  drift-retention attach template > main_app.sql    fill it in, apply it with psql
  drift-retention attach check                      check it
To try drift-retention without a main app:
  drift-retention migrate up --main-app             creates a reference main app";

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// Bring the schemas retention and apalis up to this version; changes nothing else
    Up {
        /// Also create the reference main app in schema public, with its mapping
        #[arg(long)]
        main_app: bool,
    },
    /// Undo the last migration, or all migrations after a version
    Down {
        /// Undo all migrations after this version; 0: all of them
        #[arg(long, value_name = "VERSION")]
        to: Option<i64>,
    },
    /// Show every migration and whether it is applied
    Status,
}

pub(super) async fn run(command: MigrateCommand, settings: &Settings) -> Result<ExitCode> {
    let config = settings.load()?;
    let url = config.direct_database_url()?;
    database::check_urls_and_warn(&config)?;
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
        say!("{NEXT_STEPS}")?;
    }
    Ok(ExitCode::SUCCESS)
}

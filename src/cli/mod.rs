//! The command line: one file per command, and the only place that prints.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the one place that prints"
)]

#[cfg(feature = "chaos")]
mod chaos;
mod completions;
mod config;
mod demo;
mod health;
mod migrate;
mod output;
mod policy;
mod preview;
mod purge;
mod runs;
mod serve;
mod stopping;
mod token;
mod whose;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    config::{Config, ConfigError, FEWEST_CONNECTIONS},
    postgres::{self, Database, migrations},
    queue,
    schedule::BadSchedule,
    telemetry::{logs, traces::Traces},
};

/// Keeps every organization inside its plan's data retention windows.
#[derive(Debug, Parser)]
#[command(
    name = "drift-retention",
    version,
    about,
    propagate_version = true,
    max_term_width = 80
)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

/// Connections to a replica: previews and gauges are few.
const READING_CONNECTIONS: u32 = 4;

/// Where settings come from.
#[derive(Debug, Clone, clap::Args)]
struct Settings {
    /// Settings file (TOML); the environment and flags come before it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Where Postgres is [env: DATABASE_URL]"
    )]
    database_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a Postgres of its own with sample organizations, and watch one real purge
    Demo(demo::DemoArgs),
    /// Bring the database schema up, step it back, or show where it stands
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Run the service: HTTP, the scheduler and the worker
    Serve(serve::ServeArgs),
    /// Ask the service at `http.listen` whether it is ready
    Health,
    /// Enqueue a purge now
    Purge(purge::PurgeArgs),
    /// Show what a purge now would remove; changes nothing
    Preview(preview::PreviewArgs),
    /// Show a plan's, or an organization's, retention windows
    Policy(policy::PolicyArgs),
    /// List, show, replay and cancel runs
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    /// Sign a token for the API, for development
    Token(token::TokenArgs),
    /// Check or show the settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Run the product while everything around it fails, and judge what it did
    #[cfg(feature = "chaos")]
    Chaos(chaos::ChaosArgs),
}

impl Args {
    /// What is logged where `RUST_LOG` says nothing: services speak, commands print what matters themselves.
    #[must_use]
    pub fn default_log_level(&self) -> &'static str {
        match &self.command {
            Command::Serve(_) => "info",
            Command::Purge(_) => "warn",
            Command::Demo(_) => "off", // it shows the one failure itself
            #[cfg(feature = "chaos")]
            Command::Chaos(_) => "off", // so does it
            _ => "error",
        }
    }
}

impl Settings {
    fn load(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(url) = &self.database_url {
            config.database.url = Some(url.clone());
        }
        Ok(config)
    }

    /// The settings, and a database whose schema is the one this program knows.
    async fn ready_database(&self) -> Result<(Config, Database)> {
        self.ready_database_to(Use::Ask).await
    }

    async fn ready_database_to(&self, to: Use) -> Result<(Config, Database)> {
        let config = self.load()?;
        let connections = match to {
            Use::Ask => allowed_connections(&config),
            Use::Serve | Use::Purge => connections_to_be_had(&config).await?,
        };
        let database = open_database(&config, to, connections)?;
        migrations::check(&database).await?;
        Ok((config, database))
    }
}

/// What a process does with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A command, and soon over.
    Ask,
    /// A process of any other role.
    Serve,
    /// A worker's process.
    Purge,
}

/// The database over so many connections, past a pooler where the settings name a way.
fn open_database(config: &Config, to: Use, connections: u32) -> Result<Database> {
    let url = config.database_url()?;
    let concurrency = config.worker.concurrency();
    Ok(match &config.database.direct_url {
        Some(direct) => {
            let sessions = queue::sessions(concurrency).min(connections);
            Database::behind_pooler(url, connections, direct, sessions)?
        }
        // One for each that deletes, and one for a commit that waits for the disk. Who allows few connections has them shared.
        None if to == Use::Purge && connections >= enough_connections(concurrency) => {
            let yielding = u32::try_from(concurrency + 1).unwrap_or(u32::MAX);
            Database::for_purging(url, connections, yielding)?
        }
        None => Database::new(url, connections)?,
    })
}

/// The replica that the settings name, or the database itself. A replica of a database behind a pooler may stand
/// behind one too; nothing that is read there needs a session.
fn reading_database(config: &Config, database: &Database) -> Result<Database> {
    Ok(match &config.replica_url {
        Some(url) if config.database.direct_url.is_some() => {
            Database::behind_pooler(url, READING_CONNECTIONS, url, READING_CONNECTIONS)?
        }
        Some(url) => Database::new(url, READING_CONNECTIONS)?,
        None => database.clone(),
    })
}

/// What the settings allow, or what the server has left of it: a pool that may open more than there are makes whoever asks
/// wait for another connection in vain, while those that there are come free.
async fn connections_to_be_had(config: &Config) -> Result<u32> {
    let allowed = allowed_connections(config);
    if config.database.direct_url.is_some() {
        return Ok(allowed); // the pooler has them
    }
    let database = Database::new(config.database_url()?, 1)?;
    let left = postgres::connections_left(&database).await;
    database.close().await;
    let connections = match left {
        Ok(left) => u32::try_from(left)
            .unwrap_or_default()
            .clamp(FEWEST_CONNECTIONS, allowed),
        Err(error) => {
            // What is done next with the database says what is wrong with it.
            tracing::debug!(%error, "cannot see how many connections are left");
            allowed
        }
    };
    if connections < allowed {
        tracing::warn!(
            connections,
            wanted = allowed,
            "the server has fewer connections left than this process would use; it does with them until its next start: \
            raise max_connections, or the limit of the user or database, or lower database.connections"
        );
    }
    Ok(connections)
}

/// What the settings allow, or enough.
fn allowed_connections(config: &Config) -> u32 {
    let enough = || enough_connections(config.worker.concurrency());
    config.database.connections.unwrap_or_else(enough)
}

/// Per run at once a connection for its batches and one for its record, and a few more for the loops and LISTEN.
fn enough_connections(concurrency: usize) -> u32 {
    u32::try_from(concurrency * 2 + 8).unwrap_or(u32::MAX)
}

/// Runs the command. Exit status: 0 done, 1 it failed, 2 wrong usage.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let traces = {
        // The exporter's connection lives in the runtime.
        let _entered = runtime.enter();
        start_telemetry(&args)
    };
    let outcome = runtime.block_on(dispatch(args));
    drop(traces);
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", output::chain(&error));
            let is_usage = error.is::<ConfigError>() || error.is::<BadSchedule>();
            ExitCode::from(if is_usage { 2 } else { 1 })
        }
    }
}

/// Logs and traces. A collector that cannot be used is said, and is no reason to stop.
fn start_telemetry(args: &Args) -> Option<Traces> {
    let started = Traces::from_environment();
    let traces = started.as_ref().ok().and_then(Option::as_ref);
    logs::init(args.default_log_level(), traces.map(Traces::tracer));
    started.unwrap_or_else(|error| {
        tracing::warn!(error = logs::chain(&error), "nothing is traced");
        None
    })
}

async fn dispatch(args: Args) -> Result<ExitCode> {
    let settings = args.settings;
    match args.command {
        Command::Demo(args) => demo::run(args, &settings).await,
        Command::Migrate(command) => migrate::run(command, &settings).await,
        Command::Serve(args) => serve::run(&args, &settings).await,
        Command::Health => health::run(&settings).await,
        Command::Purge(args) => purge::run(args, &settings).await,
        Command::Preview(args) => preview::run(&args, &settings).await,
        Command::Policy(args) => policy::run(&args, &settings).await,
        Command::Runs(command) => runs::run(command, &settings).await,
        Command::Token(args) => token::run(args, &settings),
        Command::Config(command) => config::run(&command, &settings),
        Command::Completions(args) => Ok(completions::run(&args)),
        #[cfg(feature = "chaos")]
        Command::Chaos(args) => chaos::run(args).await,
    }
}

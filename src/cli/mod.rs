//! The command line: one file per command, and the only place that prints.
mod attach;
mod completions;
mod config;
mod database;
mod demo;
mod health;
mod migrate;
mod org_selection;
mod output;
mod policy;
mod preview;
mod purge;
mod runs;
mod serve;
mod sessions;
pub mod stopping;
mod token;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use self::database::Usage;
use crate::{
    attach::{Depth, Report, prove},
    config::{Config, ConfigError},
    postgres::{Database, migrations},
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

/// Where settings come from.
#[derive(Debug, Clone, clap::Args)]
struct Settings {
    /// Settings file (TOML); the environment and flags override it
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
    /// Start a local Postgres with sample organizations, and watch one real purge
    Demo(demo::DemoArgs),
    /// Bring the database schema up, step it back, or show where it stands
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Map the tables of an existing main app, and check the mapping
    #[command(subcommand)]
    Attach(attach::AttachCommand),
    /// Run the service: HTTP, the scheduler and the worker
    Serve(serve::ServeArgs),
    /// Ask the service at `http.listen` whether it is ready
    Health,
    /// Enqueue a purge now
    Purge(purge::PurgeArgs),
    /// Show how many rows a purge would remove now; changes nothing
    Preview(preview::PreviewArgs),
    /// Show a plan's, or an organization's, retention windows
    Policy(policy::PolicyArgs),
    /// List, show, replay and cancel runs
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    /// List who is signed in to the console, or end their sessions
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Sign a token for the API, or a sign-in link, for development
    Token(token::TokenArgs),
    /// Check or show the settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

impl Args {
    /// The log level if `RUST_LOG` is not set. Services log; commands print what matters themselves.
    #[must_use]
    pub fn default_log_level(&self) -> &'static str {
        match &self.command {
            Command::Serve(_) => "info",
            Command::Purge(_) => "warn",
            Command::Demo(_) => "off", // it shows the one failure itself
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

    /// The settings and the database, for commands that read our own records. The schema must be the one that this program knows.
    async fn records_database(&self) -> Result<(Config, Database)> {
        let config = self.load()?;
        let database = database::open(&config, Usage::Ask).await?;
        migrations::check(&database).await?;
        Ok((config, database))
    }

    /// The settings and the database with a checked mapping, for commands that read or purge the main app's tables.
    async fn ready_database(&self) -> Result<(Config, Database)> {
        self.ready_database_for(Usage::Ask, Depth::Structure).await
    }

    async fn ready_database_for(&self, usage: Usage, depth: Depth) -> Result<(Config, Database)> {
        let config = self.load()?;
        let database = database::open(&config, usage).await?;
        migrations::check(&database).await?;
        let (mapping, report) = prove(&database, &config.attach.cascades, depth).await?;
        log_warnings(&report);
        Ok((config, database.with_mapping(mapping)))
    }
}

/// Logs the warnings about the mapping.
fn log_warnings(report: &Report) {
    for warning in report.warnings() {
        tracing::warn!("mapping to the main app: {warning}");
    }
}

/// Runs the command given on the command line. Exit status: 0 success, 1 failure, 2 wrong usage, 141 the reader of
/// the output has gone.
#[must_use]
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => return output::usage(&usage),
    };
    // Every crate that uses TLS needs a provider. An error means that the process already has one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::print_error(format_args!("error: cannot start: {error}"));
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
            let failure = output::failure(&error);
            let is_usage = error.is::<ConfigError>() || error.is::<BadSchedule>();
            if is_usage { ExitCode::from(2) } else { failure }
        }
    }
}

/// Starts logs and traces. A collector that cannot be used causes a warning, not an exit.
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
        Command::Demo(args) => Box::pin(demo::run(args, &settings)).await,
        Command::Migrate(command) => migrate::run(command, &settings).await,
        Command::Attach(command) => attach::run(command, &settings).await,
        Command::Serve(args) => Box::pin(serve::run(&args, &settings)).await,
        Command::Health => health::run(&settings).await,
        Command::Purge(args) => purge::run(args, &settings).await,
        Command::Preview(args) => preview::run(&args, &settings).await,
        Command::Policy(args) => policy::run(&args, &settings).await,
        Command::Runs(command) => runs::run(command, &settings).await,
        Command::Sessions(command) => sessions::run(command, &settings).await,
        Command::Token(args) => token::run(args, &settings),
        Command::Config(command) => config::run(&command, &settings),
        Command::Completions(args) => completions::run(&args),
    }
}

//! `demo`: starts a local Postgres with sample organizations, runs one real purge through the real queue, and shows its result.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use etcetera::BaseStrategy;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Settings,
    database::allowed_connections,
    output::{self, say},
    preview, purge,
    serve::{self, Role, new_metrics},
    stopping,
    token::signin_link,
};
use crate::{
    attach::{self, Depth},
    config::{Config, HttpConfig, Secret},
    demo::sample_data,
    drift::organizations::{self, OrganizationFilter},
    http::{self, Identity},
    humanize,
    postgres::{
        self, Database, Reading,
        local::{LocalServer, ServerBinaries, StopMode},
        migrations::{self, SchemaError},
    },
    purge::{Preview, datasets},
    retention::Plan,
    runs,
    schedule::Schedule,
    scheduler::Scheduler,
};

/// The demo's database on its own server.
const DATABASE_NAME: &str = "workflowops";
/// How long the session of a printed sign-in link lasts.
const SESSION_LIFETIME: Duration = Duration::from_hours(8);
/// The file that holds the demo's secret if the settings name none.
const SECRET_FILE: &str = "hs256_secret";

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Delete the demo's data and start over
    #[arg(long)]
    reset: bool,
    /// End after the purge instead of serving
    #[arg(long)]
    exit: bool,
    /// Where the demo's Postgres keeps its data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) async fn run(args: DemoArgs, settings: &Settings) -> Result<ExitCode> {
    let mut config = settings.load()?;
    let stop = stopping::on_signal()?;
    let dir = args.data_dir.clone().map_or_else(default_dir, Ok)?;
    let _lock = lock(&dir)?;
    if config.auth.hs256_secret.is_none() {
        set_own_secret(&mut config, &dir)?;
    }
    if args.reset {
        reset(&dir).await?;
    }
    say!("Starting Postgres in {} …", dir.display())?;
    let server = start(&dir).await?;
    let outcome = Box::pin(run_on(&server, &config, &args, settings, &stop)).await;
    // Stop the server whatever the outcome, so that nothing keeps running.
    server.stop(StopMode::Fast).await?;
    outcome
}

async fn run_on(
    server: &LocalServer,
    config: &Config,
    args: &DemoArgs,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<ExitCode> {
    server.create_database(DATABASE_NAME).await?;
    let url = server.url(DATABASE_NAME);
    migrate(&url).await?;
    let database = Database::new(&url, allowed_connections(config, false))?;
    if sample_data::is_loaded(database.sessions()).await? {
        say!("Continuing with the data of the last demo; --reset starts over.")?;
    } else {
        say!("Loading 40 sample organizations …")?;
        sample_data::load(database.sessions()).await?;
    }
    let (mapping, _) = attach::prove(&database, &[], Depth::Trial).await?;
    let database = database.with_mapping(mapping);
    say!("\nWhat a purge would remove now, by plan:\n")?;
    say!("{}", preview_by_plan(&database).await?)?;

    let ids = tick(&database, config, stop).await?;
    say!(
        "
The scheduler's slot is due: {} runs are queued. The worker purges …",
        ids.len()
    )?;
    purge::work(config, &database, &ids, stop).await?;
    say!(
        "
Purged rows:

{}",
        purge::totals(&database, &ids).await?
    )?;
    print_failures(&database, &ids).await?;
    print_next(&url, config, args, settings, ids.first())?;
    if !args.exit {
        print_links(&database, config).await?;
    }
    if !args.exit && !stop.is_cancelled() {
        serve::serve(
            config,
            database.clone(),
            &[Role::Api, Role::Scheduler, Role::Worker],
            stop.clone(),
        )
        .await?;
    }
    database.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Migrates the demo's database. Data from another version is not converted, because it is only demo data.
async fn migrate(url: &str) -> Result<()> {
    let migrated = migrations::up_main_app(&postgres::pool_for_migrations(url)?).await;
    match migrated {
        Err(error @ (SchemaError::OtherBuild(_) | SchemaError::Refused(_))) => Err(error).context(
            "the data of this demo is from another version: `drift-retention demo --reset` deletes it and starts over",
        ),
        migrated => Ok(migrated?),
    }
}

/// The user's data directory. For root, a directory that the server's own user can reach.
fn default_dir() -> Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/drift-retention/demo"));
    }
    let base =
        etcetera::choose_base_strategy().context("cannot find your home; pass --data-dir")?;
    Ok(base.data_dir().join("drift-retention/demo"))
}

/// Allows one demo per directory, until the returned file is closed. Of two demos, the first to end would stop the other's server.
fn lock(dir: &Path) -> Result<File> {
    fs::create_dir_all(dir)
        .with_context(|| format!("cannot make {}; pass --data-dir", dir.display()))?;
    let path = dir.join("demo.lock");
    let file = File::create(&path)
        .with_context(|| format!("cannot write {}; pass --data-dir", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another demo is running in {}; end it first, or pass another --data-dir",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Makes a secret for this demo. A file holds it for the command that prints a new link. A new secret also ends the
/// sessions of the previous demo.
fn set_own_secret(config: &mut Config, dir: &Path) -> Result<()> {
    let path = dir.join(SECRET_FILE);
    remove(&path)?;
    let secret = Secret::random();
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(secret.reveal().as_bytes()))
        .with_context(|| format!("cannot write {}; pass --data-dir", path.display()))?;
    config.auth.hs256_secret = Some(secret);
    config.auth.hs256_secret_file = Some(std::path::absolute(path)?);
    Ok(())
}

async fn start(dir: &Path) -> Result<LocalServer> {
    let binaries = ServerBinaries::find(bin_dir().as_deref())?;
    Ok(LocalServer::start(&binaries, dir, &[]).await?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "PG_BIN_DIR names the server for every command that starts one"
)]
pub(super) fn bin_dir() -> Option<PathBuf> {
    std::env::var_os("PG_BIN_DIR")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}

/// Stops a server that a killed demo left behind, and removes its data. It touches only a demo's files.
async fn reset(dir: &Path) -> Result<()> {
    if !dir.join("data/PG_VERSION").exists() {
        return Ok(());
    }
    start(dir).await?.stop(StopMode::Immediate).await?;
    for name in ["data", "password", "lock", "server.log"] {
        remove(&dir.join(name))?;
    }
    Ok(())
}

/// Removes a file or a directory if it exists.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Runs the real scheduler with a cron of every second, until it has enqueued runs.
async fn tick(database: &Database, config: &Config, stop: &CancellationToken) -> Result<Vec<Uuid>> {
    let mut every_second = config.schedule.clone();
    "* * * * * *".clone_into(&mut every_second.cron);
    let scheduler = Scheduler {
        database: database.clone(),
        schedule: Schedule::new(&every_second)?,
        metrics: new_metrics()?,
    };
    let began: DateTime<Utc> = postgres::now(database).await?;
    loop {
        scheduler.tick(stop).await?;
        let runs = runs::live_since(database, began).await?;
        if !runs.is_empty() || stop.is_cancelled() {
            return Ok(runs);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn preview_by_plan(database: &Database) -> Result<output::Table> {
    let reading = Reading::on(database.clone());
    let previews = preview::previews(&reading, &organizations::ids(database).await?).await?;
    let mut table = output::table(
        &[
            "plan",
            "organizations",
            "checks",
            "flags",
            "payloads",
            "approvals",
        ],
        1,
    );
    for plan in Plan::ALL {
        let of_plan: Vec<&Preview> = previews.iter().filter(|p| p.plan == Some(plan)).collect();
        let mut row = vec![plan.to_string(), of_plan.len().to_string()];
        for index in 0..datasets::tables().count() {
            row.push(humanize::number(
                of_plan.iter().map(|p| p.tables.0[index].1).sum::<u64>(),
            ));
        }
        table.add_row(row);
    }
    let unresolved = previews.iter().filter(|p| p.plan.is_none()).count();
    table.add_row(["unknown", &unresolved.to_string(), "0", "0", "0", "0"]);
    Ok(table)
}

async fn print_failures(database: &Database, ids: &[Uuid]) -> Result<()> {
    for run in runs::unsuccessful(database, ids).await? {
        say!(
            "\nOne run failed closed ({}):",
            run.error_kind.as_deref().unwrap_or(run.status.name())
        )?;
        say!("  organization {}", run.org_id)?;
        say!("  {}", run.error.as_deref().unwrap_or("cancelled"))?;
    }
    Ok(())
}

/// Prints commands that can be pasted into a shell. They name this program wherever it is, and explanations are comments.
fn print_next(
    url: &str,
    config: &Config,
    args: &DemoArgs,
    settings: &Settings,
    run: Option<&Uuid>,
) -> Result<()> {
    let program = output::program();
    say!("\nTry next:")?;
    if args.exit {
        let same = [
            ("--config", &settings.config),
            ("--data-dir", &args.data_dir),
        ];
        let same = same.iter().filter_map(|(flag, path)| {
            let path = std::path::absolute(path.as_ref()?).ok()?;
            let path = path.display().to_string();
            Some(format!(" {flag} {}", output::quote(&path)))
        });
        let same: String = same.collect();
        say!("  {program} demo{same}  # the same, and then serve")?;
        return Ok(());
    }
    say!("  export DATABASE_URL='{url}'")?;
    say!("  {program} runs list")?;
    if let Some(run) = run {
        say!("  {program} runs show {run}")?;
    }
    say!("  {program} preview --all")?;
    say!("  {program} purge --all --wait")?;
    say!(
        "  curl -s http://{}/metrics | grep queue_runs",
        config.http.own_address()
    )?;
    say!(
        "  {}{program} token --sub 'demo operator' --role operator --ttl 8h --link  # a new link to the console",
        link_environment(config)
    )?;
    Ok(())
}

/// The environment variables that `token --link` needs to find this demo from another shell.
fn link_environment(config: &Config) -> String {
    let listen = config.http.listen;
    let listen = (listen != HttpConfig::default().listen).then(|| listen.to_string());
    let secret = config.auth.hs256_secret_file.as_ref();
    let variables = [
        ("DRIFT_RETENTION_HTTP__LISTEN", listen),
        (
            "DRIFT_RETENTION_AUTH__HS256_SECRET_FILE",
            secret.map(|path| path.display().to_string()),
        ),
    ];
    let variables = variables.iter().filter_map(|(name, value)| {
        let value = output::quote(value.as_ref()?);
        Some(format!("{name}={value} "))
    });
    variables.collect()
}

/// Prints sign-in links for the console: one as an operator, one as an admin.
async fn print_links(database: &Database, config: &Config) -> Result<()> {
    let operator = Identity::new("demo operator".into(), http::Role::Operator, None)?;
    say!(
        "\nThe console, as an operator (this link works once, within {} minutes):",
        http::LINK_LIFETIME.as_secs() / 60
    )?;
    say!("  {}", signin_link(config, &operator, SESSION_LIFETIME)?)?;
    let first = organizations::list(database, &OrganizationFilter::default(), None, 1).await?;
    if let Some(org) = first.first() {
        let admin = Identity::new("demo admin".into(), http::Role::Admin, Some(org.id))?;
        say!("\nThe same, as an admin of {}:", org.name)?;
        say!("  {}", signin_link(config, &admin, SESSION_LIFETIME)?)?;
    }
    say!(
        "\nServing on http://{}; Ctrl-C ends it, and Postgres with it.",
        config.http.listen
    )?;
    Ok(())
}

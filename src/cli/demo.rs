//! `demo`: a Postgres of its own, sample organizations, one real purge through the real queue, and what went.

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
    figures,
    http::{self, Identity},
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

/// Its database on a server of its own.
const DATABASE: &str = "workflowops";
/// How long somebody who took a printed link stays signed in.
const SESSION: Duration = Duration::from_hours(8);
/// The file with the secret of a demo whose settings name none.
const SECRET_FILE: &str = "hs256_secret";

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Throw the demo's data away and start over
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
    let _alone = lock(&dir)?;
    if config.auth.hs256_secret.is_none() {
        set_own_secret(&mut config, &dir)?;
    }
    if args.reset {
        reset(&dir).await?;
    }
    say!("Starting Postgres in {} …", dir.display())?;
    let server = start(&dir).await?;
    let outcome = Box::pin(on(&server, &config, &args, settings, &stop)).await;
    // The server stops whatever happened: nothing is left running.
    server.stop(StopMode::Fast).await?;
    outcome
}

async fn on(
    server: &LocalServer,
    config: &Config,
    args: &DemoArgs,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<ExitCode> {
    server.create_database(DATABASE).await?;
    let url = server.url(DATABASE);
    migrate(&url).await?;
    let database = Database::new(&url, allowed_connections(config, false))?;
    if sample_data::is_loaded(database.sessions()).await? {
        say!("Going on with the data of the last demo; --reset starts over.")?;
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
        "\nThe scheduler's slot came: {} runs are queued. The worker purges …",
        ids.len()
    )?;
    purge::work(config, &database, &ids, stop).await?;
    say!("\nWhat went:\n\n{}", purge::totals(&database, &ids).await?)?;
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

/// Data that another version left is not converted: it is only a demo's.
async fn migrate(url: &str) -> Result<()> {
    let migrated = migrations::up_main_app(&postgres::pool_for_migrations(url)?).await;
    match migrated {
        Err(error @ (SchemaError::OtherBuild(_) | SchemaError::Refused(_))) => Err(error).context(
            "this demo's data is of another version: `drift-retention demo --reset` throws it away and starts over",
        ),
        migrated => Ok(migrated?),
    }
}

/// Where a user's data belongs; root's is where the server's own user can reach it.
fn default_dir() -> Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/drift-retention/demo"));
    }
    let base =
        etcetera::choose_base_strategy().context("cannot find your home; pass --data-dir")?;
    Ok(base.data_dir().join("drift-retention/demo"))
}

/// One demo per directory, until the returned file or the program ends: of two, the first to end would stop the
/// other's server.
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

/// A secret of this demo's own. It stands in a file for the command that prints a new link, and ends the sessions of the demo
/// before.
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

/// Stops a server that a killed demo left, and removes its data. Touches nothing that is not a demo's.
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

/// Removes a file or a directory, if there is one.
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

/// The scheduler at work on a slot that is due right now: the real one, with a cron of every second.
async fn tick(database: &Database, config: &Config, stop: &CancellationToken) -> Result<Vec<Uuid>> {
    let mut now_and_then = config.schedule.clone();
    "* * * * * *".clone_into(&mut now_and_then.cron);
    let scheduler = Scheduler {
        database: database.clone(),
        schedule: Schedule::new(&now_and_then)?,
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
            row.push(figures::number(
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

/// Commands to be pasted into a shell: they name this program wherever it is, and what is no command is a comment.
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
            Some(format!(" {flag} {}", output::quoted(&path)))
        });
        let same: String = same.collect();
        say!("  {program} demo{same}  # the same, and then it serves")?;
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

/// What `token --link` takes to know this demo by, where it is not what another shell knows by itself.
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
        let value = output::quoted(value.as_ref()?);
        Some(format!("{name}={value} "))
    });
    variables.collect()
}

/// Where to look, and as whom.
async fn print_links(database: &Database, config: &Config) -> Result<()> {
    let operator = Identity::new("demo operator".into(), http::Role::Operator, None)?;
    say!(
        "\nThe console, as an operator (this link works once, within {} minutes):",
        http::LINK_LIFE.as_secs() / 60
    )?;
    say!("  {}", signin_link(config, &operator, SESSION)?)?;
    let first = organizations::list(database, &OrganizationFilter::default(), None, 1).await?;
    if let Some(org) = first.first() {
        let admin = Identity::new("demo admin".into(), http::Role::Admin, Some(org.id))?;
        say!("\nThe same, as an admin of {}:", org.name)?;
        say!("  {}", signin_link(config, &admin, SESSION)?)?;
    }
    say!(
        "\nServing on http://{}; Ctrl-C ends it, and Postgres with it.",
        config.http.listen
    )?;
    Ok(())
}

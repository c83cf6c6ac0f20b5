//! `demo`: a Postgres of its own, sample organizations, one real purge through the real queue, and what went.

use std::{
    fs::{self, File, TryLockError},
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
    config::{Config, Secret},
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
    queue,
    retention::Plan,
    schedule::Schedule,
    scheduler::Scheduler,
};

/// Its database on a server of its own.
const DATABASE: &str = "workflowops";
/// How long the printed links can be used.
const LINK_TTL: Duration = Duration::from_hours(8);

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
    // Whoever set no secret signs in by the links below: this one ends with the demo.
    config.auth.hs256_secret.get_or_insert_with(Secret::random);
    let stop = stopping::on_signal()?;
    let dir = args.data_dir.clone().map_or_else(default_dir, Ok)?;
    let _alone = lock(&dir)?;
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
        let path = dir.join(name);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
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
        let runs = queue::live_since(database, began).await?;
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
    for run in queue::unsuccessful(database, ids).await? {
        say!(
            "\nOne run failed closed ({}):",
            run.error_kind.as_deref().unwrap_or(&run.status)
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
    Ok(())
}

/// Where to look, and as whom.
async fn print_links(database: &Database, config: &Config) -> Result<()> {
    let operator = Identity {
        subject: "demo operator".into(),
        role: http::Role::Operator,
        org: None,
    };
    say!("\nThe console, as an operator (this link works once):")?;
    say!("  {}", signin_link(config, &operator, LINK_TTL)?)?;
    let first = organizations::list(database, &OrganizationFilter::default(), None, 1).await?;
    if let Some(org) = first.first() {
        let admin = Identity {
            subject: "demo admin".into(),
            role: http::Role::Admin,
            org: Some(org.id),
        };
        say!("\nThe same, as an admin of {}:", org.name)?;
        say!("  {}", signin_link(config, &admin, LINK_TTL)?)?;
    }
    say!(
        "\nServing on http://{}; Ctrl-C ends it, and Postgres with it.",
        config.http.listen
    )?;
    Ok(())
}

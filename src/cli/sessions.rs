//! `sessions`: lists the sessions of the console, and ends them.

use std::process::ExitCode;

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::{ArgGroup, Subcommand};
use serde_json::json;

use super::{
    Settings,
    output::{self, say},
};
use crate::{
    http::sessions::{self, Session, SessionId, Which},
    humanize,
    postgres::{self, Database},
    runs::{Cursor, Operator},
};

#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// List who is signed in, newest first
    List(ListArgs),
    /// End sessions; their users must sign in again
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only sessions of this person
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// The most sessions to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Continue after a page: its `next_cursor`
    #[arg(long)]
    cursor: Option<Cursor>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").args(["ids", "subject", "all"]).required(true)))]
pub(super) struct RevokeArgs {
    /// The sessions, by their ids or at least the first eight characters
    #[arg(value_name = "ID")]
    ids: Vec<SessionId>,
    /// All sessions of this person
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// All sessions
    #[arg(long)]
    all: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: SessionsCommand, settings: &Settings) -> Result<ExitCode> {
    let (_, database) = settings.records_database().await?;
    match command {
        SessionsCommand::List(args) => list(&database, args).await,
        SessionsCommand::Revoke(args) => revoke(&database, args).await,
    }
}

async fn list(database: &Database, args: ListArgs) -> Result<ExitCode> {
    let subject = args.subject.as_deref();
    let page = sessions::list(database, subject, args.cursor, args.limit).await?;
    if args.json {
        output::json(&page)?;
        return Ok(ExitCode::SUCCESS);
    }
    if page.items.is_empty() {
        say!("nobody is signed in")?;
        return Ok(ExitCode::SUCCESS);
    }
    say!("{}", table(postgres::now(database).await?, &page.items))?;
    if let Some(cursor) = page.next_cursor {
        say!("more: --cursor {cursor}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(now: DateTime<Utc>, sessions: &[Session]) -> output::Table {
    let header = ["session", "who", "role", "org", "since", "ends in", "used"];
    let mut table = output::table(&header, header.len());
    for session in sessions {
        // 80 columns have no room for whole ids, so this shows their beginnings. --json has the whole ids.
        let org = session.org_id.map(|org| org.to_string());
        table.add_row([
            session.id.to_string().chars().take(8).collect(),
            session.subject.clone(),
            session.role.clone(),
            org.map_or_else(|| "–".into(), |org| org.chars().take(8).collect()),
            humanize::age(now, session.since),
            humanize::duration(session.until - now),
            humanize::age(now, session.last_seen_at),
        ]);
    }
    table
}

async fn revoke(database: &Database, args: RevokeArgs) -> Result<ExitCode> {
    let which = match args.subject {
        Some(subject) => Which::Subject(subject),
        None if args.all => Which::All,
        None => Which::Ids(args.ids),
    };
    let by = Operator {
        name: output::actor(),
        reason: args.reason,
    };
    let revoked = sessions::revoke(database, &which, &by).await?;
    if args.json {
        output::json(&json!({"revoked": revoked}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for session in &revoked {
        say!("the session {} of {} is over", session.id, session.subject)?;
    }
    if revoked.is_empty() {
        say!("nobody was signed in")?;
    }
    Ok(ExitCode::SUCCESS)
}

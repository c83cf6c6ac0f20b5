//! `sessions`: who is signed in to the console, and ending that.

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
    figures,
    http::sessions::{self, Session, SessionId, Which},
    postgres::{self, Database},
    runs::{Cursor, Operator},
};

#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// List who is signed in, newest first
    List(ListArgs),
    /// End sessions; whoever has them has to sign in again
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only those of this person
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// How many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on after a page: its `next_cursor`
    #[arg(long)]
    cursor: Option<Cursor>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").args(["ids", "subject", "all"]).required(true)))]
pub(super) struct RevokeArgs {
    /// The sessions, by the first eight characters of their ids or more
    #[arg(value_name = "ID")]
    ids: Vec<SessionId>,
    /// All of this person
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Everybody's
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
        // The beginnings of ids: 80 columns hold no whole one beside the rest. --json has them.
        let org = session.org_id.map(|org| org.to_string());
        table.add_row([
            session.id.to_string().chars().take(8).collect(),
            session.subject.clone(),
            session.role.clone(),
            org.map_or_else(|| "–".into(), |org| org.chars().take(8).collect()),
            figures::age(now, session.since),
            figures::duration(session.until - now),
            figures::age(now, session.last_seen_at),
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

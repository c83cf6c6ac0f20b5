//! How a command reaches the database that the settings name: by which way, and over how many connections.

use anyhow::{Context, Result};

use crate::{
    config::Config,
    jobs,
    postgres::{self, Database, Reading},
};

/// Connections for what counts a lot and changes nothing: one for the gauges, the others for HTTP requests. As many more to a
/// replica.
const COUNTING_CONNECTIONS: u32 = 4;
/// Connections for HTTP requests that are soon done.
const QUICK_CONNECTIONS: u32 = 6;

/// With three a process gets its work done, though readiness may lag; more than there are would be worse: a pool waits in
/// vain for the next one while those that it has come free.
const FEWEST_THAT_DO: u32 = 3;

/// What a process does with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A command, and soon over.
    Ask,
    /// A process that serves, with these roles among its own.
    Serve {
        /// It answers requests over HTTP: role `api`.
        answers: bool,
        /// It purges: role `worker`.
        purges: bool,
    },
}

/// Checks every URL in the settings, as far as that can be done without connecting; returns what is passed over in them, in words.
pub(super) fn check_urls(config: &Config) -> Result<Vec<String>> {
    let database = &config.database;
    let mut passed_over = Vec::new();
    for (key, url) in [
        ("database.url", &database.url),
        ("database.direct_url", &database.direct_url),
        ("replica_url", &config.replica_url),
    ] {
        let Some(url) = url else { continue };
        let parameters =
            postgres::check_url(url).with_context(|| format!("{key} cannot be used"))?;
        passed_over.extend(parameters.iter().map(|parameter| {
            format!(
                "{key} has a parameter {parameter:?}, which is not known here and is passed over"
            )
        }));
    }
    Ok(passed_over)
}

/// The same, for who goes on to connect.
pub(super) fn usable_urls(config: &Config) -> Result<()> {
    for passed_over in check_urls(config)? {
        tracing::warn!("{passed_over}");
    }
    Ok(())
}

/// The database, past a pooler where the settings name a way.
pub(super) async fn open(config: &Config, to: Use) -> Result<Database> {
    let url = config.database_url()?;
    usable_urls(config)?;
    let (answers, purges) = match to {
        Use::Ask => (false, false),
        Use::Serve { answers, purges } => (answers, purges),
    };
    let mut connections = allowed_connections(config, answers);
    if to != Use::Ask {
        connections = connections_to_be_had(config, connections).await?;
    }
    let (quick, counting) = if answers {
        for_requests(connections)
    } else {
        (0, 0)
    };
    let own = connections - quick - counting;
    let concurrency = config.worker.concurrency();
    let database = match &config.database.direct_url {
        Some(direct) => {
            let sessions = jobs::sessions(concurrency).min(connections);
            Database::behind_pooler(url, own, direct, sessions)?
        }
        // One for each that deletes, and one for a commit that waits for the disk. Who allows few connections has them shared.
        None if purges && own >= enough_connections(concurrency) => {
            let purging = u32::try_from(concurrency + 1).unwrap_or(u32::MAX);
            Database::for_purging(url, own, purging)?
        }
        None => Database::new(url, own)?,
    };
    if quick == 0 {
        return Ok(database);
    }
    Ok(database.with_requests(url, quick, counting)?)
}

/// How many of the connections requests over HTTP have to themselves: for what is soon done, and for what counts a lot. Where
/// there are few, all are shared.
fn for_requests(connections: u32) -> (u32, u32) {
    match connections {
        0..8 => (0, 0),
        8..16 => (2, 2),
        _ => (QUICK_CONNECTIONS, COUNTING_CONNECTIONS),
    }
}

/// Where previews and gauges are read, on connections of their own: the replica that the settings name, and the database itself
/// where it does not answer.
/// A replica of a database behind a pooler may stand behind one too; nothing that is read there needs a session.
pub(super) fn open_reading(config: &Config, database: &Database) -> Result<Reading> {
    let Some(url) = &config.replica_url else {
        return Ok(Reading::on(database.for_counting()));
    };
    let replica = if config.database.direct_url.is_some() {
        Database::for_reading_behind_pooler(url, COUNTING_CONNECTIONS)?
    } else {
        Database::for_reading(url, COUNTING_CONNECTIONS)?
    };
    let replica = match database.mapping() {
        Some(mapping) => replica.with_mapping(mapping.clone()),
        None => replica,
    };
    Ok(Reading::on_replica(replica, database.for_counting()))
}

/// What the settings allow, or what the server has left of it: a pool that may open more than there are makes whoever asks
/// wait for another connection in vain, while those that there are come free.
async fn connections_to_be_had(config: &Config, allowed: u32) -> Result<u32> {
    if config.database.direct_url.is_some() {
        return Ok(allowed); // the pooler has them
    }
    let database = Database::new(config.database_url()?, 1)?;
    let left = postgres::connections_left(&database).await;
    database.close().await;
    let connections = match left {
        Ok(left) => u32::try_from(left)
            .unwrap_or_default()
            .clamp(FEWEST_THAT_DO, allowed),
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
pub(super) fn allowed_connections(config: &Config, answers: bool) -> u32 {
    let for_requests = if answers {
        QUICK_CONNECTIONS + COUNTING_CONNECTIONS
    } else {
        0
    };
    let enough = || enough_connections(config.worker.concurrency()) + for_requests;
    config.database.connections.unwrap_or_else(enough)
}

/// Per run at once a connection for its batches and one for its record, and a few more for the loops and LISTEN.
fn enough_connections(concurrency: usize) -> u32 {
    u32::try_from(concurrency * 2 + 8).unwrap_or(u32::MAX)
}

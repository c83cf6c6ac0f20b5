//! Opens the database that the settings name: directly or through a pooler, and with how many connections.

use anyhow::{Context, Result};

use crate::{
    config::Config,
    jobs,
    postgres::{self, Database, Reading},
};

/// Connections for expensive counts: one for the gauges, the others for HTTP requests. A replica gets the same number.
const COUNTING_CONNECTIONS: u32 = 4;
/// Connections for HTTP requests that take little time.
const QUICK_CONNECTIONS: u32 = 6;

/// The fewest connections with which a process works, although readiness may lag. A pool that may open more
/// connections than the server has left is worse: callers wait for a new one in vain while existing ones become free.
const MIN_CONNECTIONS: u32 = 3;

/// How a process uses the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// A command that ends soon.
    Ask,
    /// A process that serves.
    Serve {
        /// Whether it has the role `api`, which answers HTTP requests.
        answers: bool,
        /// Whether it has the role `worker`, which purges.
        purges: bool,
    },
}

/// Checks every URL in the settings without connecting. Returns a message for each parameter that is ignored.
pub(super) fn check_urls(config: &Config) -> Result<Vec<String>> {
    let database = &config.database;
    let mut ignored = Vec::new();
    for (key, url) in [
        ("database.url", &database.url),
        ("database.direct_url", &database.direct_url),
        ("replica_url", &config.replica_url),
    ] {
        let Some(url) = url else { continue };
        let parameters =
            postgres::check_url(url).with_context(|| format!("{key} cannot be used"))?;
        ignored.extend(parameters.iter().map(|parameter| {
            format!("{key} has an unknown parameter {parameter:?}, which is ignored")
        }));
    }
    Ok(ignored)
}

/// Checks every URL before connecting, and logs ignored parameters.
pub(super) fn check_urls_and_warn(config: &Config) -> Result<()> {
    for ignored in check_urls(config)? {
        tracing::warn!("{ignored}");
    }
    Ok(())
}

/// Opens the database, with direct sessions past a pooler if the settings name `database.direct_url`.
pub(super) async fn open(config: &Config, usage: Usage) -> Result<Database> {
    let url = config.database_url()?;
    check_urls_and_warn(config)?;
    let (answers, purges) = match usage {
        Usage::Ask => (false, false),
        Usage::Serve { answers, purges } => (answers, purges),
    };
    let mut connections = allowed_connections(config, answers);
    if usage != Usage::Ask {
        connections = available_connections(config, connections).await?;
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
        // One for each run that deletes, and one for a commit that waits for the disk. If few connections are
        // allowed, they are shared.
        None if purges && own >= required_connections(concurrency) => {
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

/// The connections reserved for HTTP requests: for quick ones and for expensive counts. If there are few connections,
/// all are shared.
fn for_requests(connections: u32) -> (u32, u32) {
    match connections {
        0..8 => (0, 0),
        8..16 => (2, 2),
        _ => (QUICK_CONNECTIONS, COUNTING_CONNECTIONS),
    }
}

/// Opens the connections on which previews and gauges are read: to the replica that the settings name, and to the
/// database itself for when the replica does not answer. If the database is behind a pooler, the replica may be too.
/// Reads on the replica need no session.
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

/// The allowed connections, or as many as the server has left. A pool that may open more connections than the server
/// has left makes callers wait for a new one in vain while existing ones become free.
async fn available_connections(config: &Config, allowed: u32) -> Result<u32> {
    if config.database.direct_url.is_some() {
        return Ok(allowed); // the pooler holds the connections
    }
    let database = Database::new(config.database_url()?, 1)?;
    let left = postgres::connections_left(&database).await;
    database.close().await;
    let connections = match left {
        Ok(left) => u32::try_from(left)
            .unwrap_or_default()
            .clamp(MIN_CONNECTIONS, allowed),
        Err(error) => {
            // The next statement on the database will report the error.
            tracing::debug!(%error, "cannot see how many connections are left");
            allowed
        }
    };
    if connections < allowed {
        tracing::warn!(
            connections,
            wanted = allowed,
            "the server has fewer connections left than this process would use; the process keeps to this number until its next start: \
            raise max_connections, or the limit of the user or database, or lower database.connections"
        );
    }
    Ok(connections)
}

/// The connections that the settings allow, or the number that this process needs.
pub(super) fn allowed_connections(config: &Config, answers: bool) -> u32 {
    let for_requests = if answers {
        QUICK_CONNECTIONS + COUNTING_CONNECTIONS
    } else {
        0
    };
    let required = || required_connections(config.worker.concurrency()) + for_requests;
    config.database.connections.unwrap_or_else(required)
}

/// For each concurrent run, one connection for its batches and one for its record; and eight for the loops and LISTEN.
fn required_connections(concurrency: usize) -> u32 {
    u32::try_from(concurrency * 2 + 8).unwrap_or(u32::MAX)
}

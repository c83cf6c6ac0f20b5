//! Chooses the server for expensive reads: a replica while it answers, otherwise the primary.
//!
//! A replica cancels a statement that conflicts with its replay, and it may be down. Readers should not notice this. So
//! a failed read is tried once more on the replica and then on the primary. A replica that is down is skipped for a
//! while, so that not every reader waits for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Database, is_contention, is_timeout};

/// How long a replica that is down is skipped.
const REPLICA_SKIP_TIME: Duration = Duration::from_secs(30);

/// The primary, and a replica that answers instead of it if there is one.
#[derive(Debug, Clone)]
pub struct Reading {
    primary: Database,
    replica: Option<Replica>,
}

#[derive(Debug, Clone)]
struct Replica {
    database: Database,
    skipped_until: Arc<Mutex<Option<Instant>>>,
}

impl Reading {
    /// Reads on the primary.
    #[must_use]
    pub fn on(primary: Database) -> Self {
        Self {
            primary,
            replica: None,
        }
    }

    /// Reads on a replica while it answers.
    #[must_use]
    pub fn on_replica(replica: Database, primary: Database) -> Self {
        Self {
            primary,
            replica: Some(Replica {
                database: replica,
                skipped_until: Arc::default(),
            }),
        }
    }

    /// The most connections to the replica that may be open at once.
    #[must_use]
    pub fn most_connections_to_a_replica(&self) -> u32 {
        let replica = self.replica.as_ref();
        replica.map_or(0, |replica| replica.database.most_connections())
    }

    /// Begins a read that one server answers as a whole.
    #[must_use]
    pub fn begin(&self) -> Turn<'_> {
        let replica = self
            .replica
            .as_ref()
            .filter(|replica| !replica.is_skipped());
        Turn {
            primary: &self.primary,
            replica,
            tries: 0,
        }
    }
}

impl Replica {
    fn is_skipped(&self) -> bool {
        let until = *self.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    fn skip_for_a_while(&self) {
        *self.lock() = Some(Instant::now() + REPLICA_SKIP_TIME);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        let locked = self.skipped_until.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts of one read: the server to ask now, and the one to ask next.
#[derive(Debug)]
pub struct Turn<'r> {
    primary: &'r Database,
    /// `None` if the primary is to be asked.
    replica: Option<&'r Replica>,
    tries: u8,
}

impl Turn<'_> {
    /// The server to ask now.
    #[must_use]
    pub fn database(&self) -> &Database {
        self.replica
            .map_or(self.primary, |replica| &replica.database)
    }

    /// Returns whether to try again after a failure. It is `false` if the primary failed, or if the statement took too
    /// long: it would also take too long on the primary and slow the main app down.
    pub fn goes_on_after(&mut self, error: &sqlx::Error) -> bool {
        let Some(replica) = self.replica else {
            return false;
        };
        if is_timeout(error) {
            return false;
        }
        self.tries += 1;
        // A pool that timed out has tried for the whole time.
        if self.tries == 1 && !matches!(error, sqlx::Error::PoolTimedOut) {
            return true;
        }
        self.replica = None;
        // A replica that cancelled a statement for its replay works and answers the next one.
        if !is_contention(error) {
            replica.skip_for_a_while();
        }
        let error = match error {
            sqlx::Error::Database(database) => database.message().to_owned(),
            error => error.to_string(),
        };
        tracing::warn!(
            error,
            "the replica that `replica_url` names does not answer; reading on the primary"
        );
        true
    }

    /// Switches to the primary, which may have data that the replica does not have yet. Returns whether to try again.
    pub fn goes_on_to_the_primary(&mut self) -> bool {
        self.replica.take().is_some()
    }
}

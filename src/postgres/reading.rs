//! Where what counts a lot and changes nothing is read: on a replica, as long as it answers.
//!
//! A replica ends a statement that stands in the way of what it has to replay, and it may be down or out of reach. Nobody
//! who asks should notice: what it does not answer, it is asked once more, and then the primary is. A replica that is down
//! is left alone for a while, so that not every reader waits for it anew.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Database, is_contention, is_timeout};

/// How long a replica that is down is left alone.
const REST: Duration = Duration::from_secs(30);

/// The primary, and a replica that answers in its place if there is one.
#[derive(Debug, Clone)]
pub struct Reading {
    primary: Database,
    replica: Option<Replica>,
}

#[derive(Debug, Clone)]
struct Replica {
    database: Database,
    rests_until: Arc<Mutex<Option<Instant>>>,
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

    /// Reads on a replica, as long as it answers.
    #[must_use]
    pub fn on_replica(replica: Database, primary: Database) -> Self {
        Self {
            primary,
            replica: Some(Replica {
                database: replica,
                rests_until: Arc::default(),
            }),
        }
    }

    /// The most connections that can be open to the replica at once.
    #[must_use]
    pub fn most_connections_to_a_replica(&self) -> u32 {
        let replica = self.replica.as_ref();
        replica.map_or(0, |replica| replica.database.most_connections())
    }

    /// Begins something that is to be read as a whole, from one of them.
    #[must_use]
    pub fn begin(&self) -> Turn<'_> {
        let replica = self.replica.as_ref().filter(|replica| !replica.rests());
        Turn {
            primary: &self.primary,
            replica,
            tries: 0,
        }
    }
}

impl Replica {
    fn rests(&self) -> bool {
        let until = *self.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    fn rest(&self) {
        *self.lock() = Some(Instant::now() + REST);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        let locked = self.rests_until.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is asked, and who is asked next.
#[derive(Debug)]
pub struct Turn<'r> {
    primary: &'r Database,
    /// Absent: the primary's turn has come.
    replica: Option<&'r Replica>,
    tries: u8,
}

impl Turn<'_> {
    /// Whom to ask now.
    #[must_use]
    pub fn database(&self) -> &Database {
        self.replica
            .map_or(self.primary, |replica| &replica.database)
    }

    /// After a failure: whether to ask again. It is `false` once the primary has failed, and where the statement took too long:
    /// it would do so on the primary as well, at the main app's expense.
    pub fn goes_on_after(&mut self, error: &sqlx::Error) -> bool {
        let Some(replica) = self.replica else {
            return false;
        };
        if is_timeout(error) {
            return false;
        }
        self.tries += 1;
        // A pool that timed out has tried all the time.
        if self.tries == 1 && !matches!(error, sqlx::Error::PoolTimedOut) {
            return true;
        }
        self.replica = None;
        // One that ends a statement for what it has to replay is at work, and answers the next.
        if !is_contention(error) {
            replica.rest();
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

    /// What a replica does not have yet, the primary may have: whether to ask again.
    pub fn goes_on_to_the_primary(&mut self) -> bool {
        self.replica.take().is_some()
    }
}

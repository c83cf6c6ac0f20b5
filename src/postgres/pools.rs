//! The pools of one database, and who may use which: work that waits in one keeps nobody waiting in another.

use std::{iter, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::time::{sleep, timeout};

use super::{
    Mapping,
    connections::{Access, Trust},
    direct_pool, pooler_pool,
};

/// The pause after each connection that is opened ahead.
const BETWEEN_CONNECTIONS: Duration = Duration::from_millis(30);
/// How long opening ahead may take.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// Connections to a replica for cancelling what others of them are at.
const CANCELLING: u32 = 1;

/// Postgres, by one URL or by two.
#[derive(Debug, Clone)]
pub struct Database {
    pub(super) pool: PgPool,
    /// Sessions of our own; absent: `pool` has them.
    pub(super) direct: Option<PgPool>,
    /// Sessions of their own for the transactions that purge; absent: `pool` has them. They are few: a pool hands out the session
    /// that has been idle for longest, and each session maps every page of the tables that it comes to into its own memory.
    pub(super) purging: Option<PgPool>,
    /// Connections that HTTP requests have to themselves; absent: they share `pool`.
    requests: Option<RequestPools>,
    /// Cancels statements that nobody waits for; absent: `pool` does.
    pub(super) cancels: Option<PgPool>,
    /// The mapping that this process has checked; absent: nothing may be purged.
    pub(super) mapping: Option<Arc<Mapping>>,
    /// Which of the connections may still be used.
    pub(super) trust: Arc<Trust>,
}

/// However many requests wait for the database, the worker, the scheduler and readiness have connections of their own.
#[derive(Debug, Clone)]
struct RequestPools {
    /// For what is soon done.
    quick: PgPool,
    /// For what counts a lot, by [`Database::for_counting`].
    counting: PgPool,
}

/// How much requests over HTTP may do at once, so that connections are left for others.
#[derive(Debug, Clone, Copy)]
pub struct AtOnce {
    /// Of what counts a lot: one connection is the gauges'.
    pub counting: usize,
    /// Of what may meet the main app's locks: the other connections are for reading.
    pub enqueueing: usize,
}

impl Database {
    /// The database at `url`, over at most `connections` of its sessions; connects at the first use.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn new(url: &str, connections: u32) -> sqlx::Result<Self> {
        Self::on(url, connections, Trust::new(Access::Write))
    }

    /// The same for what only reads: the server may be a replica.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn for_reading(url: &str, connections: u32) -> sqlx::Result<Self> {
        let database = Self::on(url, connections, Trust::new(Access::Read))?;
        Ok(Self {
            cancels: Some(direct_pool(url, CANCELLING, &database.trust)?),
            ..database
        })
    }

    fn on(url: &str, connections: u32, trust: Arc<Trust>) -> sqlx::Result<Self> {
        Ok(Self {
            pool: direct_pool(url, connections, &trust)?,
            direct: None,
            purging: None,
            requests: None,
            cancels: None,
            mapping: None,
            trust,
        })
    }

    /// The same for a process that purges: `purging` of the `connections` are for transactions that purge, and no others.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn for_purging(url: &str, connections: u32, purging: u32) -> sqlx::Result<Self> {
        let database = Self::new(url, connections.saturating_sub(purging))?;
        Ok(Self {
            purging: Some(direct_pool(url, purging, &database.trust)?),
            ..database
        })
    }

    /// The database behind a transaction pooler: at most `connections` to the pooler at `url`, and at most `sessions`
    /// at `direct_url`, which leads past it.
    ///
    /// # Errors
    /// When a URL is no Postgres URL.
    pub fn behind_pooler(
        url: &str,
        connections: u32,
        direct_url: &str,
        sessions: u32,
    ) -> sqlx::Result<Self> {
        let trust = Trust::new(Access::Write);
        Ok(Self {
            pool: pooler_pool(url, connections, &trust)?,
            direct: Some(direct_pool(direct_url, sessions, &trust)?),
            purging: None,
            requests: None,
            cancels: None,
            mapping: None,
            trust,
        })
    }

    /// The same for what only reads, over one URL: the server behind the pooler may be a replica.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn for_reading_behind_pooler(url: &str, connections: u32) -> sqlx::Result<Self> {
        let trust = Trust::new(Access::Read);
        Ok(Self {
            pool: pooler_pool(url, connections, &trust)?,
            direct: Some(direct_pool(url, connections, &trust)?),
            purging: None,
            requests: None,
            cancels: Some(pooler_pool(url, CANCELLING, &trust)?),
            mapping: None,
            trust,
        })
    }

    /// The same with connections more, to `url` as well: `quick` for the requests of [`Database::for_requests`], and `counting`
    /// for what [`Database::for_counting`] is for.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn with_requests(self, url: &str, quick: u32, counting: u32) -> sqlx::Result<Self> {
        let open = |connections| {
            if self.is_pooled() {
                pooler_pool(url, connections, &self.trust)
            } else {
                direct_pool(url, connections, &self.trust)
            }
        };
        let requests = RequestPools {
            quick: open(quick)?,
            counting: open(counting)?,
        };
        Ok(Self {
            requests: Some(requests),
            ..self
        })
    }

    /// The same database for HTTP requests that are soon done.
    #[must_use]
    pub fn for_requests(&self) -> Self {
        self.through(self.requests.as_ref().map(|requests| &requests.quick))
    }

    /// The same database for what counts a lot and changes nothing.
    #[must_use]
    pub fn for_counting(&self) -> Self {
        self.through(self.requests.as_ref().map(|requests| &requests.counting))
    }

    /// How much requests may do at once.
    #[must_use]
    pub fn at_once(&self) -> AtOnce {
        let Some(requests) = &self.requests else {
            return AtOnce {
                counting: 1,
                enqueueing: 1,
            };
        };
        let most = |pool: &PgPool| pool.options().get_max_connections() as usize;
        AtOnce {
            counting: most(&requests.counting) - 1,
            enqueueing: (most(&requests.quick) / 2).max(1),
        }
    }

    fn through(&self, pool: Option<&PgPool>) -> Self {
        Self {
            pool: pool.unwrap_or(&self.pool).clone(),
            purging: None,
            requests: None,
            cancels: Some(self.pool.clone()),
            ..self.clone()
        }
    }

    /// Has every connection that is open now closed before it is used again: something is wrong with them.
    pub fn renew_connections(&self) {
        self.trust.lose();
    }

    /// The same database for a process that has checked `mapping`: it may purge.
    #[must_use]
    pub fn with_mapping(self, mapping: Mapping) -> Self {
        Self {
            mapping: Some(Arc::new(mapping)),
            ..self
        }
    }

    /// The mapping that this process has checked.
    #[must_use]
    pub fn mapping(&self) -> Option<&Mapping> {
        self.mapping.as_deref()
    }

    /// Sessions that stay ours from one statement to the next: LISTEN and advisory locks need them, and with them
    /// the queue.
    #[must_use]
    pub fn sessions(&self) -> &PgPool {
        self.direct.as_ref().unwrap_or(&self.pool)
    }

    /// Connections that are open now, and how many of them nobody uses.
    #[must_use]
    pub fn connections(&self) -> (u32, usize) {
        self.pools().fold((0, 0), |(open, idle), pool| {
            (open + pool.size(), idle + pool.num_idle())
        })
    }

    /// The most connections that can be open at once.
    #[must_use]
    pub fn most_connections(&self) -> u32 {
        self.pools()
            .map(|pool| pool.options().get_max_connections())
            .sum()
    }

    /// Opens every connection of a worker before it is needed, one after the other: a server of two processors feels it when ten begin at
    /// once. What cannot be opened in time is when it is needed, or that fails.
    pub async fn open_gently(&self) {
        let open_all = async {
            for pool in self.own_pools() {
                let mut open = Vec::new();
                while pool.size() < pool.options().get_max_connections() {
                    open.push(pool.acquire().await?);
                    sleep(BETWEEN_CONNECTIONS).await;
                }
            }
            Ok::<_, sqlx::Error>(())
        };
        match timeout(OPEN_WITHIN, open_all).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot open every connection now"),
            Err(_) => tracing::debug!("not every connection is open yet"),
        }
    }

    /// Closes every connection, once it is free.
    pub async fn close(&self) {
        for pool in self.pools() {
            pool.close().await;
        }
    }

    fn pools(&self) -> impl Iterator<Item = &PgPool> {
        let requests = self.requests.iter();
        let requests = requests.flat_map(|requests| [&requests.quick, &requests.counting]);
        let cancels = self.cancels.as_ref().filter(|_| self.requests.is_none());
        self.own_pools().chain(requests).chain(cancels)
    }

    /// All but those of requests.
    fn own_pools(&self) -> impl Iterator<Item = &PgPool> {
        iter::once(&self.pool)
            .chain(&self.direct)
            .chain(&self.purging)
    }
}

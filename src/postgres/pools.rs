//! The pools of one database and their users. Work that waits for a connection in one pool does not block another pool.

use std::{iter, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::time::{sleep, timeout};

use super::{
    Mapping,
    connections::{Access, Trust},
    direct_pool, pooler_pool,
};

/// The pause after each connection that is opened in advance.
const CONNECTION_PAUSE: Duration = Duration::from_millis(30);
/// How long opening connections in advance may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections to a replica that only cancel statements of the others.
const CANCEL_CONNECTIONS: u32 = 1;

/// A Postgres database, reached through one URL or two.
#[derive(Debug, Clone)]
pub struct Database {
    pub(super) pool: PgPool,
    /// Direct sessions past a pooler. If absent, `pool` has sessions.
    pub(super) direct: Option<PgPool>,
    /// Sessions of their own for the transactions that purge; absent: `pool` has them. They are few: a pool hands out the session
    /// that has been idle for longest, and each session maps every page of the tables that it comes to into its own memory.
    pub(super) purging: Option<PgPool>,
    /// Connections that HTTP requests have to themselves; absent: they share `pool`.
    requests: Option<RequestPools>,
    /// Cancels abandoned statements. If absent, `pool` does.
    pub(super) cancels: Option<PgPool>,
    /// The mapping that this process has checked. If absent, nothing may be purged.
    pub(super) mapping: Option<Arc<Mapping>>,
    /// Decides which connections may be reused.
    pub(super) trust: Arc<Trust>,
}

/// However many requests wait for the database, the worker, the scheduler and readiness have connections of their own.
#[derive(Debug, Clone)]
struct RequestPools {
    /// For requests that take little time.
    quick: PgPool,
    /// For expensive counts; see [`Database::for_counting`].
    counting: PgPool,
}

/// Limits of concurrent HTTP requests, so that connections remain for others.
#[derive(Debug, Clone, Copy)]
pub struct AtOnce {
    /// Expensive counts at once. One connection remains for the gauges.
    pub counting: usize,
    /// Requests at once that may meet the main app's locks. The other connections remain for reads.
    pub enqueueing: usize,
}

impl Database {
    /// The database at `url`, with at most `connections` connections. It connects at the first use.
    ///
    /// # Errors
    /// When `url` is not a Postgres URL.
    pub fn new(url: &str, connections: u32) -> sqlx::Result<Self> {
        Self::on(url, connections, Trust::new(Access::Write))
    }

    /// The same for reads only: the server may be a replica.
    ///
    /// # Errors
    /// When `url` is not a Postgres URL.
    pub fn for_reading(url: &str, connections: u32) -> sqlx::Result<Self> {
        let database = Self::on(url, connections, Trust::new(Access::Read))?;
        Ok(Self {
            cancels: Some(direct_pool(url, CANCEL_CONNECTIONS, &database.trust)?),
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

    /// The database behind a transaction pooler: at most `connections` connections to the pooler at `url`, and at most
    /// `sessions` to Postgres itself at `direct_url`.
    ///
    /// # Errors
    /// When a URL is not a Postgres URL.
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

    /// The same for reads only, with one URL: the server behind the pooler may be a replica.
    ///
    /// # Errors
    /// When `url` is not a Postgres URL.
    pub fn for_reading_behind_pooler(url: &str, connections: u32) -> sqlx::Result<Self> {
        let trust = Trust::new(Access::Read);
        Ok(Self {
            pool: pooler_pool(url, connections, &trust)?,
            direct: Some(direct_pool(url, connections, &trust)?),
            purging: None,
            requests: None,
            cancels: Some(pooler_pool(url, CANCEL_CONNECTIONS, &trust)?),
            mapping: None,
            trust,
        })
    }

    /// The same with additional connections to `url`: `quick` for [`Database::for_requests`] and `counting` for
    /// [`Database::for_counting`].
    ///
    /// # Errors
    /// When `url` is not a Postgres URL.
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

    /// The same database for HTTP requests that take little time.
    #[must_use]
    pub fn for_requests(&self) -> Self {
        self.through(self.requests.as_ref().map(|requests| &requests.quick))
    }

    /// The same database for expensive counts, which change nothing.
    #[must_use]
    pub fn for_counting(&self) -> Self {
        self.through(self.requests.as_ref().map(|requests| &requests.counting))
    }

    /// The limits of concurrent requests.
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

    /// Closes every open connection instead of reusing it, because something is wrong with them.
    pub fn renew_connections(&self) {
        self.trust.lose();
    }

    /// The same database for a process that has checked `mapping` and so may purge.
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

    /// Sessions that last for many statements. LISTEN, advisory locks and the queue need them.
    #[must_use]
    pub fn sessions(&self) -> &PgPool {
        self.direct.as_ref().unwrap_or(&self.pool)
    }

    /// The number of open connections, and the number of idle ones among them.
    #[must_use]
    pub fn connections(&self) -> (u32, usize) {
        self.pools().fold((0, 0), |(open, idle), pool| {
            (open + pool.size(), idle + pool.num_idle())
        })
    }

    /// The most connections that may be open at once.
    #[must_use]
    pub fn most_connections(&self) -> u32 {
        self.pools()
            .map(|pool| pool.options().get_max_connections())
            .sum()
    }

    /// Opens every connection of a worker in advance, one after the other, because opening ten at once slows a small
    /// server down. A connection that cannot be opened in time is opened when it is needed.
    pub async fn open_gently(&self) {
        let open_all = async {
            for pool in self.own_pools() {
                let mut open = Vec::new();
                while pool.size() < pool.options().get_max_connections() {
                    open.push(pool.acquire().await?);
                    sleep(CONNECTION_PAUSE).await;
                }
            }
            Ok::<_, sqlx::Error>(())
        };
        match timeout(OPEN_TIMEOUT, open_all).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot open every connection in advance"),
            Err(_) => tracing::debug!("not every connection was opened in advance"),
        }
    }

    /// Closes every connection as soon as it is free.
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

    /// All pools except those of requests.
    fn own_pools(&self) -> impl Iterator<Item = &PgPool> {
        iter::once(&self.pool)
            .chain(&self.direct)
            .chain(&self.purging)
    }
}

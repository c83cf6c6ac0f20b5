//! The main app with its sessions busy.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinHandle;

use super::{TestDatabase, execute_on, product::eventually};

/// The main app with several sessions at work, until dropped.
pub struct AppAtWork {
    over: Arc<AtomicBool>,
    sessions: Vec<JoinHandle<()>>,
}

impl AppAtWork {
    /// Begins, and waits until it shows.
    pub async fn on(db: &TestDatabase) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let session = || {
            let (pool, over) = (db.pool.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    execute_on(&pool, "SELECT pg_sleep(0.05)").await;
                }
            })
        };
        let sessions = (0..3).map(|_| session()).collect();
        eventually("the main app is at work", async || {
            let at_work = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND query = 'SELECT pg_sleep(0.05)'";
            db.value::<i64>(at_work).await >= 2
        })
        .await;
        Self { over, sessions }
    }

    pub async fn rest(self) {
        self.over.store(true, Ordering::Relaxed);
        for session in self.sessions {
            session.await.unwrap();
        }
    }
}

//! A Postgres of a test's own, to stop and start: behind one address that stays, as a service's address does.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use drift_retention::postgres::{
    self,
    local::{LocalServer, ServerBinaries, StopMode},
    migrations,
};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

/// The server, a migrated database on it, and the address through which it is reached.
pub struct OwnServer {
    dir: TempDir,
    server: Option<LocalServer>,
    port: Arc<AtomicU16>,
    pub url: String,
    pub pool: PgPool,
}

impl OwnServer {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Reachable by the user that the server drops to when the tests run as root.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let server = launch(&dir).await;
        server.create_database("app").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = Arc::new(AtomicU16::new(server.port()));
        tokio::spawn(forward(listener, port.clone()));
        let url = server
            .url("app")
            .replace(&server.port().to_string(), &address.port().to_string());
        let pool = super::pool(PgConnectOptions::from_str(&url).unwrap());
        let migrating = postgres::pool_for_migrations(&url).unwrap();
        migrations::up_main_app(&migrating).await.unwrap();
        migrating.close().await;
        Self {
            dir,
            server: Some(server),
            port,
            url,
            pool,
        }
    }

    pub async fn stop(&mut self, mode: StopMode) {
        self.server.take().unwrap().stop(mode).await.unwrap();
    }

    /// Starts it again, with its data, at the same address.
    pub async fn start_again(&mut self) {
        let server = launch(&self.dir).await;
        self.port.store(server.port(), Ordering::SeqCst);
        self.server = Some(server);
    }
}

async fn launch(dir: &TempDir) -> LocalServer {
    let binaries = ServerBinaries::find(None).unwrap();
    LocalServer::start(&binaries, dir.path(), &[("fsync", "off")])
        .await
        .unwrap()
}

/// Passes every connection on to the server's present port; refuses, by hanging up, while there is none.
async fn forward(listener: TcpListener, port: Arc<AtomicU16>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let port = port.load(Ordering::SeqCst);
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

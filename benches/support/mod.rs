//! The product as somebody uses it, on a Postgres of its own: the sample data, purged once, and `serve` in its release
//! build with all roles.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
    time::Duration,
};

use drift_retention::{
    demo::sample_data,
    postgres::{
        self,
        local::{LocalServer, ServerBinaries, StopMode},
        migrations,
    },
};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::process::Child;

const BINARY: &str = env!("CARGO_BIN_EXE_drift-retention");
const SECRET: &str = "a secret of this bench alone, 32 bytes";

/// The sample data, purged once.
pub(crate) struct SampleData {
    server: LocalServer,
    _dir: TempDir,
    url: String,
    /// For looking at it, and adding to it.
    pub(crate) pool: PgPool,
}

impl SampleData {
    pub(crate) async fn purged() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // As root the server runs as another user, who has to get in.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let server = LocalServer::start(&ServerBinaries::find(None).unwrap(), dir.path(), &[])
            .await
            .unwrap();
        server.create_database("bench").await.unwrap();
        let url = server.url("bench");
        let migrating = postgres::pool_for_migrations(&url).unwrap();
        migrations::up_main_app(&migrating).await.unwrap();
        migrating.close().await;
        let pool = PgPool::connect(&url).await.unwrap();
        sample_data::load(&pool).await.unwrap();
        let purged = run(&["purge", "--all", "--work"], &[("DATABASE_URL", &url)]);
        // One run fails, and the command says so: that plan is unknown.
        assert!(purged.status.code() <= Some(1), "{purged:?}");
        Self {
            server,
            _dir: dir,
            url,
            pool,
        }
    }

    /// Starts `serve`, and waits until it answers.
    pub(crate) async fn serve(self) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let environment = [
            ("DATABASE_URL", self.url.as_str()),
            ("DRIFT_RETENTION_AUTH__HS256_SECRET", SECRET),
            ("DRIFT_RETENTION_HTTP__LISTEN", address.as_str()),
            ("RUST_LOG", "error"),
        ];
        // Ends with the bench, also when that stops halfway.
        let service = tokio::process::Command::new(BINARY)
            .kill_on_drop(true)
            .arg("serve")
            .envs(environment)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let token = run(
            &["token", "--sub", "bench", "--role", "operator"],
            &environment,
        );
        let base = format!("http://{address}");
        while reqwest::get(format!("{base}/readyz")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Served {
            data: self,
            service,
            base,
            token: String::from_utf8(token.stdout).unwrap().trim().to_owned(),
        }
    }
}

/// `serve`, at work.
pub(crate) struct Served {
    pub(crate) data: SampleData,
    service: Child,
    /// What every address begins with.
    pub(crate) base: String,
    /// An operator's.
    pub(crate) token: String,
}

impl Served {
    pub(crate) async fn stop(mut self) {
        self.service.kill().await.unwrap();
        self.data.pool.close().await;
        self.data.server.stop(StopMode::Immediate).await.unwrap();
    }
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// What so many percent of the latencies stay below, in milliseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len() - 1);
    sorted[index].as_secs_f64() * 1000.0
}

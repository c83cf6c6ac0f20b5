//! A real pgbouncer in transaction mode, of this test's own, before the server that the tests use.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Stdio,
    str::FromStr,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor, Row,
    postgres::{PgConnectOptions, PgRow},
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{TestDatabase, port::Port, product::eventually};

/// So few that transactions of several clients take turns on every session.
const SESSIONS: usize = 3;
const ADMIN: &str = "pgbouncer";

/// The pooler: it ends with the test.
pub struct Pooler {
    /// The test's database, through the pooler.
    pub url: String,
    port: Port,
    _child: Child,
    _dir: TempDir,
}

impl Pooler {
    /// Starts one before the database's server.
    pub async fn before(db: &TestDatabase) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Reachable by the user that it drops to when the tests run as root, which it refuses.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let port = Port::reserve();
        let server = PgConnectOptions::from_str(&db.url).unwrap();
        let settings = dir.path().join("pgbouncer.ini");
        fs::write(&settings, ini(&server, &db.url, port.number)).unwrap();
        fs::write(
            dir.path().join("users.txt"),
            format!("\"{ADMIN}\" \"{ADMIN}\"\n"),
        )
        .unwrap();
        let mut command = Command::new("pgbouncer");
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "postgres"]);
        }
        let child = command
            .arg("-q")
            .arg(&settings)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("`make test` installs pgbouncer");
        let pooler = Self {
            url: with_port(&db.url, &server, port.number),
            port,
            _child: child,
            _dir: dir,
        };
        eventually("the pooler answers", async || {
            pooler.show("VERSION").await.is_ok()
        })
        .await;
        pooler
    }

    /// Transactions that went through it to the test's databases.
    pub async fn transactions(&self) -> i64 {
        let rows = self.show("STATS").await.unwrap();
        // Its numbers come as text, whatever their type says.
        let text = |row: &PgRow, column: &str| row.get_unchecked::<String, _>(column);
        rows.iter()
            .filter(|row| text(row, "database") != ADMIN)
            .map(|row| text(row, "total_xact_count").parse::<i64>().unwrap())
            .sum()
    }

    /// What its own console shows.
    async fn show(&self, what: &str) -> sqlx::Result<Vec<PgRow>> {
        let mut console = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port.number)
            .username(ADMIN)
            .password(ADMIN)
            .database(ADMIN)
            .extra_float_digits(None)
            .connect()
            .await?;
        console
            .fetch_all(AssertSqlSafe(format!("SHOW {what}")))
            .await
    }
}

/// As Debian ships it, but for where it stands and how few sessions it has.
fn ini(server: &PgConnectOptions, url: &str, port: u16) -> String {
    let (host, server_port, user) = (server.get_host(), server.get_port(), server.get_username());
    let password = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'))
        .and_then(|(who, _)| who.split_once(':'))
        .map_or(String::new(), |(_, password)| {
            format!("password={password}")
        });
    format!(
        "[databases]
* = host={host} port={server_port} user={user} {password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
admin_users = {ADMIN}
pool_mode = transaction
default_pool_size = {SESSIONS}
max_client_conn = 500
"
    )
}

fn with_port(url: &str, server: &PgConnectOptions, port: u16) -> String {
    let there = format!(":{}/", server.get_port());
    assert!(url.contains(&there), "the server's URL names its port");
    url.replace(&there, &format!(":{port}/"))
}

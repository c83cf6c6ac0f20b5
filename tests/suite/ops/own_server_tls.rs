//! TLS to Postgres: whoever is asked to verify the server connects with the right CA, and otherwise says so and ends.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use drift_retention::postgres::local::{LocalServer, ServerBinaries, StopMode};
use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::support::{
    TestDatabase,
    product::{self, Service, eventually},
    text::{shown, stderr},
    value,
};

/// A server with a certificate for `localhost` from a CA that nobody knows.
struct TlsServer {
    dir: TempDir,
    server: LocalServer,
}

impl TlsServer {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Reachable by the user that the server drops to when the tests run as root.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["ca", "other_ca"] {
            openssl(
                dir.path(),
                &format!(
                    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} \
                     -addext basicConstraints=critical,CA:TRUE -keyout {name}.key -out {name}.pem"
                ),
            );
        }
        openssl(
            dir.path(),
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
             -keyout server.key -out server.csr",
        );
        fs::write(
            dir.path().join("names"),
            "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n",
        )
        .unwrap();
        openssl(
            dir.path(),
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.pem",
        );
        let key = dir.path().join("server.key");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        if let Some(owner) = User::from_name("postgres")
            .unwrap()
            .filter(|_| Uid::effective().is_root())
        {
            std::os::unix::fs::chown(&key, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
                .unwrap();
        }
        let certificate = dir.path().join("server.pem");
        let server = LocalServer::start(
            &ServerBinaries::find(None).unwrap(),
            &dir.path().join("server"),
            &[
                ("fsync", "off"),
                ("ssl", "on"),
                ("ssl_cert_file", certificate.to_str().unwrap()),
                ("ssl_key_file", key.to_str().unwrap()),
            ],
        )
        .await
        .unwrap();
        server.create_database("app").await.unwrap();
        Self { dir, server }
    }

    /// The database, at a name of the server's, with `parameters`.
    fn url(&self, host: &str, parameters: &str) -> String {
        let url = self.server.url("app").replace("127.0.0.1", host);
        format!("{url}{parameters}")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// With a CA from a file.
    fn trusting(&self, host: &str, mode: &str, ca: &str) -> String {
        let ca = self.file(ca);
        self.url(
            host,
            &format!("?sslmode={mode}&sslrootcert={}", ca.display()),
        )
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(dir)
        .output()
        .expect("openssl is installed wherever Postgres is");
    assert!(done.status.success(), "{arguments}: {done:?}");
}

async fn status(url: &str, env: &[(&str, &str)]) -> Output {
    let mut command = product::command(url);
    command
        .args(["migrate", "status"])
        .envs(env.iter().copied());
    command.output().await.unwrap()
}

fn assert_refused(output: &Output, says: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{}", shown(output));
    assert!(text.starts_with("error: ") && text.contains(says), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[tokio::test]
async fn server_is_verified_as_the_url_or_the_environment_asks() {
    let tls = TlsServer::start().await;
    for url in [
        tls.trusting("localhost", "verify-full", "ca.pem"),
        tls.trusting("localhost", "verify-ca", "ca.pem"),
        // The certificate is not for this name, which verify-ca does not ask.
        tls.trusting("127.0.0.1", "verify-ca", "ca.pem"),
        tls.url("127.0.0.1", "?sslmode=require"),
        tls.url("127.0.0.1", ""),
    ] {
        let output = status(&url, &[]).await;
        assert!(output.status.success(), "{url}: {}", shown(&output));
    }
    let ca = tls.file("ca.pem");
    let plain = tls.url("localhost", "");
    for mode in ["verify-ca", "verify-full"] {
        let env = [("PGSSLMODE", mode), ("PGSSLROOTCERT", ca.to_str().unwrap())];
        let output = status(&plain, &env).await;
        assert!(output.status.success(), "{mode}: {}", shown(&output));
    }

    let mistrusted = "the database's certificate is not accepted";
    for url in [
        tls.trusting("localhost", "verify-ca", "other_ca.pem"),
        tls.trusting("localhost", "verify-full", "other_ca.pem"),
        tls.trusting("127.0.0.1", "verify-full", "ca.pem"),
        // Without a CA of its own only those of the public are trusted.
        tls.url("localhost", "?sslmode=verify-full"),
        tls.url("localhost", "?sslmode=verify-ca"),
    ] {
        assert_refused(&status(&url, &[]).await, mistrusted);
        for args in [["serve"].as_slice(), &["runs", "list"], &["purge", "--all"]] {
            assert_refused(&product::run(&url, args).await, mistrusted);
        }
    }
    let env = [("PGSSLMODE", "verify-ca")];
    assert_refused(&status(&plain, &env).await, mistrusted);
    tls.server.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named_before_anything_connects() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.txt");
    fs::write(&text, "no certificate at all\n").unwrap();
    let text = text.to_str().unwrap();
    let at = |parameters: &str| format!("postgres://u@127.0.0.1:1/app?{parameters}");
    for (url, env, says) in [
        (
            at("sslmode=verify-full&sslrootcert=/nowhere/ca.pem"),
            None,
            "database.url cannot be used: its sslrootcert /nowhere/ca.pem cannot be read",
        ),
        (
            at(&format!("sslmode=verify-ca&sslrootcert={text}")),
            None,
            "database.url cannot be used: its sslrootcert holds no certificate",
        ),
        (
            at(&format!("sslmode=require&sslcert={text}")),
            None,
            "database.url cannot be used: sslcert and sslkey go together",
        ),
        (
            at("sslmode=verify-full"),
            Some(("PGSSLROOTCERT", "/nowhere/ca.pem")),
            "sslrootcert /nowhere/ca.pem cannot be read",
        ),
        (
            at("sslmode=verify-fully"),
            None,
            "database.url cannot be used: its sslmode is none of",
        ),
        (
            at(""),
            Some(("PGSSLMODE", "verify-fully")),
            "it names no sslmode, and PGSSLMODE is none of",
        ),
    ] {
        for args in [["config", "check"], ["migrate", "up"], ["runs", "list"]] {
            let mut command = product::command(&url);
            command.args(args).envs(env);
            assert_refused(&command.output().await.unwrap(), says);
        }
    }
}

#[tokio::test]
async fn everything_works_over_verified_tls_and_nothing_goes_beside_it() {
    let tls = TlsServer::start().await;
    let url = tls.trusting("localhost", "verify-full", "ca.pem");
    let migrated = product::run(&url, &["migrate", "up", "--main-app"]).await;
    assert!(migrated.status.success(), "{}", shown(&migrated));
    let service = Service::start(&url, "api,scheduler,worker", &[]);
    service.ready().await;
    let pool = crate::support::pool(tls.server.url("app").parse().unwrap());
    eventually("the service has its sessions", async || {
        let open =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'drift-retention'";
        value::<i64>(&pool, open).await > 1
    })
    .await;
    let in_the_clear = "SELECT count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
                        WHERE a.application_name LIKE 'drift-retention%' AND NOT s.ssl";
    assert_eq!(value::<i64>(&pool, in_the_clear).await, 0);
    service.kill().await;
    tls.server.stop(StopMode::Immediate).await.unwrap();
}

/// Who sends traces, or reads keys, over TLS asks for the same cryptography.
#[tokio::test]
async fn collector_and_keys_over_tls_panic_nowhere() {
    let db = TestDatabase::new().await;
    for protocol in ["grpc", "http/protobuf"] {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("DRIFT_RETENTION_AUTH__JWKS", "https://127.0.0.1:1/keys"),
        ];
        let (service, log) = Service::logged(&db.url, "api", &env);
        service.ready().await;
        let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.e30.AA";
        let client = reqwest::Client::new();
        let asked = client
            .get(format!("http://127.0.0.1:{}/retention/runs", service.port))
            .bearer_auth(token);
        assert_eq!(asked.send().await.unwrap().status(), 401);
        service.kill().await;
        let log = fs::read_to_string(log.path()).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("nothing is traced"), "{log}");
    }
}

//! A session of the console hangs on the key that its token was signed with: it ends with the key, and not with a moment in
//! which the keys cannot be read.

use std::{fs, path::PathBuf};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    TestDatabase,
    api::{HS256, claims, signed, signed_with},
    app::App,
    client::{SECRET, serve},
    console::Console,
    product::{Service, eventually},
    visitor::Visitor,
};

const JWKS: &str = include_str!("../keys/jwks.json");
const SESSIONS: &str = "SELECT count(*) FROM retention.console_sessions";

/// A set of keys in a file, as the tests change it.
struct KeySet {
    _dir: TempDir,
    path: PathBuf,
}

impl KeySet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        fs::write(&path, JWKS).unwrap();
        Self { _dir: dir, path }
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    /// Writes the set without the key of this name.
    fn write_without(&self, kid: &str) {
        let mut set: Value = serde_json::from_str(JWKS).unwrap();
        let keys = set["keys"].as_array_mut().unwrap();
        keys.retain(|key| key["kid"] != kid);
        self.write(&set.to_string());
    }

    /// A service that takes tokens by these keys.
    async fn console(&self, db: TestDatabase) -> Console {
        let path = self.path.to_str().unwrap();
        let env = [("DRIFT_RETENTION_AUTH__JWKS", path), HS256[1], HS256[2]];
        Console::on(db, "api", &env).await
    }
}

/// Signs in by the form with a token of this key.
async fn signed_in(console: &Console, kid: &str) -> Visitor {
    let (algorithm, key) = match kid {
        "rsa" => (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa.pem")),
        ),
        _ => (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(include_bytes!("../keys/ec.pem")),
        ),
    };
    let mut header = Header::new(algorithm);
    header.kid = Some(kid.to_owned());
    by_form(
        console,
        &signed(&header, &key.unwrap(), &claims("operator", None)),
    )
    .await
}

async fn by_form(console: &Console, token: &str) -> Visitor {
    let mut visitor = Visitor::of(console);
    let csrf = visitor.csrf("/signin").await;
    let answer = visitor
        .post("/signin", &[("csrf", &csrf), ("token", token)])
        .await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert!(visitor.is_signed_in().await);
    visitor
}

/// The database of a service that ends here.
async fn end(console: Console) -> TestDatabase {
    let Console { db, service, .. } = console;
    service.kill().await;
    db
}

#[tokio::test]
async fn session_ends_for_good_when_the_secret_changes() {
    let console = Console::start().await;
    let visitor = by_form(
        &console,
        &signed_with(SECRET.1.as_bytes(), &claims("operator", None)),
    )
    .await;
    let mut db = end(console).await;

    // Back to the first one, too: what has ended stays so.
    for secret in ["another secret, of thirty-two bytes or more", SECRET.1] {
        let service = Service::start(&db.url, "api", &[(SECRET.0, secret)]);
        service.ready().await;
        let console = Console {
            app: App::on(&db.pool),
            db,
            service,
        };
        // Before anybody comes back with it.
        assert_eq!(console.db.value::<i64>(SESSIONS).await, 0);
        assert!(!visitor.moved_to(&console).is_signed_in().await, "{secret}");
        db = end(console).await;
    }
}

#[tokio::test]
async fn session_goes_on_when_the_service_starts_again_with_the_same_keys() {
    let keys = KeySet::new();
    let console = keys.console(TestDatabase::new().await).await;
    let by_key = signed_in(&console, "rsa").await;
    let token = signed_with(SECRET.1.as_bytes(), &claims("operator", None));
    let by_secret = by_form(&console, &token).await;

    let console = keys.console(end(console).await).await;

    assert!(by_key.moved_to(&console).is_signed_in().await);
    assert!(by_secret.moved_to(&console).is_signed_in().await);
}

#[tokio::test]
async fn session_ends_when_its_key_leaves_the_set_and_no_other_does() {
    let keys = KeySet::new();
    let console = keys.console(TestDatabase::new().await).await;
    let by_rsa = signed_in(&console, "rsa").await;
    let by_ec = signed_in(&console, "ec").await;

    keys.write_without("rsa");
    let console = keys.console(end(console).await).await;

    assert!(by_ec.moved_to(&console).is_signed_in().await);
    assert!(!by_rsa.moved_to(&console).is_signed_in().await);
    assert_eq!(console.db.value::<i64>(SESSIONS).await, 1);
}

#[tokio::test]
async fn set_that_cannot_be_read_for_a_moment_ends_no_session() {
    let keys = KeySet::new();
    let console = keys.console(TestDatabase::new().await).await;
    let mut visitor = signed_in(&console, "rsa").await;

    keys.write("{");
    assert!(
        visitor.is_signed_in().await,
        "the keys read before are kept"
    );
    let console = keys.console(end(console).await).await;
    let mut visitor = visitor.moved_to(&console);
    let page = visitor.get("/console").await;
    assert_eq!(page.status, 503, "{}", page.text());
    assert!(
        page.text().contains("cannot be read now"),
        "{}",
        page.text()
    );
    assert_eq!(visitor.get("/signin").await.status, 200);
    assert_eq!(console.db.value::<i64>(SESSIONS).await, 1);

    keys.write(JWKS);
    eventually("the session goes on", async || {
        visitor.clone().get("/console/runs").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn session_by_a_key_that_another_process_has_yet_to_read_does_not_end() {
    let keys = KeySet::new();
    keys.write_without("rsa");
    let late = keys.console(TestDatabase::new().await).await;
    // It reads the set, and not again within five seconds.
    signed_in(&late, "ec").await;
    keys.write(JWKS);
    let path = keys.path.to_str().unwrap();
    let env = [("DRIFT_RETENTION_AUTH__JWKS", path), HS256[1], HS256[2]];
    let service = serve(&late.db, "api", &env).await;
    let early = Console {
        app: App::on(&late.db.pool),
        db: late.db,
        service,
    };
    let early_visitor = signed_in(&early, "rsa").await;
    let late = Console {
        service: late.service,
        ..early
    };

    let mut visitor = early_visitor.moved_to(&late);

    let at_once = visitor.get("/console/runs").await.status;
    assert!([503, 200].contains(&at_once), "{at_once}");
    eventually("the session is known there too", async || {
        visitor.clone().get("/console/runs").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn database_tells_nothing_of_the_secret() {
    let console = Console::start().await;
    let token = signed_with(SECRET.1.as_bytes(), &claims("operator", None));
    by_form(&console, &token).await;

    let kept = "SELECT key_fingerprint FROM retention.console_sessions";
    let kept = console.db.value::<String>(kept).await;

    let digest = sha256(SECRET.1);
    for told in [SECRET.1, &digest, token.rsplit_once('.').unwrap().1] {
        assert!(!kept.contains(told), "{kept}");
    }
}

/// What somebody would compare guesses with who has a table of hashed secrets.
fn sha256(text: &str) -> String {
    use sha2::Digest;
    crate::support::text::base64(&sha2::Sha256::digest(text))
}

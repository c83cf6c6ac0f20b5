//! Sets of public keys as sign-in services write them: with entries that nobody can read, several keys under one name, and keys
//! for something else.

use std::fs;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::{
    TestDatabase,
    api::{Answer, HS256, answer, claims, signed},
    product::Service,
    text::base64,
};

const RSA: &[u8] = include_bytes!("../keys/rsa.pem");
const EC: &[u8] = include_bytes!("../keys/ec.pem");
const ED25519: &[u8] = include_bytes!("../keys/ed25519.pem");
pub(super) const JWKS: &str = include_str!("../keys/jwks.json");
pub(super) const LIST: &str = "/retention/runs";

/// An operator's token, signed by RS256 under this name.
pub(super) fn by_rsa(kid: &str) -> String {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(kid.to_owned());
    let key = EncodingKey::from_rsa_pem(RSA).unwrap();
    signed(&header, &key, &claims("operator", None))
}

/// Tokens of all three keys of the set, under the names that `kid` gives them.
fn by_every_key(kid: impl Fn(&str) -> String) -> [(Algorithm, String); 3] {
    let claims = claims("operator", None);
    let keys = [
        (Algorithm::RS256, "rsa", EncodingKey::from_rsa_pem(RSA)),
        (Algorithm::ES256, "ec", EncodingKey::from_ec_pem(EC)),
        (
            Algorithm::EdDSA,
            "ed25519",
            EncodingKey::from_ed_pem(ED25519),
        ),
    ];
    keys.map(|(algorithm, name, key)| {
        let mut header = Header::new(algorithm);
        header.kid = Some(kid(name));
        (algorithm, signed(&header, &key.unwrap(), &claims))
    })
}

/// The keys of the set, each changed.
fn keys(change: impl Fn(&mut Value)) -> Vec<Value> {
    let mut set: Value = serde_json::from_str(JWKS).unwrap();
    let keys = set["keys"].as_array_mut().unwrap();
    keys.iter_mut().for_each(change);
    keys.clone()
}

pub(super) fn jwks(source: &str) -> [(&str, &str); 3] {
    [("DRIFT_RETENTION_AUTH__JWKS", source), HS256[1], HS256[2]]
}

/// A service that takes tokens by this file's keys, and what it answers to a token.
async fn service_with(db: &TestDatabase, set: impl AsRef<[u8]>) -> (Service, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    fs::write(&file, set).unwrap();
    let service = Service::start(&db.url, "api", &jwks(file.to_str().unwrap()));
    service.ready().await;
    (service, dir)
}

pub(super) async fn asked(service: &Service, token: &str) -> Answer {
    let url = format!("http://127.0.0.1:{}{LIST}", service.port);
    answer(reqwest::Client::new().get(url).bearer_auth(token)).await
}

#[tokio::test]
async fn entry_that_cannot_be_read_is_skipped_and_no_other() {
    let db = TestDatabase::new().await;
    let with = |name: &str, value: Value| {
        let mut key = keys(|_| {})[0].clone();
        key["kid"] = json!("broken");
        key[name] = value;
        key
    };
    for broken in [
        json!(null),
        json!("key"),
        json!([]),
        json!({}),
        with("kid", json!(7)),
        with("alg", json!(7)),
        with("alg", json!(["RS256"])),
        with("kty", json!("AKP")),
        with("kty", json!(null)),
        with("n", json!("not base64!")),
        with("use", json!(1)),
        with("x5c", json!("MIIB")),
        with("key_ops", json!("verify")),
    ] {
        let mut set = vec![broken.clone()];
        set.extend(keys(|_| {}));
        set.push(broken.clone());
        let (service, _dir) = service_with(&db, json!({"keys": set}).to_string()).await;
        for (algorithm, token) in by_every_key(str::to_owned) {
            let status = asked(&service, &token).await.status;
            assert_eq!(status, 200, "{algorithm:?} beside {broken}");
        }
    }
}

#[tokio::test]
async fn set_may_begin_with_a_byte_order_mark() {
    let db = TestDatabase::new().await;
    let (service, _dir) = service_with(&db, format!("\u{feff}{JWKS}")).await;
    for (algorithm, token) in by_every_key(str::to_owned) {
        assert_eq!(asked(&service, &token).await.status, 200, "{algorithm:?}");
    }
}

#[tokio::test]
async fn of_several_keys_under_one_name_the_one_that_fits_is_taken() {
    let db = TestDatabase::new().await;
    let named = |key: &mut Value| key["kid"] = json!("one");
    // Two of the same type too: the first is not the one that signs.
    let mut other = keys(named).pop().unwrap();
    assert_eq!(other["crv"], "Ed25519");
    other["x"] = json!(base64(&[7; 32]));
    for set in [
        [vec![other.clone()], keys(named)].concat(),
        [keys(named), vec![other]].concat(),
    ] {
        let (service, _dir) = service_with(&db, json!({"keys": set}).to_string()).await;
        for (algorithm, token) in by_every_key(|_| "one".to_owned()) {
            assert_eq!(asked(&service, &token).await.status, 200, "{algorithm:?}");
        }
        let forged = by_every_key(|_| "one".to_owned()).map(|(_, token)| {
            let (signed, signature) = token.rsplit_once('.').unwrap();
            format!(
                "{signed}.{}A",
                &signature[..signature.len() - 1].replace('a', "b")
            )
        });
        for token in forged {
            asked(&service, &token).await.assert_problem(401, "forged");
        }
    }
}

#[tokio::test]
async fn ed25519_is_a_name_of_eddsa_in_keys_and_in_tokens() {
    let db = TestDatabase::new().await;
    let renamed = |key: &mut Value| {
        if key["kid"] == "ed25519" {
            key["alg"] = json!("Ed25519");
        }
    };
    let set = json!({"keys": keys(renamed)}).to_string();
    for set in [set.as_str(), JWKS] {
        let (service, _dir) = service_with(&db, set).await;
        for (algorithm, token) in by_every_key(str::to_owned) {
            assert_eq!(asked(&service, &token).await.status, 200, "{algorithm:?}");
        }
        let header = json!({"alg": "Ed25519", "kid": "ed25519"}).to_string();
        let claims = claims("operator", None).to_string();
        let message = [header, claims]
            .map(|part| base64(part.as_bytes()))
            .join(".");
        let key = EncodingKey::from_ed_pem(ED25519).unwrap();
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::EdDSA).unwrap();
        let token = format!("{message}.{signature}");
        assert_eq!(asked(&service, &token).await.status, 200);
    }
}

#[tokio::test]
async fn key_for_something_else_verifies_no_token() {
    let db = TestDatabase::new().await;
    for (name, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["encrypt", "wrapKey"])),
        ("alg", json!("RSA-OAEP-256")),
    ] {
        let set = json!({"keys": keys(|key| key[name] = value.clone())}).to_string();
        let (service, _dir) = service_with(&db, set).await;
        for (_, token) in by_every_key(str::to_owned) {
            asked(&service, &token).await.assert_problem(401, name);
        }
    }
}

//! Bearer tokens: which keys sign them, how keys rotate, and that no trick with an algorithm gets past them.

use std::{fs, path::Path, time::Duration};

use axum::{Router, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    api::{AUDIENCE, Api, HS256, SECRET, answer, but, claims, signed, signed_with, token},
    port::Port,
    product::{Service, eventually},
};

const RSA: &[u8] = include_bytes!("../keys/rsa.pem");
const EC: &[u8] = include_bytes!("../keys/ec.pem");
const ED25519: &[u8] = include_bytes!("../keys/ed25519.pem");
const RSA_PUBLIC: &str = include_str!("../keys/rsa.pub.pem");
const JWKS: &str = include_str!("../keys/jwks.json");
const LIST: &str = "/retention/runs";

fn header(algorithm: Algorithm, kid: &str) -> Header {
    let mut header = Header::new(algorithm);
    header.kid = Some(kid.to_owned());
    header
}

/// A token of an operator, signed with each key of the set under its own name.
fn by_every_key() -> [(&'static str, String); 3] {
    let claims = claims("operator", None);
    let rsa = EncodingKey::from_rsa_pem(RSA).unwrap();
    let ec = EncodingKey::from_ec_pem(EC).unwrap();
    let ed25519 = EncodingKey::from_ed_pem(ED25519).unwrap();
    [
        (
            "rsa",
            signed(&header(Algorithm::RS256, "rsa"), &rsa, &claims),
        ),
        ("ec", signed(&header(Algorithm::ES256, "ec"), &ec, &claims)),
        (
            "ed25519",
            signed(&header(Algorithm::EdDSA, "ed25519"), &ed25519, &claims),
        ),
    ]
}

/// The set of keys, without those named.
fn keys_without(missing: &[&str]) -> String {
    let mut set: Value = serde_json::from_str(JWKS).unwrap();
    let keys = set["keys"].as_array_mut().unwrap();
    keys.retain(|key| !missing.contains(&key["kid"].as_str().unwrap()));
    set.to_string()
}

fn jwks(source: &str) -> [(&str, &str); 3] {
    [("DRIFT_RETENTION_AUTH__JWKS", source), HS256[1], HS256[2]]
}

/// A file with these keys, in a directory that lasts as long as the test.
fn key_file(dir: &TempDir, keys: &str) -> String {
    let path = dir.path().join("jwks.json");
    fs::write(&path, keys).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_kind_of_key_signs_for_itself_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = key_file(&dir, JWKS);
    let api = Api::with(&jwks(&file)).await;
    for (key, token) in by_every_key() {
        assert_eq!(api.get(LIST, &token).await.status, 200, "{key}");
    }
    let claims = claims("operator", None);
    let rsa = EncodingKey::from_rsa_pem(RSA).unwrap();
    let ec = EncodingKey::from_ec_pem(EC).unwrap();
    for (what, token) in [
        (
            "another key's name",
            signed(&header(Algorithm::RS256, "ec"), &rsa, &claims),
        ),
        (
            "another key's name",
            signed(&header(Algorithm::ES256, "rsa"), &ec, &claims),
        ),
        (
            "an unknown name",
            signed(&header(Algorithm::RS256, "new"), &rsa, &claims),
        ),
        (
            "no name among many",
            signed(&Header::new(Algorithm::RS256), &rsa, &claims),
        ),
        (
            "another algorithm",
            signed(&header(Algorithm::RS512, "rsa"), &rsa, &claims),
        ),
        (
            "another algorithm",
            signed(&header(Algorithm::PS256, "rsa"), &rsa, &claims),
        ),
    ] {
        api.get(LIST, &token).await.assert_problem(401, what);
    }
}

#[tokio::test]
async fn public_keys_are_no_secrets_whatever_the_token_says_of_its_algorithm() {
    let dir = tempfile::tempdir().unwrap();
    let file = key_file(&dir, JWKS);
    let set: Value = serde_json::from_str(JWKS).unwrap();
    let modulus = set["keys"][0]["n"].as_str().unwrap();
    let base64: String = RSA_PUBLIC
        .lines()
        .filter(|line| !line.contains('-'))
        .collect();
    let der = EncodingKey::from_base64_secret(&base64).unwrap();
    let claims = claims("operator", None);
    let keys = [
        ("PEM", EncodingKey::from_secret(RSA_PUBLIC.as_bytes())),
        (
            "PEM, trimmed",
            EncodingKey::from_secret(RSA_PUBLIC.trim().as_bytes()),
        ),
        ("n", EncodingKey::from_secret(modulus.as_bytes())),
        (
            "n, decoded",
            EncodingKey::from_urlsafe_base64_secret(&format!("{modulus}==")).unwrap(),
        ),
        ("DER", der),
        ("the set", EncodingKey::from_secret(JWKS.as_bytes())),
        ("nothing", EncodingKey::from_secret(b"")),
    ];
    let both = [jwks(&file).as_slice(), &HS256[..1]].concat();
    for env in [jwks(&file).as_slice(), &both] {
        let api = Api::with(env).await;
        for (what, key) in &keys {
            for named in [
                Header::new(Algorithm::HS256),
                header(Algorithm::HS256, "rsa"),
            ] {
                let token = signed(&named, key, &claims);
                api.get(LIST, &token).await.assert_problem(401, what);
            }
        }
        assert_eq!(api.get(LIST, &by_every_key()[0].1).await.status, 200);
    }
}

#[tokio::test]
async fn only_hs256_is_taken_where_only_a_secret_is_configured() {
    let api = Api::start().await;
    let claims = claims("operator", None);
    let good = token("operator", None);
    assert_eq!(api.get(LIST, &good).await.status, 200);
    let (body, signature) = {
        let mut parts = good.split('.').skip(1);
        (parts.next().unwrap(), parts.next().unwrap())
    };
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    for (what, token) in [
        ("alg none", format!("{none}.{body}.")),
        (
            "alg none with a signature",
            format!("{none}.{body}.{signature}"),
        ),
        ("no signature", good.rsplit_once('.').unwrap().0.to_owned()),
        (
            "an empty signature",
            format!("{}.", good.rsplit_once('.').unwrap().0),
        ),
        (
            "HS512",
            signed(&Header::new(Algorithm::HS512), &secret, &claims),
        ),
        (
            "HS384",
            signed(&Header::new(Algorithm::HS384), &secret, &claims),
        ),
        ("RS256", by_every_key()[0].1.clone()),
        ("ES256", by_every_key()[1].1.clone()),
        ("EdDSA", by_every_key()[2].1.clone()),
    ] {
        api.get(LIST, &token).await.assert_problem(401, what);
    }
}

#[tokio::test]
async fn claims_that_say_nothing_usable_are_refused() {
    let api = Api::start().await;
    let org = Uuid::new_v4();
    let viewer = || claims("viewer", Some(org));
    for (name, value) in [
        ("role", json!("root")),
        ("role", json!("Operator")),
        ("role", json!(["operator"])),
        ("role", Value::Null),
        ("role", json!({"viewer": null})),
        ("role", json!({"operator": null})),
        ("role", json!({"viewer": {}})),
        ("role", json!(["viewer"])),
        ("role", json!(0)),
        ("role", json!(true)),
        ("role", json!("viewer ")),
        ("role", json!("operator")), // with an organization
        ("org_id", Value::Null),
        ("org_id", json!("not-an-id")),
        ("org_id", json!("")),
        ("sub", Value::Null),
        ("sub", json!("")),
        ("sub", json!(" \t")),
        ("sub", json!("dana\0")),
        ("sub", json!("dana\u{1b}[2J")),
        ("sub", json!("dana\u{202e}")),
        ("sub", json!("d".repeat(201))),
        ("sub", json!(17)),
        ("exp", Value::Null),
        ("exp", json!("never")),
        ("exp", json!(-1)),
        ("exp", json!(253_402_300_800_u64)), // the year 10000
        ("exp", json!(u64::MAX)),
        ("exp", json!(1e300)),
        ("exp", json!(get_current_timestamp() - 31)),
        ("nbf", json!(get_current_timestamp() + 45)),
        ("use", json!("api")),
        ("use", json!("")),
        ("use", json!(["console_link"])),
        ("iss", Value::Null),
        ("iss", json!("")),
        ("aud", Value::Null),
        ("aud", json!([])),
        ("aud", json!(["billing", "mail"])),
    ] {
        let what = format!("{name}: {value}");
        let token = signed_with(SECRET.as_bytes(), &but(viewer(), name, value));
        let answer = api.get(&format!("/orgs/{org}/environments"), &token).await;
        answer.assert_problem(401, &what);
        assert!(
            answer
                .header("www-authenticate")
                .unwrap()
                .starts_with("Bearer")
        );
    }
    let operator = signed_with(SECRET.as_bytes(), &claims("operator", Some(org)));
    let answer = api.get(LIST, &operator).await;
    answer.assert_problem(401, "an operator of one organization");
    let detail = answer.json()["detail"].to_string();
    assert!(
        detail.contains("an operator belongs to no organization"),
        "{detail}"
    );
    let none = json!({"org_id": null, "nbf": null, "use": null});
    let mut nothing_said = claims("operator", None);
    nothing_said
        .as_object_mut()
        .unwrap()
        .extend(none.as_object().unwrap().clone());
    let many = but(claims("operator", None), "aud", json!(["mail", AUDIENCE]));
    let late = but(
        claims("operator", None),
        "exp",
        json!(get_current_timestamp() - 5),
    );
    for claims in [many, late, nothing_said] {
        let token = signed_with(SECRET.as_bytes(), &claims);
        assert_eq!(api.get(LIST, &token).await.status, 200, "{claims}");
    }
}

#[tokio::test]
async fn new_key_in_the_file_is_taken_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = key_file(&dir, &keys_without(&["ed25519"]));
    let api = Api::with(&jwks(&file)).await;
    let [(_, rsa), _, (_, ed25519)] = by_every_key();
    assert_eq!(api.get(LIST, &rsa).await.status, 200);
    api.get(LIST, &ed25519).await.assert_problem(401, "not yet");
    fs::write(Path::new(&file), JWKS).unwrap();
    eventually("the new key is known", async || {
        api.get(LIST, &ed25519).await.status == 200
    })
    .await;
    fs::write(Path::new(&file), "{").unwrap();
    assert_eq!(
        api.get(LIST, &rsa).await.status,
        200,
        "a file half written takes no key away"
    );
}

#[tokio::test]
async fn keys_come_by_url_even_when_it_answers_only_after_the_start() {
    let port = Port::reserve();
    let address = format!("127.0.0.1:{}", port.number);
    let api = Api::with(&jwks(&format!("http://{address}/jwks.json"))).await;
    for (key, token) in by_every_key() {
        api.get(LIST, &token).await.assert_problem(401, key);
    }
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    let sign_in = Router::new().route("/jwks.json", get(async || JWKS));
    tokio::spawn(async { axum::serve(listener, sign_in).await });
    for (key, token) in by_every_key() {
        eventually(key, async || api.get(LIST, &token).await.status == 200).await;
    }
}

#[tokio::test]
async fn without_keys_the_api_refuses_all_but_health_and_says_what_to_set() {
    let db = TestDatabase::new().await;
    let (service, log) = Service::logged(&db.url, "api", &[]);
    service.ready().await;
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(service.get(path).await.unwrap().status(), 200, "{path}");
    }
    let url = format!("http://127.0.0.1:{}{LIST}", service.port);
    for secret in ["", "secret", SECRET] {
        let token = signed_with(secret.as_bytes(), &claims("operator", None));
        let answer = answer(reqwest::Client::new().get(&url).bearer_auth(token)).await;
        answer.assert_problem(401, secret);
        let detail = answer.json()["detail"].to_string();
        assert!(
            detail.contains("auth.hs256_secret") && detail.contains("auth.jwks"),
            "{detail}"
        );
    }
    let log = ended(service, log).await;
    assert!(log.contains("set auth.hs256_secret or auth.jwks"), "{log}");
}

#[tokio::test]
async fn neither_secret_nor_token_is_logged() {
    let db = TestDatabase::new().await;
    let (service, log) = Service::logged(
        &db.url,
        "api",
        &[&HS256[..], &[("RUST_LOG", "trace")]].concat(),
    );
    service.ready().await;
    let url = format!("http://127.0.0.1:{}{LIST}", service.port);
    let good = token("operator", None);
    let bad = signed_with(
        b"another secret of thirty-two bytes!!",
        &claims("operator", None),
    );
    for token in [&good, &bad] {
        let _ = answer(reqwest::Client::new().get(&url).bearer_auth(token)).await;
    }
    let log = ended(service, log).await;
    assert!(!log.is_empty());
    for hidden in [
        SECRET,
        good.rsplit_once('.').unwrap().1,
        bad.rsplit_once('.').unwrap().1,
    ] {
        assert!(!log.contains(hidden), "{hidden} stands in the log");
    }
}

/// Stops the service; returns its log.
async fn ended(mut service: Service, log: tempfile::NamedTempFile) -> String {
    service.signal(Signal::SIGTERM);
    service.ends_within(Duration::from_secs(20)).await;
    fs::read_to_string(log.path()).unwrap()
}

//! Tokens as RFC 7515 and RFC 7519 allow them to look, and as they forbid it.

use jsonwebtoken::{Algorithm, EncodingKey, crypto, get_current_timestamp};
use serde_json::{Value, json};

use crate::support::{
    api::{Api, SECRET, but, claims, signed_with},
    text::base64,
};

const LIST: &str = "/retention/runs";

#[tokio::test]
async fn times_may_have_a_fraction() {
    let api = Api::start().await;
    let token = |changes: &[(&str, Value)]| {
        let changed = changes
            .iter()
            .fold(claims("operator", None), |claims, (name, value)| {
                but(claims, name, value.clone())
            });
        signed_with(SECRET.as_bytes(), &changed)
    };
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    let now = get_current_timestamp() as f64;
    for good in [
        vec![("exp", json!(1_900_000_000.5))],
        vec![("exp", json!(1.9e9))],
        vec![
            ("exp", json!(now + 60.25)),
            ("nbf", json!(now - 0.5)),
            ("iat", json!(now - 0.5)),
        ],
        // The last second of the year 9999.
        vec![("exp", json!(253_402_300_799_u64))],
    ] {
        assert_eq!(api.get(LIST, &token(&good)).await.status, 200, "{good:?}");
    }
    for bad in [
        vec![("exp", json!(now - 31.5))],
        vec![("exp", json!(-0.5))],
        vec![("exp", json!("1900000000.5"))],
        vec![("nbf", json!(now + 90.5))],
        vec![("nbf", json!("soon"))],
        vec![("nbf", json!(1e300))],
    ] {
        let answer = api.get(LIST, &token(&bad)).await;
        answer.assert_problem(401, &format!("{bad:?}"));
    }
}

#[tokio::test]
async fn header_with_an_extension_that_must_be_known_is_refused() {
    let api = Api::start().await;
    let claims = claims("operator", None).to_string();
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    for (header, status) in [
        (json!({"alg": "HS256"}), 200),
        (json!({"alg": "HS256", "exp-policy": 1}), 200),
        (
            json!({"alg": "HS256", "crit": ["exp-policy"], "exp-policy": 1}),
            401,
        ),
        (json!({"alg": "HS256", "crit": ["b64"], "b64": true}), 401),
        (json!({"alg": "HS256", "crit": ["exp"]}), 401),
        (json!({"alg": "HS256", "crit": []}), 401),
        (json!({"alg": "HS256", "crit": "exp"}), 401),
        (json!({"alg": "HS256", "crit": null}), 401),
    ] {
        let answer = api
            .get(LIST, &token_of(&header.to_string(), &claims, &key))
            .await;
        assert_eq!(answer.status, status, "{header}: {}", answer.text());
    }
}

/// A token of exactly this text.
fn token_of(header: &str, claims: &str, key: &EncodingKey) -> String {
    let message = [header, claims]
        .map(|part| base64(part.as_bytes()))
        .join(".");
    let signature = crypto::sign(message.as_bytes(), key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[tokio::test]
async fn token_that_can_be_read_in_two_ways_is_refused() {
    let api = Api::start().await;
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let header = r#"{"alg":"HS256"}"#;
    let claims = claims("operator", None).to_string();
    assert_eq!(
        api.get(LIST, &token_of(header, &claims, &key)).await.status,
        200
    );
    let (_, more) = claims.split_once('{').unwrap();
    let values: Vec<Value> = serde_json::from_str::<Value>(&claims)
        .unwrap()
        .as_object()
        .unwrap()
        .values()
        .cloned()
        .collect();
    for (header, claims) in [
        // A claim that stands twice, and the one that counts depends on who reads.
        (header, format!(r#"{{"role":"viewer",{more}"#)),
        (header, format!(r#"{{"exp":4000000000,{more}"#)),
        (header, format!(r#"{{"sub":"sam",{more}"#)),
        (header, format!(r#"{{"use":null,"use":null,{more}"#)),
        (r#"{"alg":"HS256","alg":"HS256"}"#, claims.clone()),
        // Claims by their order.
        (header, json!(values).to_string()),
        (
            header,
            json!([
                "oda",
                "operator",
                null,
                4_000_000_000_u64,
                null,
                null,
                null,
                null,
                null,
                null
            ])
            .to_string(),
        ),
        (r#"["HS256",null]"#, claims.clone()),
    ] {
        let answer = api.get(LIST, &token_of(header, &claims, &key)).await;
        answer.assert_problem(401, &format!("{header} {claims}"));
    }
}

//! Whatever a set of public keys looks like, it stops nothing and makes no forged token good.

use std::io::Write;

use axum::http::{HeaderMap, HeaderValue, header};
use drift_retention::{config::AuthConfig, http::Verifier};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use crate::support::text::base64;

/// Bytes as keys have them: base64 of any, of what is usual, and what is none.
fn any_number() -> impl Strategy<Value = Value> {
    prop_oneof![
        vec(any::<u8>(), 0..70).prop_map(|bytes| json!(base64(&bytes))),
        Just(json!("AQAB")),
        any::<String>().prop_map(|text| json!(text)),
        select(vec![json!(null), json!(5), json!([]), json!({"a": 1})]),
    ]
}

/// What keys have as such bytes.
const NUMBERS: [&str; 5] = ["n", "e", "x", "y", "k"];

/// A key of any kind, as it should be in some parts and not in others.
fn any_jwk() -> impl Strategy<Value = Value> {
    let named = (
        select(&["RSA", "EC", "OKP", "oct", "rsa", ""][..]),
        select(&["P-256", "P-384", "Ed25519", "X25519", ""][..]),
        select(vec![
            json!("RS256"),
            json!("ES256"),
            json!("EdDSA"),
            json!("HS256"),
            json!(7),
            json!(null),
        ]),
        prop_oneof![
            Just(json!("one")),
            any::<String>().prop_map(|kid| json!(kid))
        ],
    );
    let numbers = (vec(any_number(), NUMBERS.len()), any::<u8>());
    (named, numbers).prop_map(|((kty, crv, alg, kid), (numbers, present))| {
        let mut key = json!({"kty": kty, "crv": crv, "alg": alg, "kid": kid});
        for (at, (name, number)) in NUMBERS.into_iter().zip(numbers).enumerate() {
            if present & 1 << at != 0 {
                key[name] = number;
            }
        }
        key
    })
}

/// A set of keys, or what stands in its place.
fn any_jwks() -> impl Strategy<Value = Vec<u8>> {
    let set = vec(any_jwk(), 0..4).prop_map(|keys| json!({"keys": keys}).to_string().into_bytes());
    let other = select(
        &[
            "",
            "null",
            "[]",
            "{}",
            "{\"keys\": 1}",
            "{\"keys\": [null]}",
        ][..],
    );
    prop_oneof![
        6 => set,
        1 => other.prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..100),
    ]
}

proptest! {
    #[test]
    fn no_set_of_keys_of_any_shape_makes_a_forged_token_good(
        set in any_jwks(),
        algorithm in select(&["RS256", "ES256", "EdDSA", "HS256", "none"][..]),
        kid in select(vec![json!("one"), json!(null), json!("another")]),
        signature in vec(any::<u8>(), 0..70),
    ) {
        let mut file = NamedTempFile::with_suffix(".json").unwrap();
        file.write_all(&set).unwrap();
        let auth: AuthConfig = serde_json::from_value(json!({"jwks": file.path()})).unwrap();
        let verifier = Verifier::new(&auth);
        let parts = [
            json!({"alg": algorithm, "kid": kid}).to_string().into_bytes(),
            json!({"sub": "eve", "role": "operator", "exp": 9_999_999_999_u64}).to_string().into_bytes(),
            signature,
        ];
        let token = parts.map(|part| base64(&part)).join(".");
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        let runtime = Runtime::new().unwrap();
        prop_assert!(runtime.block_on(verifier.identify(&headers)).is_err());
    }
}

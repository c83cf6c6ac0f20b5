//! A token of any bytes or any three parts is refused, and so is a valid one with one character changed.

use axum::http::{HeaderMap, HeaderValue, header};
use drift_retention::{
    config::AuthConfig,
    http::{Identity, Role, Verifier, mint},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::{api::SECRET, text::base64};

fn secret() -> AuthConfig {
    serde_json::from_value(json!({"hs256_secret": SECRET})).unwrap()
}

/// Whose token the verifier says it is.
fn accepted(runtime: &Runtime, authorization: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(authorization) else {
        return false;
    };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    let verifier = Verifier::new(&secret());
    runtime.block_on(verifier.identify(&headers)).is_ok()
}

fn valid_token() -> String {
    let identity = Identity {
        subject: "dana".into(),
        role: Role::Operator,
        org: None,
    };
    mint(&secret(), &identity, std::time::Duration::from_hours(1)).unwrap()
}

proptest! {
    #[test]
    fn a_token_of_any_bytes_is_refused(bytes in vec(any::<u8>(), 0..300), scheme in any::<bool>()) {
        let runtime = Runtime::new().unwrap();
        let prefix: &[u8] = if scheme { b"Bearer " } else { b"" };
        prop_assert!(!accepted(&runtime, &[prefix, &bytes].concat()));
    }

    #[test]
    fn a_token_of_any_three_parts_is_refused(
        header in any_json(), claims in any_json(), signature in "[A-Za-z0-9_-]{0,90}",
    ) {
        let runtime = Runtime::new().unwrap();
        let token = format!("Bearer {header}.{claims}.{signature}");
        prop_assert!(!accepted(&runtime, token.as_bytes()));
    }

    #[test]
    fn a_valid_token_with_one_character_changed_is_refused(
        place in any::<Index>(), instead in "[!-~]", cut in any::<bool>(),
    ) {
        let runtime = Runtime::new().unwrap();
        let good = valid_token();
        let bearer = format!("Bearer {good}");
        prop_assert!(accepted(&runtime, bearer.as_bytes()));
        let at = place.index(good.len());
        let (head, tail) = good.split_at(at);
        let bad = if cut { head.to_owned() } else { format!("{head}{instead}{}", &tail[1..]) };
        prop_assert!(bad == good || !accepted(&runtime, format!("Bearer {bad}").as_bytes()), "{}", bad);
    }
}

/// Base64 of JSON as tokens have it, of any shape.
fn any_json() -> impl Strategy<Value = String> {
    let header = (
        select(&["none", "HS256", "hs256", "RS256", ""][..]),
        any::<String>(),
    )
        .prop_map(|(alg, kid)| json!({"alg": alg, "kid": kid, "typ": "JWT"}));
    let claims = (any::<String>(), any::<i64>())
        .prop_map(|(sub, exp)| json!({"sub": sub, "exp": exp, "role": "operator"}));
    let other = select(&["null", "[]", "{}", "1e999", "{\"alg\": 5}"][..]).prop_map(str::to_owned);
    prop_oneof![
        header.prop_map(|json| json.to_string()),
        claims.prop_map(|json| json.to_string()),
        other,
        any::<String>(),
    ]
    .prop_map(|text| base64(text.as_bytes()))
}

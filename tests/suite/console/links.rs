//! Sign-in links: to look at one changes nothing, and whoever presses its button first is signed in. A link's token opens
//! nothing else, and lives for minutes.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{Answer, answer, but, signed, signed_with},
    client::SECRET,
    console::{Console, Who},
    text::base64,
    visitor::{SESSION, Visitor},
};

/// Links that were taken.
const SPENT: &str = "SELECT count(*) FROM retention.spent_signin_links";
const SESSIONS: &str = "SELECT count(*) FROM retention.console_sessions";

#[tokio::test]
async fn sign_in_link_works_once() {
    let console = Console::start().await;
    let token = Who::Operator.link().await;

    let first = Visitor::of(&console).take_link(&token).await;
    let mut thief = Visitor::of(&console);
    let second = thief.take_link(&token).await;

    assert_eq!(
        (first.status, first.header("location")),
        (303, Some("/console"))
    );
    assert_eq!(second.status, 409);
    assert!(
        second.text().contains("This sign-in link was used already"),
        "{}",
        second.text()
    );
    assert!(!thief.cookies.contains_key(SESSION));
}

#[tokio::test]
async fn link_that_two_people_take_at_once_lets_one_in() {
    let console = Console::start().await;
    let token = Who::Operator.link().await;
    let visit = async || Visitor::of(&console).take_link(&token).await.status;

    let (one, two, three, four) = tokio::join!(visit(), visit(), visit(), visit());

    let statuses = [one, two, three, four];
    assert_eq!(
        statuses.iter().filter(|status| **status == 303).count(),
        1,
        "{statuses:?}"
    );
}

#[tokio::test]
async fn link_that_scanners_and_previews_looked_at_still_signs_in() {
    let console = Console::start().await;
    let token = Who::Operator.link().await;
    let link = format!("/signin?token={token}");

    for method in [Method::HEAD, Method::GET, Method::HEAD, Method::GET] {
        let mut scanner = Visitor::of(&console);
        let answer = scanner.ask(method.clone(), &link).await;
        assert_eq!(answer.status, 200, "{method}");
        assert!(!scanner.cookies.contains_key(SESSION), "{method}");
    }

    assert_eq!(console.db.value::<i64>(SPENT).await, 0);
    assert_eq!(console.db.value::<i64>(SESSIONS).await, 0);
    let mut visitor = Visitor::of(&console);
    assert_eq!(visitor.take_link(&token).await.status, 303);
    assert!(visitor.is_signed_in().await);
}

#[tokio::test]
async fn links_page_says_who_it_signs_in_and_has_one_button() {
    let console = Console::start().await;
    let token = Who::Operator.link().await;

    let page = Visitor::of(&console)
        .get(&format!("/signin?token={token}"))
        .await
        .text();

    assert_eq!(page.matches("<button").count(), 1, "{page}");
    assert_eq!(page.matches("<form").count(), 1, "{page}");
    assert!(page.contains("oda") && page.contains("operator"), "{page}");
}

#[tokio::test]
async fn links_button_of_another_browser_is_refused_and_takes_nothing() {
    let console = Console::start().await;
    let token = Who::Operator.link().await;
    let link = format!("/signin?token={token}");
    let of_another = Visitor::of(&console).csrf(&link).await;
    let mut victim = Visitor::of(&console);
    victim.get(&link).await;

    for csrf in [of_another.as_str(), ""] {
        let fields = [("csrf", csrf), ("token", &token), ("link", "true")];
        assert_eq!(victim.post("/signin", &fields).await.status, 403);
    }

    assert_eq!(console.db.value::<i64>(SPENT).await, 0);
    assert!(!victim.cookies.contains_key(SESSION));
}

#[tokio::test]
async fn session_stays_when_a_link_of_somebody_else_is_only_opened() {
    let console = Console::start().await;
    let mut visitor = Visitor::signed_in(&console, Who::Operator).await;
    let before = visitor.session();
    let org = console.app.org("pro").await;
    let planted = Who::Viewer(org).link().await;

    visitor.get(&format!("/signin?token={planted}")).await;

    assert_eq!(visitor.session(), before);
    assert!(visitor.is_signed_in().await);
}

/// What the API answers to this token.
async fn asked(console: &Console, token: &str) -> Answer {
    let url = console.url("/retention/runs");
    answer(reqwest::Client::new().get(url).bearer_auth(token)).await
}

/// What the sign-in form answers to this token.
async fn pasted(console: &Console, token: &str) -> Answer {
    let mut visitor = Visitor::of(console);
    let csrf = visitor.csrf("/signin").await;
    visitor
        .post("/signin", &[("csrf", &csrf), ("token", token)])
        .await
}

/// The claims of an operator's link, as the main app would sign them.
fn link_claims() -> Value {
    let now = get_current_timestamp();
    json!({
        "sub": "oda", "role": "operator", "use": "console_link",
        "iat": now, "exp": now + 600, "session_exp": now + 3600,
    })
}

#[tokio::test]
async fn token_of_a_link_opens_nothing_else_before_it_is_taken_and_afterwards() {
    let console = Console::start().await;
    let link = Who::Operator.link().await;
    let refused = async |when: &str| {
        let api = asked(&console, &link).await;
        api.assert_problem(401, when);
        assert!(
            api.text().contains("it belongs to a sign-in link"),
            "{when}"
        );
        let form = pasted(&console, &link).await;
        assert_eq!(form.status, 401, "{when}");
        assert!(
            form.text().contains("it belongs to a sign-in link"),
            "{when}"
        );
        assert!(!form.text().contains(&link), "{when}");
    };

    refused("not taken").await;
    let mut visitor = Visitor::of(&console);
    assert_eq!(visitor.take_link(&link).await.status, 303);
    refused("taken").await;
    let csrf = visitor.csrf("/console/runs").await;
    visitor.post("/signout", &[("csrf", &csrf)]).await;
    refused("signed out").await;

    assert_eq!(visitor.take_link(&link).await.status, 409);
}

#[tokio::test]
async fn token_for_the_api_is_refused_in_a_link() {
    let console = Console::start().await;
    let token = Who::Operator.token().await;
    assert_eq!(asked(&console, &token).await.status, 200);
    let mut visitor = Visitor::of(&console);

    let page = visitor.get(&format!("/signin?token={token}")).await;
    let sent = visitor.take_link(&token).await;

    for answer in [&page, &sent] {
        let text = answer.text();
        assert!(
            text.contains("it does not belong to a sign-in link"),
            "{text}"
        );
    }
    assert_eq!(sent.status, 401);
    assert!(!visitor.cookies.contains_key(SESSION));
}

#[tokio::test]
async fn link_lives_ten_minutes_at_most_whoever_signs_it() {
    let console = Console::start().await;
    let now = get_current_timestamp();
    let taken = async |claims: &Value| {
        let link = signed_with(SECRET.1.as_bytes(), claims);
        Visitor::of(&console).take_link(&link).await.status
    };

    assert_eq!(taken(&link_claims()).await, 303);
    for (name, value) in [
        ("exp", json!(now + 660)),
        ("exp", json!(now - 31)),
        ("iat", Value::Null),
        ("iat", json!(now + 300)),
        ("iat", json!("now")),
        ("session_exp", Value::Null),
        ("session_exp", json!(1e300)),
        ("use", Value::Null),
        ("use", json!("api")),
        ("use", json!(["console_link"])),
    ] {
        let claims = but(link_claims(), name, value);
        assert_eq!(taken(&claims).await, 401, "{claims}");
    }
}

#[tokio::test]
async fn session_of_a_link_lasts_as_long_as_the_link_says_and_the_link_for_minutes() {
    let console = Console::start().await;
    let link = Who::Operator.link_for("8h").await;
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(&link);
    let claims = claims.unwrap().claims;
    let lives = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert_eq!(lives, 600, "{claims}");

    Visitor::of(&console).take_link(&link).await;

    let lasts =
        "SELECT extract(epoch FROM expires_at - now())::int8 FROM retention.console_sessions";
    let seconds = console.db.value::<i64>(lasts).await;
    assert!((8 * 3600 - 120..=8 * 3600).contains(&seconds), "{seconds}");
}

/// The other signature that the same key would make by ES256 for the same text: s is as good as n - s.
fn other_signature(token: &str) -> String {
    // The order of P-256.
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
        0x25, 0x51,
    ];
    let (says, signature) = token.rsplit_once('.').unwrap();
    let mut signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for at in (0..32).rev() {
        let left = i16::from(ORDER[at]) - i16::from(signature[32 + at]) - borrow;
        borrow = i16::from(left < 0);
        signature[32 + at] = u8::try_from(left.rem_euclid(256)).unwrap();
    }
    format!("{says}.{}", base64(&signature))
}

#[tokio::test]
async fn link_whose_signature_is_written_in_another_way_is_the_same_link() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/keys/jwks.json");
    let console = Console::serving("api", &[("DRIFT_RETENTION_AUTH__JWKS", keys)]).await;
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("ec".to_owned());
    let key = EncodingKey::from_ec_pem(include_bytes!("../keys/ec.pem")).unwrap();
    let link = signed(&header, &key, &link_claims());
    let other = other_signature(&link);
    assert_ne!(link, other);

    assert_eq!(Visitor::of(&console).take_link(&link).await.status, 303);

    assert_eq!(Visitor::of(&console).take_link(&other).await.status, 409);
}

//! Behind a proxy that ends HTTPS: cookies are for HTTPS only where a proxy that the settings trust says so.

use crate::support::{
    console::{Console, Who},
    product,
    visitor::{Visitor, set_cookies},
};

const TRUSTED: &str = "DRIFT_RETENTION_HTTP__TRUSTED_PROXIES";
const PROTO: &str = "x-forwarded-proto";

/// Whether the cookies of a sign-in are for HTTPS only: that of the form, and that of the session.
async fn are_secure(visitor: &mut Visitor) -> [bool; 2] {
    let form = visitor.get("/signin").await;
    let session = visitor.take_link(&Who::Operator.link().await).await;
    [
        (form, "drift_retention_signin="),
        (session, "drift_retention_session="),
    ]
    .map(|(answer, name)| {
        let cookies = set_cookies(&answer);
        let cookie = cookies.iter().find(|cookie| cookie.starts_with(name));
        cookie.unwrap().contains("; Secure")
    })
}

#[tokio::test]
async fn cookies_are_for_https_only_where_a_trusted_proxy_says_that_it_was_https() {
    for trusted in [
        "127.0.0.1",
        "10.0.0.0/8, 127.0.0.0/8",
        "::ffff:127.0.0.1,::1",
    ] {
        let console = Console::serving("api", &[(TRUSTED, trusted)]).await;
        for (said, is_https) in [
            (Some("https"), true),
            (Some("HTTPS"), true),
            (Some("https, http"), true),
            (Some("http, https"), false),
            (Some("http"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut visitor = Visitor::of(&console).calling("127.0.0.1");
            if let Some(said) = said {
                visitor = visitor.saying(PROTO, said);
            }
            let secure = are_secure(&mut visitor).await;
            assert_eq!(secure, [is_https; 2], "{trusted}: {said:?}");
        }
    }
}

#[tokio::test]
async fn nobody_else_is_believed() {
    for trusted in ["", "10.0.0.0/8"] {
        let console = Console::serving("api", &[(TRUSTED, trusted)]).await;
        let mut local = Visitor::of(&console)
            .calling("localhost")
            .saying(PROTO, "https");
        assert_eq!(are_secure(&mut local).await, [false; 2], "{trusted}");
        // Under any other name cookies are for HTTPS only, whatever is said.
        let mut remote = Visitor::of(&console)
            .calling("console.example")
            .saying(PROTO, "http");
        assert_eq!(are_secure(&mut remote).await, [true; 2], "{trusted}");
    }
}

#[tokio::test]
async fn cookie_that_is_exchanged_behind_a_proxy_stays_for_https_only() {
    let console = Console::serving("api", &[(TRUSTED, "127.0.0.1")]).await;
    let mut visitor = Visitor::of(&console)
        .calling("127.0.0.1")
        .saying(PROTO, "https");
    visitor.take_link(&Who::Operator.link().await).await;
    console
        .db
        .execute(
            "UPDATE retention.console_sessions SET rotated_at = rotated_at - interval '16 minutes'",
        )
        .await;

    let answer = visitor.get("/console").await;

    let cookies = set_cookies(&answer);
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    assert!(cookies[0].contains("; Secure"), "{cookies:?}");
}

#[tokio::test]
async fn browser_that_came_by_https_is_told_to_come_by_nothing_else_and_no_other_is() {
    const HSTS: &str = "strict-transport-security";
    for (trusted, said, is_told) in [
        ("127.0.0.1", Some("https"), true),
        ("127.0.0.1", Some("http"), false),
        ("127.0.0.1", None, false),
        ("10.0.0.0/8", Some("https"), false),
    ] {
        let console = Console::serving("api", &[(TRUSTED, trusted)]).await;
        let mut visitor = Visitor::of(&console).calling("retention.example");
        if let Some(said) = said {
            visitor = visitor.saying(PROTO, said);
        }
        for path in [
            "/signin",
            "/console",
            "/healthz",
            "/retention/runs",
            "/nothing",
        ] {
            let told = visitor.get(path).await;
            let expected = is_told.then_some("max-age=31536000");
            assert_eq!(told.header(HSTS), expected, "{trusted}, {said:?}: {path}");
        }
    }
}

#[tokio::test]
async fn proxy_that_is_no_address_is_refused_by_name() {
    for wrong in ["proxy.internal", "10.0.0.0/33", "10.0.0.1:8080"] {
        let output = product::command("postgres://localhost/app")
            .args(["config", "check"])
            .env(TRUSTED, wrong)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {said}");
        assert!(
            said.contains("http.trusted_proxies") && said.contains(wrong),
            "{said}"
        );
    }
}

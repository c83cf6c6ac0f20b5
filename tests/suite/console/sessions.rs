//! Signing in, staying signed in and signing out, as somebody with bad intentions would try it: header by header.

use crate::support::{
    api::{Answer, signed_with},
    client::{Client, SECRET, answer},
    console::{Console, Who},
    product::eventually,
    visitor::{SESSION, Visitor, set_cookies},
};

/// Signs in by the form; the answer.
async fn by_form(visitor: &mut Visitor, token: &str, next: &str) -> Answer {
    let csrf = visitor.csrf("/signin").await;
    visitor
        .post(
            "/signin",
            &[("csrf", &csrf), ("token", token), ("next", next)],
        )
        .await
}

#[tokio::test]
async fn sessions_cookie_is_kept_from_scripts_other_sites_and_plain_http() {
    let console = Console::start().await;
    for (host, is_local) in [
        ("127.0.0.1", true),
        ("localhost:8080", true),
        ("console.example", false),
    ] {
        let link = Who::Operator.link().await;
        let answer = Visitor::of(&console).calling(host).take_link(&link).await;
        let cookies = set_cookies(&answer);
        let session = cookies
            .iter()
            .find(|cookie| cookie.starts_with(SESSION))
            .unwrap();
        for attribute in ["HttpOnly", "SameSite=Lax", "Path=/"] {
            assert!(session.contains(attribute), "{attribute}: {session}");
        }
        assert_eq!(session.contains("Secure"), !is_local, "{host}: {session}");
        assert!(!session.contains("Domain"), "{session}");
    }
}

#[tokio::test]
async fn sign_in_by_form_leads_to_where_one_wanted_to_go() {
    let console = Console::start().await;
    let mut visitor = Visitor::of(&console);
    let turned_away = visitor.get("/console/runs?status=failed").await;
    let location = turned_away.header("location").unwrap();
    assert_eq!(turned_away.status, 303);
    assert_eq!(location, "/signin?next=%2Fconsole%2Fruns%3Fstatus%3Dfailed");
    let form = visitor.get(location).await.text();
    assert!(
        form.contains(r#"value="/console/runs?status=failed""#),
        "{form}"
    );

    let token = Who::Operator.token().await;
    let arrived = by_form(&mut visitor, &token, "/console/runs?status=failed").await;

    assert_eq!(
        arrived.header("location"),
        Some("/console/runs?status=failed")
    );
    assert!(visitor.is_signed_in().await);
}

#[tokio::test]
async fn sign_in_leads_nowhere_else() {
    let console = Console::start().await;
    for next in [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "/console/../../evil",
        "javascript:alert(1)",
        "/console//evil.example\r\nset-cookie: a=b",
        "",
    ] {
        let mut visitor = Visitor::of(&console);
        let answer = by_form(&mut visitor, &Who::Operator.token().await, next).await;
        let location = answer.header("location").unwrap();
        assert!(
            location == "/console" || location.starts_with("/console/"),
            "{next:?}: {location}"
        );
    }
}

#[tokio::test]
async fn token_that_is_no_good_signs_nobody_in_and_says_why() {
    let console = Console::start().await;
    let forged = Who::Operator.token().await.replace('.', "x.");
    let expired = signed_with(
        SECRET.1.as_bytes(),
        &serde_json::json!({"sub": "oda", "role": "operator", "exp": 1_000_000_000}),
    );
    for (token, says) in [
        ("", "The token"),
        ("nonsense", "The token"),
        (&forged, "The token"),
        (&expired, "expired"),
    ] {
        let mut visitor = Visitor::of(&console);
        let by_form = by_form(&mut visitor, token, "").await;
        let link = visitor.get(&format!("/signin?token={token}")).await;
        let by_link = visitor.take_link(token).await;
        assert_eq!((by_form.status, by_link.status), (401, 401), "{token}");
        assert!(by_form.text().contains(says), "{}", by_form.text());
        assert_eq!(link.status, 200, "{token}");
        assert!(!visitor.cookies.contains_key(SESSION), "{token}");
        for page in [by_form, link, by_link] {
            let is_repeated = !token.is_empty() && page.text().contains(token);
            assert!(!is_repeated, "a token is not repeated");
        }
    }
}

#[tokio::test]
async fn sign_in_form_of_another_browser_is_refused() {
    let console = Console::start().await;
    let token = Who::Operator.token().await;
    let csrf = Visitor::of(&console).csrf("/signin").await;
    let mut victim = Visitor::of(&console);
    victim.get("/signin").await;

    for csrf in [csrf.as_str(), ""] {
        let answer = victim
            .post("/signin", &[("csrf", csrf), ("token", &token)])
            .await;
        assert_eq!(answer.status, 403);
    }
    let without_cookies = Visitor::of(&console)
        .post("/signin", &[("csrf", ""), ("token", &token)])
        .await;

    assert_eq!(without_cookies.status, 403);
    assert!(!victim.cookies.contains_key(SESSION));
}

#[tokio::test]
async fn form_from_another_sites_page_is_refused_even_with_its_token() {
    let console = Console::start().await;
    let token = Who::Operator.token().await;
    for (header, value, is_ours) in [
        ("sec-fetch-site", "same-origin", true),
        ("sec-fetch-site", "none", true),
        ("sec-fetch-site", "same-site", false),
        ("sec-fetch-site", "cross-site", false),
        ("origin", "https://evil.example", false),
        ("origin", "null", false),
    ] {
        let mut visitor = Visitor::of(&console).saying(header, value);
        let csrf = visitor.csrf("/signin").await;

        let answer = visitor
            .post("/signin", &[("csrf", &csrf), ("token", &token)])
            .await;

        let status = if is_ours { 303 } else { 403 };
        assert_eq!(answer.status, status, "{header}: {value}");
        assert_eq!(visitor.cookies.contains_key(SESSION), is_ours, "{value}");
        if !is_ours {
            assert!(answer.text().contains("another site"), "{value}");
            let policy = answer.header("content-security-policy").unwrap();
            assert!(policy.contains("form-action 'self'"), "{policy}");
        }
    }
}

#[tokio::test]
async fn cookie_that_was_there_before_signing_in_is_never_the_sessions() {
    let console = Console::start().await;
    let planted = "0123456789abcdef".repeat(4);
    let mut victim = Visitor::of(&console);
    victim.cookies.insert(SESSION.to_owned(), planted.clone());

    by_form(&mut victim, &Who::Operator.token().await, "").await;

    assert!(victim.is_signed_in().await);
    assert_ne!(victim.session(), planted);
    let mut attacker = Visitor::of(&console);
    attacker.cookies.insert(SESSION.to_owned(), planted);
    assert!(!attacker.is_signed_in().await);
}

#[tokio::test]
async fn session_that_was_there_before_signing_in_again_is_over() {
    let console = Console::start().await;
    let org = console.app.org("pro").await;
    for is_by_link in [false, true] {
        let mut visitor = Visitor::signed_in(&console, Who::Viewer(org)).await;
        let mut before = visitor.clone();

        if is_by_link {
            visitor.take_link(&Who::Operator.link().await).await;
        } else {
            by_form(&mut visitor, &Who::Operator.token().await, "").await;
        }

        assert!(visitor.is_signed_in().await);
        assert_ne!(visitor.session(), before.session());
        assert!(!before.is_signed_in().await, "by link: {is_by_link}");
    }
}

#[tokio::test]
async fn form_without_its_pages_token_changes_nothing() {
    let (console, scene) = Console::showing("Nordwind").await;
    let (failed, live) = (
        scene.runs.failed.unwrap().to_string(),
        scene.runs.live.unwrap(),
    );
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    let of_another = Visitor::signed_in(&console, Who::Operator)
        .await
        .csrf("/console/runs")
        .await;
    let runs =
        "SELECT jsonb_agg(jsonb_build_array(id, status) ORDER BY id) FROM retention.purge_runs";
    let before: serde_json::Value = console.db.value(runs).await;

    for path in [
        format!("/console/orgs/{}/retention/purge", scene.org),
        "/console/runs/replay".to_owned(),
        format!("/console/runs/{live}/cancel"),
        "/signout".to_owned(),
    ] {
        for fields in [
            vec![("run", failed.as_str())],
            vec![("run", failed.as_str()), ("csrf", "")],
            vec![("run", failed.as_str()), ("csrf", of_another.as_str())],
        ] {
            let answer = operator.post(&path, &fields).await;
            assert_eq!(answer.status, 403, "{path}: {fields:?}");
        }
    }

    assert_eq!(console.db.value::<serde_json::Value>(runs).await, before);
    assert!(operator.is_signed_in().await);
}

#[tokio::test]
async fn sessions_cookie_opens_the_console_and_not_the_api() {
    let console = Console::start().await;
    let org = console.app.org_with_expired(3).await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;

    let read = operator.get("/retention/runs").await;
    let purge = operator
        .post(&format!("/orgs/{org}/retention/purge"), &[])
        .await;

    assert_eq!(
        (read.status, purge.status),
        (401, 401),
        "no page of another site can use it there"
    );
}

#[tokio::test]
async fn api_still_answers_in_json_where_nothing_is() {
    let console = Console::start().await;
    let client = Client::operator(&console.service).await;
    let (status, problem) = answer(client.request(reqwest::Method::GET, "/nothing")).await;
    assert_eq!(
        (status.as_u16(), problem["status"].as_u64()),
        (404, Some(404))
    );
}

#[tokio::test]
async fn signing_out_ends_the_session_wherever_its_cookie_is() {
    let console = Console::start().await;
    let browser = console.open_for(Who::Operator).await;
    let mut copy = Visitor::of(&console);
    copy.cookies
        .insert(SESSION.to_owned(), browser.cookie(SESSION).await);
    assert!(copy.is_signed_in().await);

    browser.click_button("Sign out").await;
    browser.wait_for_text("You are signed out.").await;

    assert!(browser.path().await.starts_with("/signin"));
    assert!(!copy.is_signed_in().await);
    browser.go(&console.url("/console/overview")).await;
    browser.wait_for_heading("Sign in").await;
}

#[tokio::test]
async fn session_ends_with_the_token_that_it_was_signed_in_with() {
    let console = Console::start().await;
    let mut visitor = Visitor::of(&console);
    let link = Who::Operator.link_for("2s").await;
    let arrived = visitor.take_link(&link).await;
    assert_eq!(arrived.status, 303);
    assert!(visitor.cookies.contains_key(SESSION));

    eventually("the session is over", async || {
        !visitor.clone().is_signed_in().await
    })
    .await;
}

#[tokio::test]
async fn session_ends_after_twelve_hours_however_long_its_token_is_valid() {
    let console = Console::start().await;
    let mut visitor = Visitor::of(&console);
    let link = Who::Operator.link_for("30d").await;
    visitor.take_link(&link).await;

    let latest =
        "SELECT max(expires_at) <= now() + interval '12 hours' FROM retention.console_sessions";
    assert!(console.db.value::<bool>(latest).await);
}

#[tokio::test]
async fn cookie_is_exchanged_now_and_then_and_the_old_one_ends() {
    let console = Console::start().await;
    let mut visitor = Visitor::signed_in(&console, Who::Operator).await;
    let mut old = visitor.clone();
    let pass = |time: &'static str| {
        let pass = format!(
            "UPDATE retention.console_sessions SET rotated_at = rotated_at - interval '{time}'"
        );
        let db = &console.db;
        async move { db.execute(&pass).await }
    };

    assert!(visitor.is_signed_in().await);
    assert_eq!(visitor.session(), old.session(), "not with every request");
    pass("16 minutes").await;
    assert!(visitor.is_signed_in().await);
    assert_ne!(visitor.session(), old.session());
    assert!(old.is_signed_in().await, "requests cross");
    pass("2 minutes").await;
    assert!(!old.is_signed_in().await);
    assert!(visitor.is_signed_in().await);
}

#[tokio::test]
async fn database_holds_nothing_that_signs_anybody_in() {
    let console = Console::start().await;
    let link = Who::Operator.link().await;
    let mut visitor = Visitor::of(&console);
    visitor.take_link(&link).await;
    let held: String = console
        .db
        .value(
            "SELECT concat((SELECT string_agg(s::text || encode(id_hash, 'escape'), ' ') FROM retention.console_sessions s),
                           (SELECT string_agg(l::text || encode(token_hash, 'escape'), ' ') FROM retention.spent_signin_links l))",
        )
        .await;
    assert!(held.contains("oda"), "{held}");
    assert!(!held.contains(&visitor.session()) && !held.contains(&link));
}

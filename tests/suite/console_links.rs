//! Sign-in links: to look at one changes nothing, and whoever presses its button first is signed in.

use reqwest::Method;

use crate::support::{
    console::{Console, Who},
    visitor::{SESSION, Visitor},
};

/// Links that were taken.
const SPENT: &str = "SELECT count(*) FROM retention.spent_signin_links";
const SESSIONS: &str = "SELECT count(*) FROM retention.console_sessions";

#[tokio::test]
async fn sign_in_link_works_once() {
    let console = Console::start().await;
    let token = Who::Operator.token().await;

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
    let token = Who::Operator.token().await;
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
    let token = Who::Operator.token().await;
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
    let token = Who::Operator.token().await;

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
    let token = Who::Operator.token().await;
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
    let planted = Who::Viewer(org).token().await;

    visitor.get(&format!("/signin?token={planted}")).await;

    assert_eq!(visitor.session(), before);
    assert!(visitor.is_signed_in().await);
}

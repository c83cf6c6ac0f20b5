//! The command `sessions`: who is signed in to the console, and how an operator ends that.

use serde_json::{Value, json};

use crate::support::{
    client::SECRET,
    console::{Console, Who},
    product, roles,
    text::{assert_reads, shown, stderr, stdout},
    visitor::Visitor,
};

async fn sessions(console: &Console, args: &[&str]) -> std::process::Output {
    product::run(&console.db.url, &[&["sessions"], args].concat()).await
}

/// The sessions that the command lists, newest first.
async fn listed(console: &Console) -> Vec<Value> {
    let list = product::json(&console.db.url, &["sessions", "list", "--json"]).await;
    assert_eq!(list["next_cursor"], Value::Null);
    list["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn list_says_who_is_signed_in_since_when_and_until_when() {
    let console = Console::start().await;
    assert_reads!(shown(&sessions(&console, &["list"]).await), @r"
    exit 0
    nobody is signed in
    ");
    let org = console.app.org("pro").await;
    Visitor::signed_in(&console, Who::Operator).await;
    Visitor::signed_in(&console, Who::Admin(org)).await;
    // One that is over.
    let over = "UPDATE retention.console_sessions SET expires_at = now() WHERE subject = 'vic'";
    Visitor::signed_in(&console, Who::Viewer(org)).await;
    console.db.execute(over).await;

    let list = listed(&console).await;

    let who: Vec<_> = list
        .iter()
        .map(|session| json!([session["subject"], session["role"], session["org_id"]]))
        .collect();
    assert_eq!(
        json!(who),
        json!([["ada", "admin", org], ["oda", "operator", null]])
    );
    for time in ["since", "until", "last_seen_at"] {
        assert!(list[0][time].is_string(), "{list:?}");
    }
    let table = stdout(&sessions(&console, &["list"]).await);
    let id = list[1]["id"].as_str().unwrap();
    assert!(
        table
            .lines()
            .any(|line| line.contains(&id[..8]) && line.contains("oda") && line.contains("59 min")),
        "{table}"
    );
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    let one = product::json(
        &console.db.url,
        &["sessions", "list", "--limit", "1", "--json"],
    )
    .await;
    let cursor = one["next_cursor"].as_str().unwrap();
    let rest = ["sessions", "list", "--cursor", cursor, "--json"];
    let rest = product::json(&console.db.url, &rest).await;
    assert_eq!(rest["items"][0]["id"], list[1]["id"]);
    assert_eq!(rest["next_cursor"], Value::Null);
}

#[tokio::test]
async fn list_holds_nothing_that_signs_anybody_in() {
    let console = Console::start().await;
    let visitor = Visitor::signed_in(&console, Who::Operator).await;
    let csrf = visitor.clone().csrf("/console/runs").await;

    let list = stdout(&sessions(&console, &["list", "--json"]).await);

    for secret in [visitor.session(), csrf] {
        assert!(!list.contains(&secret), "{list}");
    }
    let id = listed(&console).await[0]["id"].as_str().unwrap().to_owned();
    let mut thief = Visitor::of(&console);
    let name = crate::support::visitor::SESSION;
    for cookie in [id.clone(), id.replace('-', "")] {
        thief.cookies.insert(name.to_owned(), cookie);
        assert!(!thief.is_signed_in().await);
    }
}

#[tokio::test]
async fn revoked_session_is_over_at_once_and_the_record_says_who_ended_it_and_why() {
    let console = Console::start().await;
    let mut revoked = Visitor::signed_in(&console, Who::Operator).await;
    let id = listed(&console).await[0]["id"].as_str().unwrap().to_owned();
    let mut other = Visitor::signed_in(&console, Who::Operator).await;

    let output = sessions(&console, &["revoke", &id[..8], "--reason", "laptop lost"]).await;

    assert!(output.status.success(), "{}", shown(&output));
    assert!(stdout(&output).contains(&id), "{}", shown(&output));
    assert!(!revoked.is_signed_in().await);
    assert!(other.is_signed_in().await);
    let recorded = "SELECT jsonb_build_array(actor LIKE 'cli:%', action, org_id, reason, details) \
                    FROM retention.operator_actions";
    assert_eq!(
        console.db.value::<Value>(recorded).await,
        json!([true, "revoke_session", null, "laptop lost",
               {"session_id": id, "subject": "oda", "role": "operator"}])
    );
    let page = other.get("/console/actions").await.text();
    assert!(
        page.contains("revoke session of oda") && page.contains("laptop lost"),
        "{page}"
    );
}

#[tokio::test]
async fn sessions_of_one_person_or_of_everybody_are_ended_together() {
    let console = Console::start().await;
    let org = console.app.org("pro").await;
    let mut odas = [
        Visitor::signed_in(&console, Who::Operator).await,
        Visitor::signed_in(&console, Who::Operator).await,
    ];
    let mut ada = Visitor::signed_in(&console, Who::Admin(org)).await;

    let of_oda = sessions(&console, &["revoke", "--subject", "oda", "--json"]).await;
    let of_oda: Value = serde_json::from_str(&stdout(&of_oda)).unwrap();
    assert_eq!(of_oda["revoked"].as_array().unwrap().len(), 2);
    for oda in &mut odas {
        assert!(!oda.is_signed_in().await);
    }
    assert!(ada.is_signed_in().await);

    sessions(&console, &["revoke", "--all"]).await;
    assert!(!ada.is_signed_in().await);
    let recorded =
        "SELECT count(*) FROM retention.operator_actions WHERE action = 'revoke_session'";
    assert_eq!(console.db.value::<i64>(recorded).await, 3);
    let again = sessions(&console, &["revoke", "--all"]).await;
    assert_eq!(stdout(&again), "nobody was signed in\n");
    assert_eq!(console.db.value::<i64>(recorded).await, 3);
}

#[tokio::test]
async fn what_names_no_session_or_several_ends_none() {
    let console = Console::start().await;
    let mut visitor = Visitor::signed_in(&console, Who::Operator).await;
    Visitor::signed_in(&console, Who::Operator).await;
    let twins = "UPDATE retention.console_sessions \
                 SET id = overlay(id::text PLACING 'deadbeef' FROM 1 FOR 8)::uuid";
    console.db.execute(twins).await;

    for (args, code, says) in [
        (vec!["revoke"], 2, "required"),
        (vec!["revoke", "deadbee"], 2, "first 8 characters"),
        (vec!["revoke", "deadbeef%"], 2, "first 8 characters"),
        (
            vec!["revoke", "--all", "--subject", "oda"],
            2,
            "cannot be used",
        ),
        (
            vec!["revoke", "deadbeef"],
            1,
            "several session ids begin with deadbeef",
        ),
        (
            vec!["revoke", "00000000-0000"],
            1,
            "there is no session 000000000000",
        ),
    ] {
        let output = sessions(&console, &args).await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            shown(&output)
        );
        assert!(
            stderr(&output).contains(says),
            "{args:?}: {}",
            shown(&output)
        );
    }
    assert!(visitor.is_signed_in().await);
}

#[tokio::test]
async fn use_of_a_session_is_noted_to_the_minute() {
    let console = Console::start().await;
    let mut visitor = Visitor::signed_in(&console, Who::Operator).await;
    let pass = |time: &str| {
        format!("UPDATE retention.console_sessions SET last_seen_at = now() - interval '{time}'")
    };
    let is_fresh =
        "SELECT last_seen_at > now() - interval '5 seconds' FROM retention.console_sessions";

    for (time, is_noted) in [("50 seconds", false), ("61 seconds", true)] {
        console.db.execute(&pass(time)).await;
        assert!(visitor.is_signed_in().await);
        assert_eq!(console.db.value::<bool>(is_fresh).await, is_noted, "{time}");
    }
}

#[tokio::test]
async fn role_of_the_worker_is_enough_for_sessions_and_gives_none_to_somebody_else() {
    let console = Console::start().await;
    roles::apply(&console.db).await;
    let url = roles::user_in(&console.db, "drift_retention_worker").await;
    let service = product::Service::start(&url, "api", &[SECRET]);
    service.ready().await;
    let console = Console { service, ..console };
    let mut visitor = Visitor::signed_in(&console, Who::Operator).await;
    let old = "UPDATE retention.console_sessions \
               SET rotated_at = now() - interval '16 minutes', last_seen_at = now() - interval '16 minutes'";
    console.db.execute(old).await;
    let cookie = visitor.session();
    assert!(visitor.is_signed_in().await);
    assert_ne!(visitor.session(), cookie);

    let pool = roles::pool_of(&url);
    for write in [
        "subject = 'sam'",
        "role = 'operator'",
        "org_id = gen_random_uuid()",
        "key_fingerprint = ''",
        "csrf = ''",
        "created_at = now()",
        "expires_at = 'infinity'",
        "id = gen_random_uuid()",
    ] {
        let sql = format!("UPDATE retention.console_sessions SET {write}");
        assert_eq!(
            roles::refusal(&pool, &sql).await.as_deref(),
            Some("42501"),
            "{write}"
        );
    }
    let revoked = product::run(&url, &["sessions", "revoke", "--all"]).await;
    assert!(revoked.status.success(), "{}", shown(&revoked));
    assert!(!visitor.is_signed_in().await);
}

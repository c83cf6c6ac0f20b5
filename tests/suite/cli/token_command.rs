//! The command `token`: signs for development what the API takes, and nothing without a secret.

use jsonwebtoken::get_current_timestamp;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    api::{AUDIENCE, Api, HS256, ISSUER},
    app::App,
    product,
    text::{stderr, stdout},
};

const LIST: &str = "/retention/runs";

async fn token_command(args: &[&str], env: &[(&str, &str)]) -> std::process::Output {
    let mut command = product::command("postgres://nobody@127.0.0.1:1/nothing");
    command.arg("token").args(["--sub", "dana"]).args(args);
    command.envs(env.iter().copied()).output().await.unwrap()
}

#[tokio::test]
async fn short_secret_is_refused_as_wrong_usage() {
    for (secret, code) in [("s".repeat(31), 2), ("s".repeat(32), 0)] {
        let env = [("DRIFT_RETENTION_AUTH__HS256_SECRET", secret.as_str())];
        let output = token_command(&["--role", "operator"], &env).await;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(!stderr(&output).contains(&secret));
    }
}

#[tokio::test]
async fn minted_token_works_as_long_as_it_says() {
    let api = Api::start().await;
    let org = App::on(&api.db.pool).org("pro").await;
    let output = token_command(&["--role", "viewer", "--org", &org.to_string()], &HS256).await;
    let path = format!("/orgs/{org}/environments");
    assert_eq!(
        api.get(&path, stdout(&output).trim()).await.status,
        200,
        "{output:?}"
    );
    for (ttl, seconds) in [("1s", 1), ("2h", 7200)] {
        let before = get_current_timestamp();
        let output = token_command(&["--role", "operator", "--ttl", ttl], &HS256).await;
        let after = get_current_timestamp();
        let token = stdout(&output);
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token.trim())
            .unwrap()
            .claims;
        let exp = claims["exp"].as_u64().unwrap();
        assert!(
            (before + seconds..=after + seconds).contains(&exp),
            "{claims}"
        );
        assert_eq!(
            (claims["iss"].as_str(), claims["aud"].as_str()),
            (Some(ISSUER), Some(AUDIENCE))
        );
        assert_eq!(api.get(LIST, token.trim()).await.status, 200);
    }
}

#[tokio::test]
async fn token_is_not_signed_without_a_secret_or_for_the_wrong_organization() {
    let org = Uuid::new_v4().to_string();
    for (args, env, said) in [
        (vec!["--role", "viewer"], &HS256[..], "--org"),
        (vec!["--role", "admin"], &HS256[..], "--org"),
        (
            vec!["--role", "operator", "--org", &org],
            &HS256[..],
            "--org",
        ),
        (
            vec!["--role", "operator"],
            &[],
            "DRIFT_RETENTION_AUTH__HS256_SECRET",
        ),
        (
            vec!["--role", "operator", "--ttl", "36501d"],
            &HS256[..],
            "at most 36500d",
        ),
        (vec!["--role", "root"], &HS256[..], "--role"),
        (vec!["--role", "operator", "--ttl=-1s"], &HS256[..], "--ttl"),
    ] {
        let output = token_command(&args, env).await;
        assert!(!output.status.success(), "{args:?}");
        assert!(stderr(&output).contains(said), "{args:?}: {output:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[tokio::test]
async fn link_leads_to_the_sign_in_of_the_service_that_listens_there() {
    let env = [HS256[0], ("DRIFT_RETENTION_HTTP__LISTEN", "0.0.0.0:8099")];
    let output = token_command(&["--role", "operator", "--link"], &env).await;
    let link = stdout(&output);
    let token = link
        .trim()
        .strip_prefix("http://127.0.0.1:8099/signin?token=")
        .unwrap_or_else(|| panic!("{link}"));
    assert_eq!(token.split('.').count(), 3, "{token}");
}

#[tokio::test]
async fn nobody_is_named_whom_the_service_would_refuse() {
    for name in ["", " ", "dana\u{1b}[2J", &"d".repeat(201)] {
        let mut command = product::command("");
        let args = ["token", "--role", "operator", "--sub", name];
        let output = command.args(args).envs(HS256).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{name:?}");
        assert!(stderr(&output).contains("sub must be a name"), "{output:?}");
        assert_eq!(stdout(&output), "", "{name:?}");
    }
}

//! The command `config`: checks, shows without secrets, and is where `docs/configuration.md` comes from.

use std::{fs, path::Path};

use crate::support::{
    product,
    text::{shown, stderr, stdout},
};

const SECRET: &str = "a secret of thirty-two bytes or so";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

async fn config(args: &[&str], env: &[(&str, &str)]) -> std::process::Output {
    let mut command = product::command("");
    command.env_remove("DATABASE_URL").arg("config").args(args);
    command.envs(env.iter().copied()).output().await.unwrap()
}

#[tokio::test]
async fn every_setting_stands_in_the_documentation_as_the_code_has_it() {
    let made = stdout(&config(&["reference"], &[]).await);
    let kept = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    assert_eq!(
        kept, made,
        "run `drift-retention config reference > docs/configuration.md`"
    );
}

#[tokio::test]
async fn settings_in_force_are_shown_and_secrets_are_not() {
    let env = [
        (
            "DATABASE_URL",
            "postgres://purger:hunter2@db.internal/workflowops",
        ),
        (
            "DRIFT_RETENTION_REPLICA_URL",
            "postgres://reader:hunter2@replica.internal/workflowops",
        ),
        (
            "DRIFT_RETENTION_DATABASE__DIRECT_URL",
            "postgres://queue:hunter2@db.internal/workflowops",
        ),
        ("DRIFT_RETENTION_AUTH__HS256_SECRET", SECRET),
        ("DRIFT_RETENTION_WORKER__HEARTBEAT", "1500ms"),
    ];
    let text = stdout(&config(&["show"], &env).await);
    assert!(
        !text.contains(SECRET) && !text.contains("hunter2"),
        "{text}"
    );
    for line in [
        r#"url = "postgres://(hidden)@db.internal/workflowops""#,
        r#"replica_url = "postgres://(hidden)@replica.internal/workflowops""#,
        r#"direct_url = "postgres://(hidden)@db.internal/workflowops""#,
        r#"hs256_secret = "(hidden)""#,
        r#"heartbeat = "1500ms""#,
        "# concurrency is not set",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn every_url_can_come_from_a_file_of_its_own_and_is_shown_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["url", "direct_url", "replica_url"].map(|name| {
        let path = dir.path().join(name);
        fs::write(&path, format!("postgres://me:hunter2@{name}.internal/x\n")).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let env = [
        ("DRIFT_RETENTION_DATABASE__URL_FILE", files[0].as_str()),
        ("DRIFT_RETENTION_DATABASE__DIRECT_URL_FILE", &files[1]),
        ("DRIFT_RETENTION_REPLICA_URL_FILE", &files[2]),
    ];
    let text = stdout(&config(&["show"], &env).await);
    assert!(!text.contains("hunter2"), "{text}");
    for name in ["url", "direct_url", "replica_url"] {
        let line = format!(r#"{name} = "postgres://(hidden)@{name}.internal/x""#);
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn no_setting_that_can_be_a_url_is_shown_with_its_user_password_or_query() {
    let default = drift_retention::config::Config::default();
    let mut seen = 0;
    for setting in drift_retention::config::settings(&default) {
        let name = setting.key.rsplit('.').next().unwrap().to_owned();
        if name.ends_with("_file") || setting.value.is_some() {
            continue;
        }
        let scheme = if name == "jwks" { "https" } else { "postgres" };
        let url = format!("{scheme}://hunter1:hunter2@place.internal/x?key=hunter3#hunter4");
        let shown = config(&["show"], &[(&setting.variable(), &url)]).await;
        if !stdout(&shown).contains("place.internal") {
            // It is shown not at all, or no setting of that kind.
            assert!(!stdout(&shown).contains("hunter"), "{}", setting.key);
            continue;
        }
        seen += 1;
        assert!(!stdout(&shown).contains("hunter"), "{}", stdout(&shown));
    }
    assert!(
        seen >= 4,
        "URLs of the database, of a replica and of keys: {seen}"
    );
}

#[tokio::test]
async fn sample_file_is_right_but_for_the_secrets_that_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("database_url");
    fs::write(&url, "postgres://purger@db.internal/workflowops\n").unwrap();
    let sample = fs::read_to_string(root().join("deploy/config.example.toml")).unwrap();
    let sample = sample.replace("/run/secrets/database_url", url.to_str().unwrap());
    let file = dir.path().join("config.toml");
    fs::write(&file, sample).unwrap();

    let checked = config(&["check", "--config", file.to_str().unwrap()], &[]).await;

    insta::assert_snapshot!(shown(&checked), @r"
    exit 0
    the settings are right
    ");
    let text = stdout(&config(&["show", "--config", file.to_str().unwrap()], &[]).await);
    assert!(text.contains("db.internal"), "{text}");
}

#[tokio::test]
async fn settings_files_of_every_platform_are_right_where_the_secrets_are() {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("database_url");
    fs::write(&url, "postgres://db.internal/x").unwrap();
    fs::write(dir.path().join("hs256_secret"), "s".repeat(32)).unwrap();
    for platform in ["kubernetes", "systemd"] {
        let path = root().join("deploy").join(platform).join("config.toml");
        let text = fs::read_to_string(path).unwrap();
        let secrets = dir.path().to_str().unwrap();
        let file = dir.path().join("config.toml");
        fs::write(&file, text.replace("/run/secrets/drift-retention", secrets)).unwrap();
        // As the unit gives it.
        let of_unit = ("DRIFT_RETENTION_DATABASE__URL_FILE", url.to_str().unwrap());
        let checked = config(&["check", "--config", file.to_str().unwrap()], &[of_unit]).await;
        assert!(checked.status.success(), "{platform}: {}", shown(&checked));
    }
}

#[tokio::test]
async fn bad_settings_are_wrong_usage() {
    for (env, says) in [
        (
            vec![("DRIFT_RETENTION_SCHEDULE__CRON", "never")],
            "schedule.cron",
        ),
        (
            vec![("DRIFT_RETENTION_WORKER__HEARTBEAT", "1ms")],
            "worker.heartbeat",
        ),
        (
            vec![("DRIFT_RETENTION_AUTH__HS256_SECRET_FILE", "/nowhere/at/all")],
            "auth.hs256_secret cannot be read from /nowhere/at/all: No such file",
        ),
        (
            vec![
                ("DATABASE_URL", "postgres://db/a"),
                ("DRIFT_RETENTION_DATABASE__URL_FILE", "/dev/null"),
            ],
            "database.url and database.url_file are both set: leave one out",
        ),
        (
            vec![
                ("DRIFT_RETENTION_REPLICA_URL", "postgres://db/a"),
                ("DRIFT_RETENTION_REPLICA_URL_FILE", "/dev/null"),
            ],
            "replica_url and replica_url_file are both set: leave one out",
        ),
    ] {
        let output = config(&["check"], &env).await;
        assert_eq!(output.status.code(), Some(2), "{env:?}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn secret_of_a_file_signs_like_the_secret_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    let mint = async |name: &str, value: &str| {
        let output = product::command("")
            .args([
                "token", "--sub", "dana", "--role", "operator", "--ttl", "36500d",
            ])
            .env(name, value)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let token = stdout(&output);
        let key = jsonwebtoken::DecodingKey::from_secret(SECRET.as_bytes());
        let validation = jsonwebtoken::Validation::default();
        jsonwebtoken::decode::<serde_json::Value>(token.trim(), &key, &validation).unwrap();
    };
    mint("DRIFT_RETENTION_AUTH__HS256_SECRET", SECRET).await;
    mint(
        "DRIFT_RETENTION_AUTH__HS256_SECRET_FILE",
        path.to_str().unwrap(),
    )
    .await;
}

//! How the command line is used, and what it says to who uses it wrongly or without a database.

use crate::support::{
    product,
    text::{assert_reads, shown, stderr, stdout},
};

/// Nothing listens there.
const NOWHERE: &str = "postgres://nobody:s3cret-word@127.0.0.1:1/nothing";

/// Runs a command; returns exit code and text.
async fn read(url: &str, args: &[&str]) -> String {
    shown(&product::run(url, args).await)
}

#[tokio::test]
async fn help_names_every_command() {
    assert_reads!(read(NOWHERE, &["--help"]).await, @r"
    exit 0
    Durable retention worker: keeps every organization of a multi-tenant SaaS inside
    its plan's data retention windows

    Usage: drift-retention [OPTIONS] <COMMAND>

    Commands:
      demo         Start a local Postgres with sample organizations, and watch one
                   real purge
      migrate      Bring the database schema up, step it back, or show where it
                   stands
      attach       Map the tables of an existing main app, and check the mapping
      serve        Run the service: HTTP, the scheduler and the worker
      health       Ask the service at `http.listen` whether it is ready
      purge        Enqueue a purge now
      preview      Show how many rows a purge would remove now; changes nothing
      policy       Show a plan's, or an organization's, retention windows
      runs         List, show, replay and cancel runs
      sessions     List who is signed in to the console, or end their sessions
      token        Sign a token for the API, or a sign-in link, for development
      config       Check or show the settings
      completions  Print a completion script for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE>       Settings file (TOML); the environment and flags
                                override it
          --database-url <URL>  Where Postgres is [env: DATABASE_URL]
      -h, --help                Print help
      -V, --version             Print version
    ");
}

#[tokio::test]
async fn wrong_usage_exits_with_2() {
    for args in [
        ["purge"].as_slice(),
        &["purge", "--org", "not-an-id"],
        &[
            "purge",
            "--all",
            "--org",
            "00000000-0000-0000-0000-000000000000",
        ],
        &["purge", "--all", "--wait", "--work"],
        &["preview", "--org", "17"],
        &["policy"],
        &["runs", "show", "not-an-id"],
        &["runs", "replay"],
        &["runs", "replay", "--dry-run"],
        &["runs", "cancel", "1"],
        &["runs", "list", "--status", "done"],
        &["runs", "list", "--limit", "0"],
        &["runs", "list", "--cursor", "yesterday"],
        &["serve", "--roles", "cook"],
        &["migrate", "sideways"],
        &["completions", "cobol"],
        &[],
    ] {
        let output = product::run(NOWHERE, args).await;
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{args:?}"
        );
    }
}

#[tokio::test]
async fn command_without_a_database_says_what_to_set() {
    assert_reads!(read("", &["runs", "list"]).await, @r"
    exit 2
    error: no database is named: set DATABASE_URL, `database.url` in the --config file, or pass --database-url
    ");
}

#[tokio::test]
async fn command_that_cannot_reach_the_database_says_why_and_keeps_the_password() {
    for args in [
        ["runs", "list"].as_slice(),
        &["purge", "--all"],
        &["migrate", "up"],
        &["serve"],
    ] {
        let output = product::run(NOWHERE, args).await;
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
        assert!(message.starts_with("error: "), "{message}");
        assert!(!message.contains("s3cret-word"), "{message}");
    }
}

#[tokio::test]
async fn url_that_is_none_is_refused_without_showing_it() {
    let output = product::run("postgres:://u:s3cret-word@host:port/x", &["runs", "list"]).await;
    assert!(matches!(output.status.code(), Some(1 | 2)));
    assert!(
        !stderr(&output).contains("s3cret-word"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn completions_are_there_for_every_common_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = product::run(NOWHERE, &["completions", shell]).await;
        assert!(output.status.success());
        assert!(stdout(&output).contains("preview"), "{shell}");
    }
}

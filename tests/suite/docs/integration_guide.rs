//! `docs/integration.md` says what works: its SQL example runs in psql as it stands there.

use std::process::Stdio;

use tokio::process::Command;
use uuid::Uuid;

use crate::support::{TestDatabase, app::App};

const GUIDE: &str = include_str!("../../../docs/integration.md");

/// The fenced block of `language` that stands under a heading.
fn example<'a>(heading: &str, language: &str) -> &'a str {
    let section = GUIDE.split_once(heading).expect("the heading is there").1;
    let opening = format!("```{language}\n");
    let block = section.split_once(&opening).expect("it has an example").1;
    block.split_once("```").expect("the example ends").0
}

#[tokio::test]
async fn psql_example_downgrades_and_asks_in_one_transaction() {
    let db = TestDatabase::new().await;
    let org: Uuid = App::on(&db.pool).org("agency").await;

    let done = Command::new("bash")
        .args(["-ec", example("### psql", "sh")])
        .env("DATABASE_URL", &db.url)
        .env("ORG_ID", org.to_string())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();

    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let asked = "SELECT o.plan || ' ' || requested_by || ' ' || reason FROM organizations o
                 JOIN retention.purge_runs r ON r.org_id = o.id";
    assert_eq!(
        db.value::<String>(asked).await,
        "pro support downgraded on request"
    );
}

#[tokio::test]
async fn other_languages_call_the_function_that_there_is() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    for (heading, language) in [("### Python", "python"), ("### Node", "js")] {
        let code = example(heading, language);
        let start = code.find("SELECT run_id").expect("it asks by SQL");
        let sql = &code[start..start + code[start..].find('"').unwrap()];
        let sql = ["$1", "$2", "$3"].iter().fold(
            sql.replace("%s, %s, %s", "$1, $2, $3"),
            |sql, place| {
                let value = if *place == "$1" {
                    org.to_string()
                } else {
                    "text".into()
                };
                sql.replace(place, &format!("'{value}'"))
            },
        );
        db.execute(&sql).await;
    }
    let runs = "SELECT count(*) FROM retention.purge_runs WHERE requested_by = 'text'";
    assert_eq!(db.value::<i64>(runs).await, 1);
}

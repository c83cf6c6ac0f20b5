//! Every command that the documents show is one that the program takes, and every `make` target is there.

use std::{fs, path::Path};

use clap::CommandFactory;
use drift_retention::{
    cli::Args,
    retention::{Plan, Window},
};

use crate::support::{TestDatabase, app::App, product};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file at the top, in `docs` and in `deploy`, by its path.
fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for directory in ["", "docs", "deploy"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

/// The words of a command line; quotes hold them together, and what comes after the command itself is cut off.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' | '\'' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            '#' | '>' | '|' | '&' if !quoted => break,
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// What is typed after a prompt.
fn typed<'a>(text: &'a str, program: &str) -> Vec<&'a str> {
    let prompts = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("$ "));
    prompts
        .filter(|line| line.split(' ').next() == Some(program))
        .collect()
}

#[test]
fn every_documented_command_is_one_that_the_program_takes() {
    let mut tried = 0;
    for (path, text) in documents() {
        for line in typed(&text, "drift-retention") {
            let parsed = Args::command().try_get_matches_from(words(line));
            assert!(parsed.is_ok(), "{path}: {line}: {}", parsed.unwrap_err());
            tried += 1;
        }
    }
    assert!(tried > 15, "only {tried} commands were found");
}

#[test]
fn every_documented_make_target_is_there() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for (path, text) in documents() {
        let in_tables = text
            .split('`')
            .filter_map(|code| code.strip_prefix("make "));
        let typed = typed(&text, "make")
            .into_iter()
            .filter_map(|line| line.strip_prefix("make "));
        for target in in_tables.chain(typed) {
            let target = target.split([' ', '\n']).next().unwrap();
            assert!(
                makefile.contains(&format!("\n{target}:")),
                "{path}: make {target}"
            );
        }
    }
}

/// The SQL of every `psql … -c "…"` in a document.
fn statements(document: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("docs").join(document)).unwrap();
    let mut found = Vec::new();
    for (at, _) in text.match_indices("psql ") {
        // One command goes on, over the lines' ends, as long as a quote is open.
        let (mut end, mut quoted) = (text.len(), false);
        for (offset, c) in text[at..].char_indices() {
            match c {
                '"' => quoted = !quoted,
                '\n' | '`' if !quoted => {
                    end = at + offset;
                    break;
                }
                _ => {}
            }
        }
        if let Some((_, sql)) = text[at..end].split_once(" -c \"") {
            found.push(sql.split('"').next().unwrap().to_owned());
        }
    }
    found
}

#[tokio::test]
async fn every_documented_statement_runs_on_the_schema_as_it_is() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(3).await;
    product::purge(&db.url, org).await;
    let mut tried = 0;
    for document in ["runbook.md", "operations.md"] {
        for statement in statements(document) {
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone()));
            let done = done.execute(&db.pool).await;
            assert!(
                done.is_ok(),
                "{document}: {statement}: {}",
                done.unwrap_err()
            );
            tried += 1;
        }
    }
    assert!(tried >= 3, "only {tried} statements were found");
}

/// What a cell of the table of windows says.
fn cell(window: Option<Window>) -> String {
    window.map_or("no rule".into(), |window| {
        format!("{} days", window.in_days())
    })
}

#[test]
fn documented_windows_are_those_of_the_plans() {
    let text = fs::read_to_string(root().join("docs/retention-map.md")).unwrap();
    let (_, table) = text.split_once("## Windows by plan").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), Plan::ALL.len());
    for (row, plan) in rows.iter().zip(Plan::ALL) {
        let [names, checks, open, payloads, approvals] = row[..] else {
            panic!("{row:?}");
        };
        let policy = plan.policy();
        for name in names.split('`').skip(1).step_by(2) {
            assert_eq!(name.parse::<Plan>().ok(), Some(plan), "{name}");
        }
        assert!(names.starts_with(&format!("`{}`", plan.name())), "{names}");
        assert_eq!(checks, cell(policy.drift_checks), "{names}");
        assert_eq!(payloads, cell(policy.incident_payloads), "{names}");
        assert_eq!(approvals, cell(policy.approvals), "{names}");
        // Only closed incidents have a window at all.
        let never = if policy.incident_payloads.is_some() {
            "never"
        } else {
            "no rule"
        };
        assert_eq!(open, never, "{names}");
    }
}

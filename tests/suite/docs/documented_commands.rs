//! Every command that the documents show is one that the program takes, and whatever else they let the reader type does
//! what it is there for.

use std::{fs, path::Path};

use clap::CommandFactory;
use drift_retention::cli::Args;

use crate::support::{
    TestDatabase,
    app::App,
    client::serve,
    product,
    text::{stderr, stdout},
};

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

/// What operators go by.
const DOCUMENTS: [&str; 4] = [
    "operations.md",
    "runbook.md",
    "retention-map.md",
    "scaling.md",
];

fn document_of(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).unwrap()
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

/// The fenced blocks of a document, each with its language.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let fenced = text.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| block.split_once('\n')).collect()
}

/// What stands as code within sentences, on one line each.
fn inline(text: &str) -> Vec<String> {
    let sentences = text.split("```").step_by(2);
    sentences
        .flat_map(|text| text.split('`').skip(1).step_by(2))
        .map(|code| code.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Every command of a program: after a prompt, on a line of a script, and within sentences.
fn commands(text: &str, program: &str) -> Vec<String> {
    let mut lines = inline(text);
    for (language, block) in blocks(text) {
        let block = block.replace("\\\n", " ");
        lines.extend(block.lines().filter_map(|line| match language {
            "console" => line.trim().strip_prefix("$ ").map(str::to_owned),
            "sh" => Some(line.trim().to_owned()),
            _ => None,
        }));
    }
    lines.retain(|line| line.starts_with(&format!("{program} ")));
    lines
}

/// The words of a command of ours, with a value in every place that the reader fills.
fn filled(line: &str) -> Vec<String> {
    let id = || "3ef1152b-0c70-46d4-81a7-da174a0d5703".to_owned();
    let words = words(line).into_iter().map(|word| match word.as_str() {
        "ID" | "ORG_ID" | "RUN_ID" | "$ORG_ID" => id(),
        _ => word,
    });
    words.collect()
}

#[test]
fn every_documented_command_is_one_that_the_program_takes() {
    let mut tried = 0;
    for (path, text) in documents() {
        for line in commands(&text, "drift-retention") {
            let parsed = Args::command().try_get_matches_from(filled(&line));
            assert!(parsed.is_ok(), "{path}: {line}: {}", parsed.unwrap_err());
            tried += 1;
        }
    }
    assert!(tried > 50, "only {tried} commands were found");
}

/// What a fragment such as `serve --roles worker` says that the program does not know.
fn unknown_in(fragment: &str) -> Option<String> {
    let mut command = Args::command();
    command.build();
    for word in fragment.split(' ') {
        if let Some(flag) = word.strip_prefix("--") {
            let mut arguments = command.get_arguments();
            if !arguments.any(|argument| argument.get_long() == Some(flag)) {
                return Some(word.to_owned());
            }
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub.clone();
        }
    }
    None
}

#[test]
fn every_fragment_of_a_command_names_flags_that_it_has() {
    let mut program = Args::command();
    program.build();
    let mut tried = 0;
    for (path, text) in documents() {
        for code in inline(&text) {
            let first = code.split(' ').next().unwrap_or_default();
            if program.find_subcommand(first).is_some() {
                assert_eq!(unknown_in(&code), None, "{path}: {code}");
                tried += 1;
            }
        }
    }
    assert!(tried > 20, "only {tried} fragments were found");
}

#[test]
fn every_documented_cargo_command_names_what_is_there() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut tried = 0;
    for (path, text) in documents() {
        for line in commands(&text, "cargo") {
            let words = words(&line);
            let (cargo, ours) = match words.iter().position(|word| word == "--") {
                Some(at) => (&words[..at], &words[at + 1..]),
                None => (&words[..], &[][..]),
            };
            for pair in cargo.windows(2) {
                let is_there = match pair[0].as_str() {
                    "--features" => manifest.contains(&format!("\n{} = [", pair[1])),
                    "--bin" => manifest.contains(&format!("[[bin]]\nname = \"{}\"", pair[1])),
                    "--bench" => manifest.contains(&format!("[[bench]]\nname = \"{}\"", pair[1])),
                    "--example" => root().join(format!("examples/{}.rs", pair[1])).exists(),
                    "--test" => root().join(format!("tests/{}/main.rs", pair[1])).exists(),
                    _ => continue,
                };
                assert!(is_there, "{path}: {line}: {}", pair[1]);
                tried += 1;
            }
            // The lab reads its own options, and tests them itself.
            if cargo[1] == "run" && !cargo.contains(&"--bin".to_owned()) {
                let ours =
                    std::iter::once("drift-retention").chain(ours.iter().map(String::as_str));
                let parsed = Args::command().try_get_matches_from(ours);
                assert!(parsed.is_ok(), "{path}: {line}: {}", parsed.unwrap_err());
            }
        }
    }
    assert!(tried >= 4, "only {tried} names were found");
}

#[test]
fn every_documented_make_target_is_there() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for (path, text) in documents() {
        for line in commands(&text, "make") {
            let target = line.split(' ').nth(1).unwrap();
            assert!(makefile.contains(&format!("\n{target}:")), "{path}: {line}");
        }
    }
}

#[test]
fn every_documented_line_of_a_rule_is_tested_with_the_rules() {
    let tests = fs::read_to_string(root().join("dashboards/alerts/rules.test.yaml")).unwrap();
    let runbook = document_of("runbook.md");
    let mut lines = blocks(&runbook);
    lines.retain(|(language, _)| *language == "promql");
    assert!(!lines.is_empty());
    for (_, line) in lines {
        assert!(tests.contains(line.trim()), "{line}");
    }
}

/// The SQL of every `psql … -c "…"` and of every block of SQL in a document.
fn statements(text: &str) -> Vec<String> {
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
    let blocks = blocks(text).into_iter();
    let blocks = blocks.filter(|(language, _)| *language == "sql");
    found.extend(blocks.map(|(_, sql)| sql.to_owned()));
    found
}

#[tokio::test]
async fn every_documented_statement_runs_on_the_schema_as_it_is() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(3).await;
    product::purge(&db.url, org).await;
    let mut tried = 0;
    for document in DOCUMENTS {
        for statement in statements(&document_of(document)) {
            // Roles belong to the whole server: neither the owner that the documents name nor its rights stay.
            // The function and the column are the main app's.
            let sql = format!(
                "BEGIN; CREATE ROLE workflowops_owner; ALTER TABLE incidents ADD drift_summary jsonb;
                 CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
                 {statement}; ROLLBACK"
            );
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
            let done = done.execute(&db.pool).await;
            assert!(
                done.is_ok(),
                "{document}: {statement}: {}",
                done.unwrap_err()
            );
            tried += 1;
        }
    }
    assert!(tried >= 6, "only {tried} statements were found");
}

#[tokio::test]
async fn every_documented_filter_finds_what_it_is_for() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    app.org("pro").await;
    let unresolved = app.org("legacy").await.to_string();
    let mut tried = 0;
    for document in DOCUMENTS {
        for line in commands(&document_of(document), "drift-retention") {
            if line.contains(" | jq ") {
                let found = in_shell(&db, &line).await;
                assert!(found.contains(&unresolved), "{document}: {line}: {found}");
                assert_eq!(found.matches("org_id").count(), 1, "{document}: {line}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 1);
}

/// What a line prints in a shell that finds the program.
async fn in_shell(db: &TestDatabase, line: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_drift-retention"));
    let path = format!(
        "{}:/usr/local/bin:/usr/bin:/bin",
        program.parent().unwrap().display()
    );
    let done = tokio::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", line])
        .env("PATH", path)
        .env("DATABASE_URL", &db.url)
        .output()
        .await
        .unwrap();
    assert!(done.status.success(), "{line}: {}", stderr(&done));
    stdout(&done)
}

#[tokio::test]
async fn every_documented_address_is_answered_and_every_file_is_there() {
    let db = TestDatabase::new().await;
    let service = serve(&db, "api,worker", &[]).await;
    let mut tried = 0;
    for document in DOCUMENTS {
        let text = document_of(document);
        for line in commands(&text, "curl") {
            let (_, path) = line.split_once("http://HOST:8080").unwrap();
            let answer = service.get(path).await.unwrap();
            assert_eq!(answer.status(), 200, "{document}: {line}");
            tried += 1;
        }
        for line in commands(&text, "psql") {
            if let Some((_, file)) = line.split_once(" -f ") {
                assert!(root().join(file).exists(), "{document}: {line}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 4, "only {tried} were found");
}

//! Every command that the documents show is one that the program takes, and every `make` target is there.

use std::{fs, path::Path};

use clap::CommandFactory;
use drift_retention::cli::Args;

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

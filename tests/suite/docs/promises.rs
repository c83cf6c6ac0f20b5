//! Every promise in docs/promises.md links to tests that there are, and names checks that the crash lab makes.

use std::{fs, path::Path};

fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The first table's rows, cell by cell: the promise, its tests, the lab's checks.
fn promises(document: &str) -> Vec<Vec<&str>> {
    let (first, _) = document.split_once("\n## ").unwrap();
    let rows = first.lines().filter(|line| line.starts_with("| "));
    rows.skip(1)
        .map(|row| row.trim_matches('|').split(" | ").collect())
        .collect()
}

/// The name and the file of a test, from a link as the document writes it: "[`name`](../file)".
fn linked(entry: &str) -> Option<(&str, &str)> {
    let (name, file) = entry.strip_prefix("[`")?.split_once("`](../")?;
    Some((name, file.strip_suffix(')')?))
}

/// Whether a source has a test of this name: a function with a test's attribute, or an entry in a macro's list of tests.
fn holds_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().collect();
    lines.iter().enumerate().any(|(at, line)| {
        let mut attributes = lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.trim_start().starts_with("#["));
        let is_function = line.contains(&format!("fn {name}()"));
        let is_test = attributes.any(|line| line.contains("test]") || line.contains("test("));
        is_function && is_test || line.starts_with(&format!("    {name}: "))
    })
}

#[test]
fn every_promise_names_tests_that_there_are() {
    let document = read("docs/promises.md");
    for row in promises(&document) {
        for entry in row[1].split(", ") {
            let is_link = linked(entry).is_some_and(|(_, file)| file.starts_with("tests/suite/"));
            assert!(is_link, "{entry} is no link to a test: {}", row[0]);
        }
    }
    let mut named = 0;
    // Below the table too.
    for (at, _) in document.match_indices("[`") {
        let Some((name, file)) = document[at..]
            .split_inclusive(')')
            .next()
            .and_then(linked)
            .filter(|(_, file)| file.starts_with("tests/"))
        else {
            continue;
        };
        let holds = holds_test(&read(file), name);
        assert!(holds, "{file} has no test of the name {name}");
        named += 1;
    }
    assert!(named > 20, "the tests were found: {named}");
}

#[test]
fn every_promise_that_the_crash_lab_checks_is_one_that_it_checks() {
    let document = read("docs/promises.md");
    let lab = read("lab/oracle.rs") + &read("lab/round.rs");
    let mut named = 0;
    for row in promises(&document) {
        for check in quoted(row[2]) {
            assert!(lab.contains(&format!("\"{check}\"")), "{check} is no check");
            named += 1;
        }
    }
    assert!(named > 8, "the checks were found: {named}");
}

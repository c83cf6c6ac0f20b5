//! Every promise in docs/promises.md names tests that there are, and checks that the crash lab makes.

use std::{fs, path::Path};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
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

#[test]
fn every_promise_names_tests_that_there_are() {
    let document = read("docs/promises.md");
    let mut named = 0;
    for row in promises(&document) {
        let tests: Vec<&str> = quoted(row[1]).collect();
        assert!(!tests.is_empty(), "no test holds: {}", row[0]);
        for test in tests {
            let (module, name) = test.rsplit_once("::").expect(test);
            let source = read(&format!("tests/suite/{}.rs", module.replace("::", "/")));
            // Written out, or one of a macro's list.
            let is_there = [format!("fn {name}()"), format!("    {name}: ")];
            assert!(
                is_there.iter().any(|text| source.contains(text)),
                "{test} is not there"
            );
            named += 1;
        }
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

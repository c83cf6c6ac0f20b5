//! The floors of the house, read from the sources themselves: who may use whom, who prints, who knows apalis, that
//! the list of datasets is complete, and that tests stand in folders by subject.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use drift_retention::purge::datasets::tables;

/// From the ground up; a module uses what stands below it, never what stands above or beside it.
const FLOORS: &[&[&str]] = &[
    &["config", "faults", "humanize", "ids", "postgres", "text"],
    &["retention", "schedule"],
    &["attach", "drift", "demo", "telemetry"],
    &["runs"],
    &["purge"],
    &["jobs"],
    &["scheduler", "worker", "gauges"],
    &["http"],
    &["cli"],
];

/// Every source file of the product: its path below `src`, and its text.
fn sources() -> BTreeMap<PathBuf, String> {
    rust_files("src")
}

/// Every Rust file of a directory and the directories in it: its path below that directory, and its text.
fn rust_files(below: &str) -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let mut found = BTreeMap::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// The text without its comment lines.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The module of the top floor that a file belongs to: `queue` for `queue/claim.rs`.
fn module(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The crate's own modules that a text uses: in paths, and in `use crate::{…}`.
fn uses(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        // `$crate::` and `my_crate::` are others'.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(names_in_group(group)),
            None => used.extend(first_name(rest)),
        }
    }
    used
}

/// The first names of a `use` group's entries.
fn names_in_group(group: &str) -> Vec<String> {
    let (mut depth, mut begins, mut names) = (0, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && depth == 0 && !c.is_whitespace() => {
                names.extend(first_name(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

#[test]
fn module_uses_only_what_stands_below_it() {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module(&path);
        if matches!(module.as_str(), "main" | "lib") {
            continue;
        }
        let own = floor(&module).unwrap_or_else(|| panic!("{module} stands on no floor: add it"));
        for used in uses(&code(&text)) {
            let Some(below) = floor(&used) else {
                panic!("{} uses {used}, which stands on no floor", path.display())
            };
            if used != module && below >= own {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_in_every_way_they_are_written() {
    let written = "use crate::queue;\nuse crate::{\n    ids::{OrgId, RunId},\n    purge, worker::Worker};\n\
                   fn f() { crate::telemetry::logs::init() }\nuse other_crate::http;";
    let found: Vec<String> = uses(written).into_iter().collect();
    assert_eq!(found, ["ids", "purge", "queue", "telemetry", "worker"]);
}

#[test]
fn only_the_command_line_prints() {
    for (path, text) in sources() {
        if module(&path) == "cli" {
            continue;
        }
        for printing in [
            "println!",
            "eprintln!",
            "print!(",
            "eprint!(",
            "dbg!",
            "io::stdout",
        ] {
            assert!(
                !code(&text).contains(printing),
                "{}: {printing}",
                path.display()
            );
        }
    }
}

#[test]
fn only_the_queue_and_the_migrations_know_apalis() {
    for (path, text) in sources() {
        if module(&path) == "jobs"
            || path.starts_with("postgres/migrations.rs")
            || path.starts_with("postgres/migrations")
        {
            continue;
        }
        // Crates and tables; `apalis_core=warn` in a log filter is a name among others.
        for known in [
            "apalis::",
            "apalis_core::",
            "apalis_postgres::",
            "apalis.",
            "use apalis",
        ] {
            assert!(!code(&text).contains(known), "{}: {known}", path.display());
        }
    }
}

#[test]
fn only_the_room_of_runs_writes_their_records() {
    for (path, text) in sources() {
        if module(&path) == "runs" {
            continue;
        }
        let words: Vec<_> = text.split_whitespace().collect();
        for written in words.windows(3) {
            let writes = matches!(
                written[..2],
                ["INSERT", "INTO"] | ["DELETE", "FROM"] | ["UPDATE", _]
            );
            let table = if written[0] == "UPDATE" {
                written[1]
            } else {
                written[2]
            };
            assert!(
                !(writes && table.starts_with("retention.purge_run")),
                "{} writes {table}: only src/runs does",
                path.display()
            );
        }
    }
}

#[test]
fn crash_lab_is_outside_the_product_and_needs_its_feature() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let lab = "[[bin]]\nname = \"lab\"\npath = \"lab/main.rs\"\nrequired-features = [\"chaos\"]";
    assert!(fs::read_to_string(manifest).unwrap().contains(lab));
    for (path, text) in sources() {
        let is_fault_points = path == Path::new("faults.rs");
        assert!(
            is_fault_points || !code(&text).contains("chaos"),
            "{}: only the fault points know the feature",
            path.display()
        );
    }
}

#[test]
fn every_dataset_file_is_in_the_list_and_the_tables_are_the_contracts() {
    let sources = sources();
    let list = &sources[Path::new("purge/datasets/mod.rs")];
    let list = list
        .split("pub const DATASETS: &[&dyn Dataset] = &[")
        .nth(1)
        .unwrap();
    let list = list.split(']').next().unwrap();
    let files: Vec<String> = sources
        .keys()
        .filter(|path| path.parent() == Some(Path::new("purge/datasets")))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|stem| stem != "mod")
        .collect();
    for file in &files {
        let named = file
            .split('_')
            .map(|word| word[..1].to_uppercase() + &word[1..]);
        let named: String = named.collect();
        assert!(
            list.contains(&format!("&{named}")),
            "{file}.rs is not in DATASETS"
        );
    }
    assert_eq!(
        list.matches('&').count(),
        files.len(),
        "one line a file: {list}"
    );
    assert_eq!(
        tables().collect::<Vec<_>>(),
        [
            "drift_checks",
            "workflow_drift_flags",
            "incident_payloads",
            "approvals"
        ]
    );
}

#[test]
fn every_query_opens_with_a_name_of_its_own() {
    let mut names = BTreeMap::new();
    for (path, text) in sources() {
        let code = code(&text);
        for macro_name in ["query!(", "query_as!(", "query_scalar!("] {
            for (at, found) in code.match_indices(macro_name) {
                if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                let sql = code[at + found.len()..].split('"').nth(1).unwrap();
                let name = sql.lines().next().unwrap();
                let is_name = name.strip_prefix("-- ").is_some_and(|name| {
                    name.contains('.')
                        && name
                            .chars()
                            .all(|c| c.is_ascii_lowercase() || "._".contains(c))
                });
                assert!(is_name, "{}: a query opens with {name:?}", path.display());
                if let Some(other) = names.insert(name.to_owned(), path.clone()) {
                    panic!("{name} is in {} and in {}", other.display(), path.display());
                }
            }
        }
    }
    assert!(names.len() > 40, "the queries were found: {}", names.len());
}

#[test]
fn every_file_says_what_it_is_for_and_fits_in_the_head() {
    for (path, text) in [
        rust_files("src"),
        rust_files("lab"),
        rust_files("tests/suite"),
    ]
    .into_iter()
    .flatten()
    {
        assert!(
            text.starts_with("//! "),
            "{}: opens without //!",
            path.display()
        );
        let lines = text.lines().count();
        assert!(lines <= 400, "{}: {lines} lines", path.display());
    }
}

#[test]
fn every_test_file_stands_in_a_folder_of_its_subject() {
    let files = rust_files("tests/suite");
    let outside = files
        .keys()
        .filter(|path| path.components().count() == 1 && *path != Path::new("main.rs"));
    let outside: Vec<_> = outside.collect();
    assert!(
        outside.is_empty(),
        "move these into a folder of tests/suite: {outside:?}"
    );
    for path in files.keys().filter(|path| *path != Path::new("main.rs")) {
        let folder = path.parent().unwrap();
        // A folder beside a file of its name belongs to that file.
        let opens = [folder.join("mod.rs"), folder.with_extension("rs")];
        assert!(
            opens.iter().any(|file| files.contains_key(file)),
            "{} has no mod.rs that says what its tests hold",
            folder.display()
        );
    }
}

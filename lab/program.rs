//! The product's program: the `drift-retention` that cargo built beside the lab.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

const BUILD: &str =
    "run `cargo build --features chaos --bins` (with --release if the lab is a release build)";

/// Finds the program, and refuses one that is older than its sources. `cargo run --bin lab` does not build the product,
/// so the lab would judge an earlier version of it.
pub(crate) fn find() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("drift-retention");
    ensure!(
        program.exists(),
        "{} does not exist: {BUILD}",
        program.display()
    );
    if let Some(source) = newer_source(&program)? {
        bail!(
            "{} is older than {}: {BUILD}",
            program.display(),
            source.display()
        );
    }
    Ok(program)
}

/// A source that changed or vanished after the program was built. Cargo lists the sources in a file beside the program;
/// without that file nothing is known, and the program is taken as it is.
fn newer_source(program: &Path) -> Result<Option<PathBuf>> {
    let list = match fs::read_to_string(program.with_extension("d")) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("cannot read the list of the product's sources"),
    };
    let built = fs::metadata(program)?.modified()?;
    let is_older = |source: &Path| {
        let changed = fs::metadata(source).and_then(|found| found.modified());
        changed.is_ok_and(|changed| changed <= built)
    };
    Ok(sources(&list).into_iter().find(|source| !is_older(source)))
}

/// The paths behind the colon, separated by spaces. A backslash precedes a space that belongs to a path.
fn sources(list: &str) -> Vec<PathBuf> {
    let Some((_, paths)) = list.lines().next().and_then(|line| line.split_once(": ")) else {
        return Vec::new();
    };
    let paths = paths.replace("\\ ", "\0");
    let paths = paths.split_whitespace();
    paths
        .map(|path| PathBuf::from(path.replace('\0', " ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_from_cargos_list() {
        let list = "/a/drift-retention: /a/src/main.rs /a/my\\ own/lib.rs\n";
        let expected = ["/a/src/main.rs", "/a/my own/lib.rs"].map(PathBuf::from);
        assert_eq!(sources(list), expected);
    }

    #[test]
    fn program_that_is_older_than_a_source_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("old.rs"), "").unwrap();
        fs::write(path("program"), "").unwrap();
        let hour = std::time::Duration::from_hours(1);
        let list = |source: &str| {
            let line = format!("program: {}\n", path(source).display());
            fs::write(path("program.d"), line).unwrap();
        };
        list("old.rs");
        assert_eq!(newer_source(&path("program")).unwrap(), None);
        list("gone.rs");
        assert_eq!(
            newer_source(&path("program")).unwrap(),
            Some(path("gone.rs"))
        );
        let new = fs::File::create(path("new.rs")).unwrap();
        let built = fs::metadata(path("program")).unwrap().modified().unwrap();
        new.set_modified(built + hour).unwrap();
        list("new.rs");
        assert_eq!(
            newer_source(&path("program")).unwrap(),
            Some(path("new.rs"))
        );
    }
}

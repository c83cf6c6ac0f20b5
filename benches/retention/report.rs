//! The report as Markdown, with its plots beside it.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{machine::Machine, measures::Series, plot::Plot};

/// What one profile found.
#[derive(Default)]
pub(crate) struct Section {
    /// Its heading.
    pub(crate) title: String,
    /// What was done, paragraph by paragraph.
    pub(crate) about: Vec<String>,
    /// The figures.
    pub(crate) tables: Vec<Table>,
    /// What was to be reached.
    pub(crate) targets: Vec<Target>,
    /// The same to look at.
    pub(crate) plots: Vec<Plot>,
}

/// A table: its first row is its head.
pub(crate) struct Table(pub(crate) Vec<Vec<String>>);

/// Something to be reached, and whether it was.
pub(crate) struct Target {
    /// What is measured.
    pub(crate) what: String,
    /// In each round.
    pub(crate) measured: Series,
    /// What its median must be.
    pub(crate) bound: Bound,
}

/// What a target's median must be.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// What was run, and where.
pub(crate) struct Circumstances<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) postgres: String,
    pub(crate) settings: &'a [(&'static str, String)],
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) rounds: usize,
    pub(crate) took: std::time::Duration,
}

impl Section {
    /// As it stands in the report; the plots in `pictures` below it.
    pub(crate) fn markdown(&self, pictures: &str) -> String {
        let mut parts = vec![format!("## {}", self.title)];
        parts.extend(self.about.iter().cloned());
        parts.extend(self.tables.iter().map(Table::markdown));
        if !self.targets.is_empty() {
            let mut rows = vec![head(&["Target", "Asked", "Measured", ""])];
            rows.extend(self.targets.iter().map(Target::row));
            parts.push(Table(rows).markdown());
        }
        parts.extend(
            self.plots
                .iter()
                .map(|plot| format!("![{}]({pictures}/{}.svg)", plot.title, plot.file)),
        );
        parts.join("\n\n")
    }
}

impl Table {
    fn markdown(&self) -> String {
        let mut lines = Vec::new();
        for (index, row) in self.0.iter().enumerate() {
            lines.push(format!("| {} |", row.join(" | ")));
            if index == 0 {
                lines.push(format!("|{}", "---|".repeat(row.len())));
            }
        }
        lines.join("\n")
    }
}

impl Target {
    fn verdict(&self) -> &'static str {
        let median = self.measured.median();
        let is_met = match self.bound {
            Bound::AtMost(most) => median <= most,
            Bound::AtLeast(least) => median >= least,
        };
        match is_met {
            _ if median.is_nan() => "not measured",
            true => "met",
            false => "**not met**",
        }
    }

    fn row(&self) -> Vec<String> {
        let asked = match self.bound {
            Bound::AtMost(most) => format!("at most {most}"),
            Bound::AtLeast(least) => format!("at least {least}"),
        };
        vec![
            self.what.clone(),
            asked,
            self.measured.show(),
            self.verdict().to_owned(),
        ]
    }
}

/// A table's head.
pub(crate) fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Writes `benchmarks.md` and the plots below `out`.
pub(crate) fn write(out: &Path, about: &Circumstances<'_>, sections: &[Section]) -> Result<()> {
    let pictures = out.join("benchmarks");
    fs::create_dir_all(&pictures).context("cannot make the directory for the plots")?;
    for plot in sections.iter().flat_map(|section| &section.plots) {
        fs::write(pictures.join(format!("{}.svg", plot.file)), plot.svg())?;
    }
    let mut parts = vec![about.markdown()];
    parts.extend(
        sections
            .iter()
            .map(|section| section.markdown("benchmarks")),
    );
    fs::write(out.join("benchmarks.md"), parts.join("\n\n") + "\n")?;
    Ok(())
}

impl Circumstances<'_> {
    fn markdown(&self) -> String {
        let machine = self.machine;
        let settings: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| {
                format!("`{name} = {}`", if value.is_empty() { "''" } else { value })
            })
            .collect();
        let rows = vec![
            head(&["", ""]),
            head(&["Date", &self.date]),
            head(&[
                "Command",
                &format!(
                    "`{}`, {:.0} minutes",
                    self.command,
                    self.took.as_secs_f64() / 60.0
                ),
            ]),
            head(&[
                "Machine",
                &format!(
                    "{} cores of {}, {:.0} GiB",
                    machine.cores,
                    machine.cpu,
                    gib(machine.memory_mib)
                ),
            ]),
            head(&["drift-retention", &product()]),
            head(&[
                "PostgreSQL",
                &format!(
                    "{}, on the same machine: {}; the rest as it is by default",
                    self.postgres,
                    settings.join(", ")
                ),
            ]),
            head(&["Rust", machine.rustc.as_deref().unwrap_or("unknown")]),
        ];
        format!(
            "# Benchmarks\n\nWritten by `make bench`; do not edit. Program, database and bench share the machine's cores.\n\n{}\n\n\
             Every profile is seeded through the product's own migrations, vacuumed, analyzed and checkpointed. Each contestant \
             gets a fresh copy of the seeded database after a checkpoint. Except in *cold*, all of it has been read once, and autovacuum, which \
             comes once a minute and would meet only some of them, has just looked at it. Contestants take turns, {} rounds or as many as a profile says. \
             After each, SQL that shares nothing with the contestants works out row by row what had to stay and compares \
             count and checksum of every table; a difference ends the bench. Figures are medians, in brackets the least and the greatest. \
             A ratio is taken within a round.\n\n\
             - **ours**: the product's worker, from the start of its process until no run is live. Its runs were enqueued before, \
             which stands beside it.\n\
             - **set-based bound**: one DELETE per table over the whole database, by hand, on one connection.\n\
             - **plain loop**: SQL per organization in batches of 1,000 rows, on one connection; no queue, no records.",
            Table(rows).markdown(),
            self.rounds
        )
    }
}

fn product() -> String {
    let build = if cfg!(debug_assertions) {
        "**development build, whose figures mean nothing**"
    } else {
        "release build"
    };
    format!(
        "{}, {build}, settings as they are by default",
        env!("CARGO_PKG_VERSION")
    )
}

fn gib(mib: u64) -> f64 {
    crate::measures::float(mib) / 1024.0
}

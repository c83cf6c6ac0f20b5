//! How things look: tables for people, JSON for programs, ages, and errors as one chain. And how they are written: what
//! cannot be written is an error, never a panic, and what others wrote steers no terminal.

use std::{
    fmt::{self, Display},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::text;

/// The exit status that a shell reports for a program that SIGPIPE ended: 128 + 13.
const READER_GONE: u8 = 141;

/// Standard output cannot be written: the disk is full, or nobody reads any more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct Unwritten(#[source] io::Error);

/// Prints a line, as `println!` does, and returns an error where that panics.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::line(&format!($($text)*))
    };
}
pub(super) use say;

/// Prints `line` without what could steer a terminal, and ends it.
pub(super) fn line(line: &str) -> Result<(), Unwritten> {
    bytes(format!("{}\n", text::visible(line)).as_bytes())
}

/// Prints `bytes` as they are: nothing in them is of others. Flushed: what is left to the end of the process fails unnoticed.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Unwritten> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(Unwritten)
}

/// Prints what clap has to say: help and the version, or what is wrong with the arguments. Returns the exit status.
pub(super) fn usage(usage: &clap::Error) -> ExitCode {
    if usage.use_stderr() {
        // It repeats the arguments, which a script may have from others.
        complain(usage.render().to_string().trim_end());
    } else if let Err(error) = usage.print().and_then(|()| io::stdout().flush()) {
        return failure(&Unwritten(error).into());
    }
    ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
}

/// Says on stderr why the command failed; returns the exit status. When nobody reads the output any more (`… | head`),
/// that is no failure to speak of: it ends as the shell expects, without a word.
pub(super) fn failure(error: &anyhow::Error) -> ExitCode {
    let unwritten = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Unwritten>());
    if unwritten.is_some_and(|Unwritten(cause)| cause.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::from(READER_GONE);
    }
    complain(format_args!("error: {}", chain(error)));
    ExitCode::FAILURE
}

/// Writes a line to stderr, if it can be written: there is nowhere else to say so.
pub(super) fn complain(line: impl Display) {
    let line = line.to_string();
    let _ = io::stderr().write_all(format!("{}\n", text::visible(&line)).as_bytes());
}

/// Prints `value` as JSON. Serde escapes some of what steers a terminal, and [`line()`] the rest, in a way that JSON reads back: the
/// text is exactly what it was.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// A table whose first column is never broken (an id must be copied in one piece), and whose columns from
/// `numbers` on are numbers. Only a terminal's width breaks cells: what is piped has one line a row.
pub(super) struct Table(comfy_table::Table);

/// A table with these columns.
pub(super) fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING.header_separator(LineStyle::new('─', '─', '─', '─')));
    if table.is_tty() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if index == 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if index >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Table(table)
}

impl Table {
    /// A line break in a cell would look like a row.
    pub(super) fn add_row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells = cells.into_iter();
        self.0
            .add_row(cells.map(|cell| text::on_one_line(cell.as_ref()).into_owned()));
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who uses the command line, for the records.
pub(super) fn actor() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten();
    format!(
        "cli:{}",
        user.map_or_else(|| "unknown".to_owned(), |user| user.name)
    )
}

/// How a shell finds this program: by its name where that leads here, and by its path otherwise.
pub(super) fn program() -> String {
    const NAME: &str = "drift-retention";
    let Ok(own) = std::env::current_exe() else {
        return NAME.to_owned();
    };
    let is_own = |found: PathBuf| found.canonicalize().ok() == own.canonicalize().ok();
    if on_path(NAME).is_some_and(is_own) {
        return NAME.to_owned();
    }
    quoted(&own.display().to_string())
}

/// The program that a shell runs by this name.
#[expect(
    clippy::disallowed_methods,
    reason = "PATH is the shell's, and no setting of ours"
)]
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// A word of a shell's command line.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A progress bar over `length` steps; shown on a terminal only.
pub(super) fn progress(length: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64)
        .with_style(style)
        .with_message(what)
}

/// An error and its causes in one line.
pub(super) fn chain(error: &anyhow::Error) -> String {
    let error: &(dyn std::error::Error + 'static) = error.as_ref();
    crate::telemetry::logs::chain(error)
}

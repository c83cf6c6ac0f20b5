//! Formats and writes output: tables for people, JSON for programs, and an error with its causes on one line. A
//! failed write is an error, never a panic, and text from other people cannot control a terminal.

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
const READER_GONE_STATUS: u8 = 141;

/// Standard output cannot be written: the disk is full, or the reader has gone.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct StdoutError(#[source] io::Error);

/// Prints a line as `println!` does, but returns an error instead of a panic.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::line(&format!($($text)*))
    };
}
pub(super) use say;

/// Prints `line` with control characters escaped, and a line break.
pub(super) fn line(line: &str) -> Result<(), StdoutError> {
    bytes(format!("{}\n", text::visible(line)).as_bytes())
}

/// Prints `bytes` unescaped: they contain no text from other people. It flushes, because a failed write at the end of
/// the process would go unnoticed.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), StdoutError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(StdoutError)
}

/// Prints clap's output: the help, the version, or an error in the arguments. Returns the exit status.
pub(super) fn usage(usage: &clap::Error) -> ExitCode {
    if usage.use_stderr() {
        // The message repeats the arguments, which a script may take from other people.
        print_error(usage.render().to_string().trim_end());
    } else if let Err(error) = usage.print().and_then(|()| io::stdout().flush()) {
        return failure(&StdoutError(error).into());
    }
    ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
}

/// Prints to stderr why the command failed, and returns the exit status. If the reader of the output has gone (`… |
/// head`), it prints nothing and returns the status that a shell expects.
pub(super) fn failure(error: &anyhow::Error) -> ExitCode {
    let unwritten = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<StdoutError>());
    if unwritten.is_some_and(|StdoutError(cause)| cause.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::from(READER_GONE_STATUS);
    }
    print_error(format_args!("error: {}", chain(error)));
    ExitCode::FAILURE
}

/// Writes a line to stderr. A failure is ignored, because there is nowhere else to report it.
pub(super) fn print_error(line: impl Display) {
    let line = line.to_string();
    let _ = io::stderr().write_all(format!("{}\n", text::visible(&line)).as_bytes());
}

/// Prints `value` as JSON. Serde escapes some control characters and [`line()`] the others, both as JSON escapes, so
/// a parser restores the exact text.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// A table. Its first column is never wrapped, so that an id can be copied in one piece. Cells are wrapped only to
/// fit a terminal: piped output has one line per row.
pub(super) struct Table(comfy_table::Table);

/// A table with these columns. The columns from index `numbers` on hold numbers.
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

/// The user of the command line, as the records name them.
pub(super) fn actor() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten();
    format!(
        "cli:{}",
        user.map_or_else(|| "unknown".to_owned(), |user| user.name)
    )
}

/// How a shell calls this program: by its name if PATH leads to it, otherwise by its path.
pub(super) fn program() -> String {
    const NAME: &str = "drift-retention";
    let Ok(own) = std::env::current_exe() else {
        return NAME.to_owned();
    };
    let is_own = |found: PathBuf| found.canonicalize().ok() == own.canonicalize().ok();
    if find_on_path(NAME).is_some_and(is_own) {
        return NAME.to_owned();
    }
    quote(&own.display().to_string())
}

/// The program that a shell runs for this name.
#[expect(
    clippy::disallowed_methods,
    reason = "PATH belongs to the shell and is not a setting of ours"
)]
fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Quotes a word for a shell's command line.
pub(super) fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A progress bar over `length` steps. It appears only on a terminal.
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

//! How things look: tables for people, JSON for programs, ages, and errors as one chain.

use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Prints `value` as JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A table whose first column is never broken (an id must be copied in one piece), and whose columns from
/// `numbers` on are numbers. Only a terminal's width breaks cells: what is piped has one line a row.
pub(super) fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
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
    table
}

/// A number with its thousands apart: `1 204`.
pub(super) fn number(n: impl TryInto<i64>) -> String {
    let n = n.try_into().unwrap_or(i64::MAX);
    let digits = n.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    if n < 0 { format!("-{text}") } else { text }
}

/// How long ago `then` was, seen from `now`: `3 h ago`, `in 5 min`.
pub(super) fn age(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    let past = now - then;
    let length = past.abs();
    let text = if length < TimeDelta::seconds(1) {
        return "now".into();
    } else if length < TimeDelta::minutes(1) {
        format!("{} s", length.num_seconds())
    } else if length < TimeDelta::hours(1) {
        format!("{} min", length.num_minutes())
    } else if length < TimeDelta::days(2) {
        format!("{} h", length.num_hours())
    } else {
        format!("{} d", length.num_days())
    };
    if past < TimeDelta::zero() {
        format!("in {text}")
    } else {
        format!("{text} ago")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let shown: Vec<_> = [0, 12, 999, 1204, 1_000_000, -4321].map(number).into();
        assert_eq!(shown, ["0", "12", "999", "1 204", "1 000 000", "-4 321"]);
    }

    #[test]
    fn ages_are_rounded_down_to_one_unit() {
        let now = DateTime::from_timestamp(1_000_000_000, 0).unwrap();
        let ages =
            [0, 59, 60, 7199, 86_400, 172_800, -90].map(|s| age(now, now - TimeDelta::seconds(s)));
        assert_eq!(
            ages,
            [
                "now",
                "59 s ago",
                "1 min ago",
                "1 h ago",
                "24 h ago",
                "2 d ago",
                "in 1 min"
            ]
        );
    }
}

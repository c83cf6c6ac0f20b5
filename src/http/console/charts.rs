//! Charts as inline SVG. Each also has its figures as a table, for users who cannot see the chart.

use maud::{Markup, html};

use super::page;
use crate::humanize;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 10.0;

/// The arrangement of a column's series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    Stacked,
    SideBySide,
}

/// A column of a chart.
#[derive(Debug)]
pub(super) struct Column {
    /// The label of the column.
    pub name: String,
    /// The label in the table.
    pub href: Option<String>,
    /// One figure per series.
    pub values: Vec<i64>,
}

/// A chart of columns over time, its legend, and the same figures as a table.
pub(super) fn columns(title: &str, how: Columns, series: &[String], columns: &[Column]) -> Markup {
    let height = |values: &Vec<i64>| match how {
        Columns::Stacked => values.iter().sum(),
        Columns::SideBySide => values.iter().copied().max().unwrap_or(0),
    };
    let top = nice(
        columns
            .iter()
            .map(|column| height(&column.values))
            .max()
            .unwrap_or(0),
    );
    html! {
        ul.legend { @for (index, name) in series.iter().enumerate() { li { span class={ "key s" (index) } {} (name) } } }
        div.scroll.latest role="region" aria-label={ (title) ", chart" } tabindex="0" {
            svg.chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(title) {
                (grid(top))
                @for (index, column) in columns.iter().enumerate() { (bars(how, index, columns.len(), column, series, top)) }
            }
        }
        details {
            summary { "As a table" }
            (page::table(title, &html! {
                thead { tr { th scope="col" { "From" } @for name in series { th.number scope="col" { (name) } } } }
                tbody { @for column in columns {
                    tr {
                        th scope="row" { @match &column.href {
                            Some(href) => { a href=(href) { (column.name) } } None => { (column.name) }
                        } }
                        @for value in &column.values { td.number { (humanize::number(*value)) } }
                    }
                } }
            }))
        }
    }
}

/// Horizontal lines at round figures.
fn grid(top: i64) -> Markup {
    html! {
        @for step in 0..=2 {
            @let value = top * step / 2;
            @let y = y_of(value, top);
            line.grid x1=(LEFT) x2=(WIDTH) y1=(y) y2=(y) {}
            text.axis x=(LEFT - 8.0) y=(y + 4.0) text-anchor="end" { (humanize::number(value)) }
        }
    }
}

fn bars(
    how: Columns,
    index: usize,
    count: usize,
    column: &Column,
    series: &[String],
    top: i64,
) -> Markup {
    let slot = (WIDTH - LEFT) / real(count);
    let left = LEFT + slot * real(index) + slot * 0.15;
    let width = slot * 0.7;
    let Column { name, values, .. } = column;
    html! {
        @for (nth, value) in values.iter().enumerate() {
            @let (x, base, width): (f64, i64, f64) = match how {
                Columns::Stacked => (left, values[..nth].iter().sum(), width),
                Columns::SideBySide => (left + width / real(values.len()) * real(nth), 0, width / real(values.len()) * 0.92),
            };
            @let y = y_of(base + value, top);
            rect class={ "s" (nth) } x=(fixed(x)) y=(fixed(y)) width=(fixed(width)) height=(fixed(y_of(base, top) - y)) {
                title { (name) ": " (humanize::number(*value)) " " (series[nth]) }
            }
        }
        // Show every other name if all of them would overlap.
        @if count <= 7 || (count - index) % 2 == 1 {
            text.axis x=(fixed(left + width / 2.0)) y=(HEIGHT - 6.0) text-anchor="middle" { (name) }
        }
    }
}

/// Figures by name, as rows with a bar each. A name may be a link.
pub(super) fn rows(title: &str, what: &str, rows: &[(Markup, i64)]) -> Markup {
    let most = rows
        .iter()
        .map(|(_, value)| *value)
        .max()
        .unwrap_or(0)
        .max(1);
    html! {
        @if rows.is_empty() { p.empty { "None." } } @else {
            table.bars {
                caption.hidden { (title) }
                thead.hidden { tr { th scope="col" { (what) } th scope="col" { "Count" } th { "Bar" } } }
                tbody { @for (name, value) in rows {
                    tr {
                        th scope="row" { (name) }
                        td.number { (humanize::number(*value)) }
                        td.bar aria-hidden="true" {
                            svg viewBox="0 0 100 8" preserveAspectRatio="none" {
                                rect.s0 width=(fixed(real_of(*value) * 100.0 / real_of(most))) height="8" {}
                            }
                        }
                    }
                } }
            }
        }
    }
}

/// A round, even figure at or above `most`: 1, 2 or 5 followed by zeros.
fn nice(most: i64) -> i64 {
    let mut unit: i64 = 1;
    while unit < i64::MAX / 100 {
        for step in [2, 4, 10] {
            if unit * step >= most {
                return unit * step;
            }
        }
        unit *= 10;
    }
    i64::MAX / 100
}

fn y_of(value: i64, top: i64) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * real_of(value) / real_of(top)
}

fn fixed(length: f64) -> String {
    format!("{length:.1}")
}

#[allow(clippy::cast_precision_loss, reason = "a pixel is coarser")]
fn real_of(value: i64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss, reason = "a handful")]
fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_even_figure_at_or_above_the_highest_bar() {
        let tops = [0, 1, 2, 3, 7, 10, 11, 39, 100, 12_345].map(nice);
        assert_eq!(tops, [2, 2, 2, 4, 10, 10, 20, 40, 100, 20_000]);
    }
}

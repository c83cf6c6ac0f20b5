//! Plots as SVG, written by hand: bars with their range, and lines. Readable on light and on dark pages.

use std::fmt::Write as _;

use crate::measures::{Series, number};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 300.0;
/// Told apart by lightness too.
const COLOURS: [&str; 8] = [
    "#3b76d6", "#e08a2e", "#2f9e6b", "#a05fd0", "#c8506a", "#7a8794", "#1f9bb5", "#9c8a1f",
];
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}\
.page{fill:#ffffff}.grid{stroke:#d0d7de}.axis,.range{stroke:#57606a}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.grid{stroke:#30363d}.axis,.range{stroke:#9198a1}}";

/// A plot: its file's name, and what is drawn.
pub(crate) struct Plot {
    /// Without the ending.
    pub(crate) file: String,
    /// Also its text where pictures cannot be seen.
    pub(crate) title: String,
    /// With its unit.
    pub(crate) y: String,
    /// What is drawn.
    pub(crate) kind: Kind,
}

/// What is drawn.
pub(crate) enum Kind {
    /// Groups of bars: in each, the same names with what the rounds measured.
    Bars(Vec<(String, Vec<(String, Series)>)>),
    /// Lines over a titled axis, by twos where `doubling`: name and points.
    Lines {
        x: String,
        doubling: bool,
        lines: Vec<(String, Vec<(f64, f64)>)>,
    },
}

impl Plot {
    /// The whole file.
    pub(crate) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{0}\"><title>{0}</title><style>{STYLE}</style>\
             <rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n",
            escaped(&self.title)
        );
        text(&mut svg, LEFT, 24.0, "start", "title", &self.title);
        text(&mut svg, 8.0, TOP - 12.0, "start", "", &self.y);
        let top = nice_top(self.greatest());
        for step in 0..=4 {
            let value = top * f64::from(step) / 4.0;
            let y = height(value, top);
            let class = if step == 0 { "axis" } else { "grid" };
            let _ = writeln!(
                svg,
                "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
            text(&mut svg, LEFT - 6.0, y + 4.0, "end", "", &tick(value));
        }
        let names = match &self.kind {
            Kind::Bars(groups) => bars(&mut svg, groups, top),
            Kind::Lines { x, doubling, lines } => draw_lines(&mut svg, x, *doubling, lines, top),
        };
        legend(&mut svg, &names);
        svg + "</svg>\n"
    }

    fn greatest(&self) -> f64 {
        let all: Vec<f64> = match &self.kind {
            Kind::Bars(groups) => {
                let bars = groups.iter().flat_map(|(_, bars)| bars);
                bars.map(|(_, series)| series.max()).collect()
            }
            Kind::Lines { lines, .. } => {
                let points = lines.iter().flat_map(|(_, points)| points);
                points.map(|(_, y)| *y).collect()
            }
        };
        all.into_iter()
            .filter(|y| y.is_finite())
            .fold(0.0, f64::max)
    }
}

fn bars(svg: &mut String, groups: &[(String, Vec<(String, Series)>)], top: f64) -> Vec<String> {
    let slot = (RIGHT - LEFT) / place(groups.len().max(1));
    let mut names: Vec<String> = Vec::new();
    for (index, (group, bars)) in groups.iter().enumerate() {
        let left = LEFT + slot * place(index);
        let width = (slot * 0.8 / place(bars.len().max(1))).min(72.0);
        let start = left + (slot - width * place(bars.len())) / 2.0;
        for (nth, (name, series)) in bars.iter().enumerate() {
            let colour = names
                .iter()
                .position(|known| known == name)
                .unwrap_or_else(|| {
                    names.push(name.clone());
                    names.len() - 1
                });
            let (x, y) = (start + width * place(nth), height(series.median(), top));
            let (middle, high, low) = (
                x + width / 2.0,
                height(series.max(), top),
                height(series.min(), top),
            );
            let _ = writeln!(
                svg,
                "<rect fill=\"{}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
                 <line class=\"range\" x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{high:.1}\" y2=\"{low:.1}\"/>",
                COLOURS[colour % COLOURS.len()],
                x + 2.0,
                width - 4.0,
                BOTTOM - y,
            );
            text(
                svg,
                middle,
                high - 6.0,
                "middle",
                "",
                &number(series.median()),
            );
        }
        text(svg, left + slot / 2.0, BOTTOM + 18.0, "middle", "", group);
    }
    names
}

fn draw_lines(
    svg: &mut String,
    title: &str,
    doubling: bool,
    lines: &[(String, Vec<(f64, f64)>)],
    top: f64,
) -> Vec<String> {
    let scaled = |x: f64| if doubling { x.log2() } else { x };
    let mut xs: Vec<f64> = lines
        .iter()
        .flat_map(|(_, points)| points)
        .map(|(x, _)| *x)
        .collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let first = xs.first().copied().unwrap_or(0.0);
    let last = xs.last().copied().unwrap_or(1.0);
    let span = (scaled(last) - scaled(first)).max(f64::EPSILON);
    let across = |x: f64| LEFT + 20.0 + (scaled(x) - scaled(first)) / span * (RIGHT - LEFT - 40.0);
    let ticks: Vec<f64> = if xs.len() <= 8 {
        xs
    } else {
        let fifths = (0..=5).map(|n| first + (last - first) * f64::from(n) / 5.0);
        // A night has no fifths, and a second needs none.
        fifths
            .map(|x| if last - first > 10.0 { x.round() } else { x })
            .collect()
    };
    for x in ticks {
        text(svg, across(x), BOTTOM + 18.0, "middle", "", &tick(x));
    }
    text(
        svg,
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 38.0,
        "middle",
        "",
        title,
    );
    for (index, (_, points)) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<String> = points
            .iter()
            .filter(|(_, y)| y.is_finite())
            .map(|(x, y)| format!("{:.1},{:.1}", across(*x), height(*y, top)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            path.join(" ")
        );
        for point in path.iter().filter(|_| path.len() <= 40) {
            let (x, y) = point.split_once(',').unwrap_or_default();
            let _ = writeln!(
                svg,
                "<circle fill=\"{colour}\" r=\"3\" cx=\"{x}\" cy=\"{y}\"/>"
            );
        }
    }
    lines.iter().map(|(name, _)| name.clone()).collect()
}

/// The names with their colours, in one line below.
fn legend(svg: &mut String, names: &[String]) {
    let mut x = LEFT;
    for (index, name) in names.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<rect fill=\"{colour}\" x=\"{x:.0}\" y=\"{:.0}\" width=\"10\" height=\"10\"/>",
            HEIGHT - 17.0
        );
        text(svg, x + 14.0, HEIGHT - 8.0, "start", "", name);
        x += 30.0 + 6.9 * place(name.chars().count());
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
    let text = escaped(text);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

fn height(value: f64, top: f64) -> f64 {
    BOTTOM - value / top * (BOTTOM - TOP)
}

/// The next number whose quarters are short.
fn nice_top(greatest: f64) -> f64 {
    let greatest = if greatest > 0.0 { greatest * 1.05 } else { 1.0 };
    let power = 10_f64.powf(greatest.log10().floor());
    [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|top| *top >= greatest)
        .unwrap_or(greatest)
}

/// A number at an axis: no more decimals than it needs.
fn tick(value: f64) -> String {
    let shown = number(value);
    match shown.split_once('.') {
        Some((whole, rest)) if rest.chars().all(|digit| digit == '0') => whole.to_owned(),
        Some(_) => shown.trim_end_matches('0').to_owned(),
        None => shown,
    }
}

fn place(index: usize) -> f64 {
    crate::measures::float(index as u64)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

//! Dashboards, alerts and their documents, read from the files that are shipped.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

pub const README: &str = include_str!("../../../README.md");
pub const METRICS: &str = include_str!("../../../docs/metrics.md");
pub const RUNBOOK: &str = include_str!("../../../docs/runbook.md");
pub const ALERTS: &str = include_str!("../../../dashboards/alerts/rules.yaml");
const CASES: &str = include_str!("../../../dashboards/alerts/rules.test.yaml");

/// Stands for an id where a document says `ORG_ID`.
pub const ANY_ID: &str = "3ef1152b-0c70-46d4-81a7-da174a0d5703";

/// One dashboard.
pub struct Dashboard {
    pub file: String,
    pub json: Value,
}

/// Every dashboard there is.
pub fn dashboards() -> Vec<Dashboard> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/grafana");
    let entries = fs::read_dir(directory).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            Dashboard {
                file: path.file_name().unwrap().to_str().unwrap().to_owned(),
                json: serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap(),
            }
        })
        .collect();
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

/// Its panels; rows are only headings.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = dashboard["panels"].as_array().unwrap();
    all.iter().filter(|panel| panel["type"] != "row").collect()
}

/// One alert of the rules.
#[derive(Debug, Default)]
pub struct Alert {
    pub name: String,
    pub expr: String,
    pub severity: String,
    pub summary: String,
    pub description: String,
    pub runbook_url: String,
}

/// Every alert, read line by line: promtool reads the file as YAML.
pub fn alerts() -> Vec<Alert> {
    ALERTS
        .split("- alert: ")
        .skip(1)
        .map(|text| {
            let value = |key: &str| {
                let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
                line.unwrap_or_default().trim().to_owned()
            };
            let expr = text.split_once("expr:").unwrap().1;
            Alert {
                name: text.lines().next().unwrap().to_owned(),
                expr: expr.split("labels:").next().unwrap().to_owned(),
                severity: value("severity:"),
                summary: value("summary:"),
                description: value("description:"),
                runbook_url: value("runbook_url:"),
            }
        })
        .collect()
}

/// The test cases of an alert: whether it is to fire.
pub fn cases(alert: &str) -> Vec<bool> {
    let cases = CASES.split("- eval_time:").skip(1);
    let of_alert = cases.filter(|case| {
        let name = case
            .lines()
            .find_map(|l| l.trim().strip_prefix("alertname: "));
        name == Some(alert)
    });
    of_alert.map(|case| case.contains("exp_alerts:")).collect()
}

/// Every name in a text that one of our metrics could have.
pub fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = words.filter(|word| {
        // Database roles and tables have other names.
        word.starts_with("drift_retention_") || word.starts_with("process_")
    });
    ours.map(str::to_owned).collect()
}

/// The names of the labels in a line of `/metrics`.
pub fn labels(series: &str) -> Vec<String> {
    let Some((_, labels)) = series.split_once('{') else {
        return Vec::new();
    };
    let labels = labels.split_once('}').unwrap().0.split(',');
    labels
        .map(|label| label.split_once('=').unwrap().0.to_owned())
        .collect()
}

/// A text in which every call of a macro is what `with` makes of its arguments.
pub fn expanded(text: &str, call: &str, with: impl Fn(&str) -> String) -> String {
    let mut parts = text.split(call);
    let mut done = parts.next().unwrap().to_owned();
    for part in parts {
        let (arguments, rest) = part.split_once(')').unwrap();
        done += &with(arguments);
        done += rest;
    }
    done
}

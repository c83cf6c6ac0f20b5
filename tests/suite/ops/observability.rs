//! Metrics, their document, the dashboards, the alerts and the runbook speak of the same things. That panels show
//! something and that alerts fire is for `make check-dashboards`.

use std::collections::{BTreeMap, BTreeSet};

use drift_retention::{purge::metric_labels, telemetry::metrics::Metrics as Declared};
use serde_json::Value;

use crate::support::{
    TestDatabase,
    app::App,
    product, roles,
    watching::{
        self, ALERTS, Dashboard, METRICS, README, RUNBOOK, alerts, dashboards, metric_names, panels,
    },
};

/// Every metric of a process: its type, and the names of its labels in order.
fn declared() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = Declared::new(&metric_labels()).unwrap().render().unwrap();
    let types = page.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name.to_owned(), kind.to_owned()))
    });
    types
        .map(|(name, kind)| {
            let series = page.lines().filter(|line| line.starts_with(&name));
            let labels = series.flat_map(watching::labels).filter(|l| l != "le");
            let labels = labels.collect();
            (name, (kind, labels))
        })
        .collect()
}

/// The document's table: the cells after a metric's name.
fn documented() -> BTreeMap<String, Vec<String>> {
    let rows = METRICS
        .lines()
        .filter(|line| line.starts_with("| `drift_retention_") || line.starts_with("| `process_"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        (name, cells[1..].iter().map(ToString::to_string).collect())
    })
    .collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn listed(cell: &str) -> BTreeSet<String> {
    let names = cell.split(',').map(str::trim);
    names.filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

#[test]
fn document_lists_every_metric_with_its_type_and_labels() {
    let (declared, documented) = (declared(), documented());
    assert_eq!(
        declared.keys().collect::<Vec<_>>(),
        documented.keys().collect::<Vec<_>>()
    );
    for (name, (kind, labels)) in declared {
        let cells = &documented[&name];
        assert_eq!(cells[0].split(',').next(), Some(&*kind), "{name}");
        assert_eq!(quoted(&cells[1]), labels, "{name}");
        assert!(!cells[2].is_empty(), "{name} has no meaning");
    }
}

#[test]
fn readme_names_only_metrics_that_there_are() {
    let declared = declared();
    let named = metric_names(README);
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        assert!(declared.contains_key(&name), "{name}");
    }
}

#[test]
fn no_metric_has_a_label_that_could_name_an_organization() {
    for (name, (_, labels)) in declared() {
        for label in labels {
            assert!(
                [
                    "table", "plan", "outcome", "trigger", "status", "state", "version", "reason",
                    "limit"
                ]
                .contains(&&*label),
                "{name} has the label {label}: say here that it is bounded, and no organization"
            );
        }
    }
}

#[test]
fn document_says_which_dashboard_and_alert_uses_a_metric() {
    let declared = declared();
    let mut used: BTreeMap<String, [BTreeSet<String>; 2]> = BTreeMap::new();
    let mut note = |text: &str, place: usize, by: &str| {
        for name in metric_names(text) {
            let histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|base| declared.contains_key(*base));
            let name = histogram.unwrap_or(&name);
            assert!(
                declared.contains_key(name),
                "{by}: {name} is no metric of ours"
            );
            used.entry(name.to_owned()).or_default()[place].insert(by.to_owned());
        }
    };
    for dashboard in dashboards() {
        let title = dashboard.json["title"].as_str().unwrap().to_owned();
        for panel in panels(&dashboard.json) {
            for target in panel["targets"].as_array().unwrap() {
                note(target["expr"].as_str().unwrap_or(""), 0, &title);
            }
        }
    }
    for alert in alerts() {
        note(&alert.expr, 1, &alert.name);
    }
    for (name, cells) in documented() {
        let by = used.remove(&name).unwrap_or_default();
        assert_eq!(listed(&cells[3]), by[0], "dashboards that use {name}");
        assert_eq!(listed(&cells[4]), by[1], "alerts that use {name}");
    }
}

#[test]
fn dashboard_is_read_only_and_takes_everything_from_the_datasource_that_is_chosen() {
    let mut uids = BTreeSet::new();
    for Dashboard { file, json } in dashboards() {
        assert_eq!(json["editable"], false, "{file}");
        assert!(
            uids.insert(json["uid"].as_str().unwrap().to_owned()),
            "{file}"
        );
        assert_eq!(
            json["id"],
            Value::Null,
            "{file}: an id belongs to one Grafana"
        );
        let variables = json["templating"]["list"].as_array().unwrap();
        let chosen: Vec<_> = variables
            .iter()
            .filter(|v| v["type"] == "datasource")
            .collect();
        assert_eq!(chosen.len(), 1, "{file}");
        assert_eq!(chosen[0]["name"], "datasource", "{file}");
        let expected = serde_json::json!({"type": chosen[0]["query"], "uid": "${datasource}"});
        let mut ids = BTreeSet::new();
        for panel in panels(&json) {
            let what = format!("{file}: {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_i64().unwrap()), "{what}");
            assert_eq!(panel["datasource"], expected, "{what}");
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{what}");
            for target in targets {
                assert_eq!(target["datasource"], expected, "{what}");
            }
        }
    }
    assert_eq!(uids.len(), 3);
}

#[test]
fn panel_says_what_it_shows_and_in_which_unit() {
    for Dashboard { file, json } in dashboards() {
        let mut titles = BTreeSet::new();
        for panel in panels(&json) {
            let title = panel["title"].as_str().unwrap();
            assert!(titles.insert(title), "{file}: {title:?} twice");
            for text in [
                title,
                panel["description"].as_str().unwrap(),
                panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap(),
            ] {
                assert!(!text.trim().is_empty(), "{file}: {title:?}");
            }
        }
    }
}

#[test]
fn counter_is_only_read_as_a_rate_over_the_interval_that_fits() {
    let declared = declared();
    for Dashboard { file, json } in dashboards() {
        for panel in panels(&json) {
            for target in panel["targets"].as_array().unwrap() {
                let expr = target["expr"].as_str().unwrap_or("");
                for name in metric_names(expr) {
                    let gauge = declared.get(&name).is_some_and(|(kind, _)| kind == "gauge");
                    for (at, _) in expr.match_indices(&name).filter(|_| !gauge) {
                        let rate = ["rate(", "increase("]
                            .iter()
                            .any(|f| expr[..at].ends_with(f));
                        let rest = &expr[at + name.len()..];
                        let range = rest
                            .split_once('[')
                            .is_some_and(|(_, range)| range.starts_with("$__rate_interval]"));
                        assert!(rate && range, "{file}: {expr}");
                    }
                }
            }
        }
    }
}

#[test]
fn alert_says_what_is_wrong_and_leads_to_its_section_of_the_runbook() {
    let alerts = alerts();
    assert_eq!(alerts.len(), 7);
    for alert in &alerts {
        let name = &alert.name;
        let (heading, anchor) = (format!("## {name}\n"), name.to_lowercase());
        assert!(
            !alert.summary.is_empty() && !alert.description.is_empty(),
            "{name}"
        );
        assert!(
            ["critical", "warning"].contains(&&*alert.severity),
            "{name}"
        );
        assert_eq!(alert.runbook_url, format!("docs/runbook.md#{anchor}"));
        let section = RUNBOOK.split(&heading).nth(1).expect(name);
        let section = section.split("\n## ").next().unwrap();
        for part in [
            "**What it means.**",
            "**What to look at.**",
            "**What to do.**",
        ] {
            assert_eq!(section.matches(part).count(), 1, "{name}: {part}");
        }
    }
    assert_eq!(
        RUNBOOK.matches("\n## ").count(),
        alerts.len(),
        "no section without an alert"
    );
}

#[test]
fn alert_is_tested_where_it_fires_and_where_it_does_not() {
    for alert in alerts() {
        let cases = watching::cases(&alert.name);
        assert!(cases.contains(&true), "{}: where it fires", alert.name);
        assert!(cases.contains(&false), "{}: where it does not", alert.name);
    }
}

#[tokio::test]
async fn command_of_the_runbook_is_one_of_ours() {
    let mut commands = BTreeSet::new();
    for (at, name) in RUNBOOK.match_indices("drift-retention ") {
        // Where it stands alone on its line, or between backticks; not where prose speaks of it.
        if !RUNBOOK[..at].ends_with(['\n', '`']) {
            continue;
        }
        let rest = &RUNBOOK[at + name.len()..];
        commands.insert(rest.split(['\n', '`', '|']).next().unwrap().trim());
    }
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let line = command
            .replace("ORG_ID", watching::ANY_ID)
            .replace("RUN_ID", watching::ANY_ID);
        // A reason of several words is one argument. --help ends it before anything is done, but after what
        // stands before it was understood.
        let words = line
            .split('"')
            .enumerate()
            .flat_map(|(at, part)| match at % 2 {
                0 => part.split_whitespace().collect(),
                _ => vec![part],
            });
        let arguments: Vec<_> = words.chain(["--help"]).collect();
        let shown = product::run("", &arguments).await;
        assert!(shown.status.success(), "{command}: {shown:?}");
    }
}

/// A dashboard's SQL as Grafana would send it.
fn as_sent(sql: &str) -> String {
    let sql = sql.replace("${organization:sqlstring}", "'Org on pro'");
    let sql = watching::expanded(&sql, "$__timeFilter(", |column| {
        format!("{column} BETWEEN now() - interval '1 hour' AND now() + interval '1 hour'")
    });
    let sql = watching::expanded(&sql, "$__timeGroupAlias(", |arguments| {
        let (column, _) = arguments.split_once(", $__interval").unwrap();
        format!("floor(extract(epoch FROM {column}) / 60) * 60 AS \"time\"")
    });
    assert!(!sql.contains('$'), "an unknown macro: {sql}");
    sql
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "the dashboards' own SQL")]
async fn sql_of_the_dashboard_runs_for_its_reader_who_may_read_nothing_else() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(11).await;
    app.org_with_expired(11).await;
    product::purge(&db.url, org).await;
    db.execute(&format!(
        "INSERT INTO retention.operator_actions (actor, action, org_id, reason) VALUES ('oda', 'replay', '{org}', 'why')"
    ))
    .await;
    roles::apply(&db).await;
    let reader = roles::pool_of(&roles::user_in(&db, "drift_retention_reader").await);

    let mut statements = 0;
    for Dashboard { file, json } in dashboards() {
        for panel in panels(&json) {
            for target in panel["targets"].as_array().unwrap() {
                let Some(sql) = target["rawSql"].as_str() else {
                    continue;
                };
                let rows = sqlx::query(sqlx::AssertSqlSafe(as_sent(sql)))
                    .fetch_all(&reader)
                    .await;
                let rows = rows.unwrap_or_else(|error| panic!("{file}: {error}: {sql}"));
                assert!(!rows.is_empty(), "{file}: {sql}");
                statements += 1;
            }
        }
    }
    assert!(statements > 5, "{statements}");
    roles::assert_refused(
        &reader,
        &[
            "SELECT payload_json FROM incident_payloads",
            "SELECT created_at FROM organizations",
            "SELECT * FROM drift_checks",
            "SELECT * FROM retention.console_sessions",
            "DELETE FROM retention.purge_runs",
            "SELECT retention.enqueue_purge(gen_random_uuid(), 'grafana')",
        ],
    )
    .await;
}

#[test]
fn alerts_file_is_read_as_it_is_written() {
    assert_eq!(ALERTS.matches("- alert: ").count(), alerts().len());
}

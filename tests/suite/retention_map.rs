//! `docs/retention-map.md` says what the code does: its tables are held to the plans, the datasets and the schema.

use drift_retention::{
    purge::datasets::{DATASETS, tables},
    retention::{Plan, Window},
};

use crate::support::TestDatabase;

const MAP: &str = include_str!("../../docs/retention-map.md");

/// The rows of the table that stands under a heading, cell by cell.
fn table_under(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = MAP.split_once(heading).unwrap();
    section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// What stands as code in a cell.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[tokio::test]
async fn documented_tables_and_clock_columns_are_those_of_the_datasets_and_the_schema() {
    let db = TestDatabase::new().await;
    let mut purged = Vec::new();
    for row in table_under("## From entity to rule") {
        let [_, names, clock, what, window] = row[..] else {
            panic!("{row:?}");
        };
        for table in code(names) {
            let exists = format!("SELECT to_regclass('public.{table}') IS NOT NULL");
            assert!(db.value::<bool>(&exists).await, "{table}");
            // Whose clock it is where it is another row's.
            let owner = match clock.split_once("'s `") {
                Some((whose, _)) if whose.ends_with("check") => "drift_checks",
                Some((whose, _)) if whose.ends_with("incident") => "incidents",
                Some(_) => panic!("{clock}"),
                None => table,
            };
            for column in code(clock) {
                let is_time = format!(
                    "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public'
                     AND (table_name, column_name) = ('{owner}', '{column}')
                     AND data_type = 'timestamp with time zone'"
                );
                assert_eq!(db.value::<i64>(&is_time).await, 1, "{owner}.{column}");
                purged.push((table, window, column));
            }
        }
        if window == "–" {
            assert!(what.starts_with("never"), "{row:?}");
        }
    }

    let by_code: Vec<&str> = tables().collect();
    let named: Vec<&str> = purged.iter().map(|(table, ..)| *table).collect();
    assert_eq!(named, by_code, "the tables that lose rows, in their order");
    // One kind of data has one window and one clock.
    for dataset in DATASETS {
        let of_dataset = purged
            .iter()
            .filter(|(table, ..)| dataset.tables().contains(table))
            .map(|(_, window, column)| (*window, *column));
        let of_dataset: std::collections::BTreeSet<_> = of_dataset.collect();
        assert_eq!(of_dataset.len(), 1, "{of_dataset:?}");
    }
}

/// What a cell of the table of windows says.
fn cell(window: Option<Window>) -> String {
    window.map_or("no rule".into(), |window| {
        format!("{} days", window.in_days())
    })
}

#[test]
fn documented_windows_are_those_of_the_plans() {
    let rows = table_under("## Windows by plan");
    assert_eq!(rows.len(), Plan::ALL.len());
    for (row, plan) in rows.iter().zip(Plan::ALL) {
        let [names, checks, open, payloads, approvals] = row[..] else {
            panic!("{row:?}");
        };
        let policy = plan.policy();
        for name in code(names) {
            assert_eq!(name.parse::<Plan>().ok(), Some(plan), "{name}");
        }
        assert!(names.starts_with(&format!("`{}`", plan.name())), "{names}");
        assert_eq!(checks, cell(policy.drift_checks), "{names}");
        assert_eq!(payloads, cell(policy.incident_payloads), "{names}");
        assert_eq!(approvals, cell(policy.approvals), "{names}");
        // Only closed incidents have a window at all.
        let never = if policy.incident_payloads.is_some() {
            "never"
        } else {
            "no rule"
        };
        assert_eq!(open, never, "{names}");
    }
}

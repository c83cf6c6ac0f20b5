//! `docs/retention-map.md` says what the code does: its tables are held to the plans, the datasets and the schema.

use drift_retention::{
    purge::datasets::{DATASETS, tables},
    retention::{DatasetName, Plan, Window},
};

use uuid::Uuid;

use crate::support::{TestDatabase, app::App, product, runs};

const MAP: &str = include_str!("../../../docs/retention-map.md");

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
        assert_eq!(
            checks,
            cell(policy.get(DatasetName::DriftChecks).copied()),
            "{names}"
        );
        assert_eq!(
            payloads,
            cell(policy.get(DatasetName::IncidentPayloads).copied()),
            "{names}"
        );
        assert_eq!(
            approvals,
            cell(policy.get(DatasetName::Approvals).copied()),
            "{names}"
        );
        // Only closed incidents have a window at all.
        let never = if policy.get(DatasetName::IncidentPayloads).is_some() {
            "never"
        } else {
            "no rule"
        };
        assert_eq!(open, never, "{names}");
    }
}

/// The main app's usual trigger, on every update.
const USUAL: &str = "
    CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;
    CREATE TRIGGER set_updated_at BEFORE UPDATE ON incidents FOR EACH ROW EXECUTE FUNCTION set_updated_at()";

/// The examples of SQL under a heading.
fn sql_under(heading: &str) -> Vec<&'static str> {
    let (_, section) = MAP.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

/// An incident that is to be stamped, as the main app last left it: long ago.
async fn old_incident(db: &TestDatabase) -> (Uuid, Uuid) {
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let incident = app.incident(org, env, "closed", Some("200 days")).await;
    app.payload(incident).await;
    db.execute(&format!(
        "BEGIN; ALTER TABLE incidents DISABLE TRIGGER USER;
         UPDATE incidents SET updated_at = '2024-01-02' WHERE id = '{incident}';
         ALTER TABLE incidents ENABLE TRIGGER USER; COMMIT"
    ))
    .await;
    (org, incident)
}

async fn is_stamped_and_keeps_updated_at(db: &TestDatabase, incident: Uuid) -> (bool, bool) {
    let sql = format!(
        "SELECT ARRAY[payload_purged_at IS NOT NULL, updated_at = '2024-01-02'] FROM incidents WHERE id = '{incident}'"
    );
    let found: Vec<bool> = db.value(&sql).await;
    (found[0], found[1])
}

#[tokio::test]
async fn documented_trigger_leaves_updated_at_of_stamped_incidents_as_it_was() {
    let db = TestDatabase::new().await;
    db.execute(USUAL).await;
    let (org, incident) = old_incident(&db).await;
    product::purge(&db.url, org).await;
    let usual = is_stamped_and_keeps_updated_at(&db, incident).await;
    assert_eq!(usual, (true, false), "what is documented does not happen");

    let examples = sql_under("## An `updated_at` trigger");
    assert_eq!(examples.len(), 2);
    db.execute(examples[0]).await;
    let (org, incident) = old_incident(&db).await;
    product::purge(&db.url, org).await;
    let exempt = is_stamped_and_keeps_updated_at(&db, incident).await;
    assert_eq!(exempt, (true, true));
    // What the main app writes changes it as before.
    db.execute("UPDATE incidents SET owner = 'kim'").await;
    let kept = "SELECT count(*) FROM incidents WHERE updated_at = '2024-01-02'";
    assert_eq!(db.value::<i64>(kept).await, 0);
    assert_eq!(runs::counts(&db, org).await, [0, 0, 0, 0]);
}

/// The payload in a column: the function empties it by an update of its own.
#[tokio::test]
async fn documented_trigger_passes_over_a_payload_that_is_emptied_in_its_column() {
    let db = TestDatabase::new().await;
    db.execute(USUAL).await;
    db.execute(
        "ALTER TABLE incidents ADD drift_summary jsonb;
         DROP VIEW main_app.incident_payloads;
         CREATE VIEW main_app.incident_payloads AS
             SELECT i.id AS incident_id, i.drift_summary AS payload_json, i.created_at
             FROM public.incidents i WHERE i.drift_summary IS NOT NULL;
         CREATE OR REPLACE FUNCTION main_app.erase_payloads(incident_ids uuid[]) RETURNS bigint
         LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
         DECLARE erased bigint;
         BEGIN
             UPDATE public.incidents i SET drift_summary = NULL
             WHERE i.id = ANY (erase_payloads.incident_ids) AND i.drift_summary IS NOT NULL;
             GET DIAGNOSTICS erased = ROW_COUNT;
             RETURN erased;
         END $$;
         DROP TABLE incident_payloads",
    )
    .await;
    db.execute(sql_under("## An `updated_at` trigger")[1]).await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let incident = app.incident(org, env, "closed", Some("200 days")).await;
    db.execute(
        "BEGIN; ALTER TABLE incidents DISABLE TRIGGER USER;
         UPDATE incidents SET updated_at = '2024-01-02', drift_summary = '{}';
         ALTER TABLE incidents ENABLE TRIGGER USER; COMMIT",
    )
    .await;
    product::purge(&db.url, org).await;
    let exempt = is_stamped_and_keeps_updated_at(&db, incident).await;
    assert_eq!(exempt, (true, true));
    let left = "SELECT count(*) FROM incidents WHERE drift_summary IS NOT NULL";
    assert_eq!(db.value::<i64>(left).await, 0);
}

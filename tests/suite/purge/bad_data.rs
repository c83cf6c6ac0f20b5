//! Data as nobody meant it, purged by the binary and by a naive model of the rules: both leave the same rows, with
//! the same columns, and the records, and the preview before, name the same counts.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use proptest::{
    strategy::{BoxedStrategy, Strategy, ValueTree},
    test_runner::{Config, RngSeed, TestRunner},
};

use tokio::time::{sleep, timeout};

use crate::support::{
    TestDatabase,
    model::{self, Case, Clock, Expected, Found, Org, Preview, Record, Rows},
    product::Service,
};

/// How many organizations, unless `PROPTEST_CASES` says otherwise; each is a case.
const CASES: u32 = 10_000;
/// Where random starts, unless `PROPTEST_RNG_SEED` says otherwise: the same cases every time.
const SEED: u64 = 20_261_123;
/// How many share one database.
const PER_ROUND: u32 = 500;
/// Batch sizes of the rounds, in turn; none: the worker's own.
const BATCHES: [Option<&str>; 6] = [None, Some("3"), None, Some("17"), None, Some("1")];
/// How often a failing case is made simpler.
const SIMPLER: u64 = 1_000;

type Tree = <BoxedStrategy<Org> as Strategy>::Tree;

/// What went and what was kept, by table: whether the cases were worth it.
type Tally = BTreeMap<String, [usize; 2]>;

#[allow(
    clippy::disallowed_methods,
    reason = "whoever runs the test asks for more cases by the environment"
)]
fn runner() -> TestRunner {
    let given = Config::default();
    let seed = match given.rng_seed {
        RngSeed::Random => RngSeed::Fixed(SEED),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    let cases = std::env::var("PROPTEST_CASES").map_or(CASES, |_| given.cases);
    TestRunner::new(Config {
        cases,
        rng_seed: seed,
        failure_persistence: None,
        ..given
    })
}

fn worker(db: &TestDatabase, batch: Option<&str>) -> Service {
    let mut env = vec![
        ("RUST_LOG", "off"),
        ("DRIFT_RETENTION_WORKER__CONCURRENCY", "4"),
    ];
    env.extend(batch.map(|rows| ("DRIFT_RETENTION_PURGE__BATCH_SIZE", rows)));
    // Thousands of lines of runs that went well, and of plans that are unknown on purpose, would hide what failed.
    Service::start_logging(&db.url, "worker", &env, Stdio::null())
}

const LIVE: &str = "FROM retention.purge_runs WHERE status IN ('queued', 'running', 'retrying')";

/// Waits for every run, however many there are, as long as one ends now and then.
async fn until_all_is_purged(db: &TestDatabase) {
    let live = async || db.value::<i64>(&format!("SELECT count(*) {LIVE}")).await;
    let mut left = live().await;
    while left > 0 {
        let fewer = async {
            while live().await == left {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(Duration::from_mins(1), fewer).await.is_err() {
            let stuck =
                format!("SELECT string_agg(concat_ws(', ', org_id, status, error), E'\\n') {LIVE}");
            panic!(
                "these runs do not end:\n{}",
                db.value::<String>(&stuck).await
            );
        }
        left = live().await;
    }
}

/// How an organization differs from what the model says of it.
fn difference(
    expected: &Expected,
    before: &Rows,
    after: &Rows,
    record: Option<&Record>,
) -> Option<String> {
    let Some(record) = record else {
        return Some("its run is not final, or its status and its error disagree".into());
    };
    if record.error_kind != expected.error_kind || record.steps != expected.steps {
        let (error_kind, steps) = (&expected.error_kind, &expected.steps);
        return Some(format!(
            "recorded: {record:#?}\nexpected: {error_kind:?} {steps:#?}"
        ));
    }
    let mut left = before.clone();
    left.retain(|key, _| !expected.gone.contains(key));
    for incident in &expected.stamped {
        let key = ("payload_purged_at".to_owned(), incident.clone());
        left.insert(key, "by the run".into());
    }
    let missing = left
        .iter()
        .filter(|(key, row)| after.get(*key) != Some(row));
    let unexpected = after
        .iter()
        .filter(|(key, row)| left.get(*key) != Some(row));
    let (missing, unexpected): (Rows, Rows) = (
        missing.map(|(k, v)| (k.clone(), v.clone())).collect(),
        unexpected.map(|(k, v)| (k.clone(), v.clone())).collect(),
    );
    (missing != unexpected)
        .then(|| format!("expected to be there: {missing:#?}\nthere instead: {unexpected:#?}"))
}

/// How the preview, made before, differs from what goes.
fn broken_promise(expected: &Expected, preview: Option<&Preview>) -> Option<String> {
    let Some(preview) = preview else {
        return Some("it has no preview".into());
    };
    let goes = |table: &String| expected.steps.get(table).map_or(0, |step| step.purged);
    let holds = preview.error_kind == expected.error_kind
        && preview.tables.len() == 4
        && preview
            .tables
            .iter()
            .all(|(table, rows)| *rows == goes(table));
    (!holds).then(|| format!("{preview:#?}\nexpected: {:#?}", expected.steps))
}

/// Has the worker purge these organizations, and says of the first that differs how it does.
async fn purged(db: &TestDatabase, cases: &[Case], tally: &mut Tally) -> Option<(usize, String)> {
    let clock = Clock::of(db).await;
    model::write(db, cases, clock).await;
    let before = model::by_case(model::rows(db).await);
    let previews = model::previews(db).await;
    model::enqueue(db, cases, clock).await;
    until_all_is_purged(db).await;
    let after = model::by_case(model::rows(db).await);
    let records = model::records(db).await;

    let differences = cases.iter().enumerate().filter_map(|(place, case)| {
        let number = case.number;
        let started = records
            .get(&number)
            .map_or(clock.now, |record| record.started);
        let expected = case.expected(clock, started);
        count(&expected, tally);
        let promised = case.expected(clock, clock.now);
        let found = |rows: &Found<Rows>| rows.get(&number).cloned().unwrap_or_default();
        broken_promise(&promised, previews.get(&number))
            .or_else(|| {
                let record = records.get(&number);
                difference(&expected, &found(&before), &found(&after), record)
            })
            .map(|difference| (place, difference))
    });
    // All of them, for the tally.
    differences.collect::<Vec<_>>().into_iter().next()
}

fn count(expected: &Expected, tally: &mut Tally) {
    for (table, step) in &expected.steps {
        let [purged, kept] = tally.entry(table.clone()).or_default();
        *purged += step.purged;
        *kept += step.kept;
    }
    let stamped = tally.entry("stamps".into()).or_default();
    stamped[0] += expected.stamped.len();
    let unresolved = tally.entry("unresolved".into()).or_default();
    unresolved[0] += usize::from(expected.error_kind.is_some());
}

/// Makes a failing organization as simple as it can be, alone each time: its number, and so its ids, is another one.
async fn simplest(number: u64, mut tree: Tree, batch: Option<&str>) -> Option<(Org, String)> {
    let db = TestDatabase::new().await;
    let _worker = worker(&db, batch);
    let mut simplest = None;
    for step in 0..SIMPLER {
        let case = Case {
            number: number + 2 * step,
            org: tree.current(),
        };
        let cases = [case];
        let goes_on = match purged(&db, &cases, &mut Tally::new()).await {
            Some((_, difference)) => {
                let [case] = cases;
                simplest = Some((case.org, difference));
                tree.simplify()
            }
            None => tree.complicate(),
        };
        if !goes_on {
            break;
        }
    }
    simplest
}

async fn fail(case: &Case, tree: Tree, batch: Option<&str>, difference: String, seed: RngSeed) {
    let (org, difference) = simplest(case.number, tree, batch)
        .await
        .unwrap_or_else(|| (case.org.clone(), format!("only among others: {difference}")));
    panic!(
        "case {} of seed {seed}, in batches of {batch:?}, differs from the model; the simplest such organization:\n{org:#?}\n{difference}",
        case.number
    );
}

#[tokio::test]
async fn a_purge_leaves_and_records_what_a_naive_model_of_the_rules_says() {
    let mut runner = runner();
    let (all, seed) = (runner.config().cases, runner.config().rng_seed);
    let mut tally = Tally::new();
    for (round, first) in (0..all).step_by(PER_ROUND as usize).enumerate() {
        let numbers = first..all.min(first + PER_ROUND);
        let trees: Vec<Tree> = numbers
            .clone()
            .map(|_| model::org().new_tree(&mut runner).unwrap())
            .collect();
        let cases: Vec<Case> = numbers
            .zip(&trees)
            .map(|(number, tree)| Case {
                number: number.into(),
                org: tree.current(),
            })
            .collect();
        let batch = BATCHES[round % BATCHES.len()];
        let db = TestDatabase::new().await;
        let _worker = worker(&db, batch);
        if let Some((place, difference)) = purged(&db, &cases, &mut tally).await {
            let tree = trees.into_iter().nth(place).unwrap();
            fail(&cases[place], tree, batch, difference, seed).await;
        }
    }
    let least = all as usize / 10;
    let goes = |(table, [purged, kept]): (&String, &[usize; 2])| {
        let protects = matches!(table.as_str(), "drift_checks" | "approvals");
        *purged > least / 2 && (!protects || *kept > least)
    };
    assert!(tally.iter().all(goes), "too tame: {tally:?}");
}

//! Random organizations, purged by the binary and by a naive model of the rules: both must leave the same rows.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::support::{TestDatabase, runs};

/// How many organizations, each from its own seed.
const CASES: u64 = 100;
/// Windows in days: drift checks, closed incidents.
type Windows = (i64, Option<i64>);
/// Plans as they are written, and their windows; the last one is unknown.
const PLANS: [(&str, Option<Windows>); 6] = [
    ("free", Some((7, None))),
    ("Pro", Some((30, Some(180)))),
    ("agency+", Some((90, Some(365)))),
    ("agency_plus", Some((90, Some(365)))),
    (" ENTERPRISE", Some((180, Some(2555)))),
    ("platinum", None),
];

#[derive(Serialize, Deserialize)]
struct Check {
    id: i64,
    env_id: Uuid,
    checked_at: DateTime<Utc>,
    flags: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Incident {
    id: Uuid,
    env_id: Uuid,
    status: String,
    closed_at: Option<DateTime<Utc>>,
    payload_purged_at: Option<DateTime<Utc>>,
    has_payload: bool,
}

#[derive(Serialize, Deserialize)]
struct Approval {
    id: Uuid,
    incident_id: Uuid,
    status: String,
    created_at: DateTime<Utc>,
}

/// An organization as the model sees it.
#[derive(Serialize, Deserialize)]
struct Org {
    id: Uuid,
    plan: usize,
    environments: Vec<Uuid>,
    checks: Vec<Check>,
    incidents: Vec<Incident>,
    approvals: Vec<Approval>,
}

/// What is there: keys only, and for every incident its stamp.
#[derive(Debug, PartialEq, Deserialize)]
struct Left {
    checks: BTreeSet<i64>,
    flags: BTreeSet<(i64, String)>,
    payloads: BTreeSet<Uuid>,
    stamps: BTreeMap<Uuid, Option<DateTime<Utc>>>,
    approvals: BTreeSet<Uuid>,
}

struct Dice {
    rng: StdRng,
    now: DateTime<Utc>,
}

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(self.rng.random())
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// An hour before or after one of the windows, in the future, or anywhere: few instants, so that many are equal.
    fn instant(&mut self) -> DateTime<Utc> {
        let edge = self.pick(&[0, 7, 30, 90, 180, 365, 2555]) * 24;
        let hours = match self.below(6) {
            0 => self.pick(&[-1, -24, -9000]),
            1 => i64::try_from(self.below(3000)).unwrap() * 24 + 12,
            _ => edge + self.pick(&[-1, 1, 2]),
        };
        self.now - TimeDelta::hours(hours)
    }

    fn org(&mut self, case: u64) -> Org {
        let environments: Vec<Uuid> = (0..=self.below(3)).map(|_| self.uuid()).collect();
        let checks = (0..self.below(40))
            .map(|n| Check {
                id: i64::try_from(case).unwrap() * 1000 + i64::try_from(n).unwrap(),
                env_id: self.pick(&environments),
                checked_at: self.instant(),
                flags: (0..self.below(3)).map(|f| format!("wf_{f}")).collect(),
            })
            .collect();
        let incidents: Vec<Incident> = (0..=self.below(15))
            .map(|_| Incident {
                id: self.uuid(),
                env_id: self.pick(&environments),
                status: self
                    .pick(&[
                        "closed",
                        "closed",
                        "closed",
                        "Closed",
                        "reconciled",
                        "detected",
                    ])
                    .to_owned(),
                closed_at: (self.below(5) > 0).then(|| self.instant()),
                payload_purged_at: (self.below(5) == 0).then_some(self.now - TimeDelta::hours(36)),
                has_payload: self.below(3) > 0,
            })
            .collect();
        let approvals = (0..self.below(20))
            .map(|_| Approval {
                id: self.uuid(),
                incident_id: incidents[self.below(incidents.len())].id,
                status: self
                    .pick(&["approved", "rejected", "cancelled", "pending"])
                    .to_owned(),
                created_at: self.instant(),
            })
            .collect();
        Org {
            id: self.uuid(),
            plan: self.below(PLANS.len()),
            environments,
            checks,
            incidents,
            approvals,
        }
    }
}

impl Org {
    /// What the rules leave of a run that started then.
    fn left(&self, started: DateTime<Utc>) -> Left {
        let windows = PLANS[self.plan].1;
        let cutoff = |days: Option<i64>| days.map(|days| started - TimeDelta::hours(days * 24));
        let check_cutoff = cutoff(windows.map(|(checks, _)| checks));
        let closed_cutoff = cutoff(windows.and_then(|(_, closed)| closed));
        let goes =
            |at: DateTime<Utc>, cutoff: Option<DateTime<Utc>>| cutoff.is_some_and(|c| at < c);
        let newest: BTreeSet<i64> = (self.environments.iter())
            .filter_map(|env| {
                let past = |check: &&Check| check.env_id == *env && check.checked_at <= started;
                let newest = self.checks.iter().filter(past);
                newest.max_by_key(|c| (c.checked_at, c.id)).map(|c| c.id)
            })
            .collect();
        let checks: Vec<&Check> = (self.checks.iter())
            .filter(|c| newest.contains(&c.id) || !goes(c.checked_at, check_cutoff))
            .collect();
        let is_purged = |incident: &Incident| {
            incident.status == "closed"
                && incident.closed_at.is_some_and(|at| goes(at, closed_cutoff))
        };
        let closed = |id: Uuid| {
            self.incidents
                .iter()
                .any(|incident| incident.id == id && incident.status == "closed")
        };
        Left {
            checks: checks.iter().map(|c| c.id).collect(),
            flags: (checks.iter())
                .flat_map(|c| c.flags.iter().map(|flag| (c.id, flag.clone())))
                .collect(),
            payloads: (self.incidents.iter())
                .filter(|i| i.has_payload && !is_purged(i))
                .map(|i| i.id)
                .collect(),
            // A stamp of this run is as good as its start.
            stamps: (self.incidents.iter())
                .map(|i| {
                    let stamped = i.payload_purged_at.or(is_purged(i).then_some(started));
                    (i.id, stamped)
                })
                .collect(),
            approvals: (self.approvals.iter())
                .filter(|a| {
                    a.status == "pending"
                        || !closed(a.incident_id)
                        || !goes(a.created_at, closed_cutoff)
                })
                .map(|a| a.id)
                .collect(),
        }
    }

    async fn write(&self, db: &TestDatabase) {
        let (id, plan) = (self.id, PLANS[self.plan].0);
        let json = serde_json::to_string(self).unwrap();
        db.execute(&format!(
            "CREATE TEMP TABLE model ON COMMIT DROP AS SELECT '{json}'::jsonb AS org;
             INSERT INTO organizations (id, name, plan) VALUES ('{id}', 'Random', '{plan}');
             INSERT INTO environments (id, org_id, name)
             SELECT e::uuid, '{id}', 'production' FROM model, jsonb_array_elements_text(org -> 'environments') e;
             INSERT INTO drift_checks (id, org_id, env_id, checked_at, status) OVERRIDING SYSTEM VALUE
             SELECT c.id, '{id}', c.env_id, c.checked_at, 'unknown'
             FROM model, jsonb_to_recordset(org -> 'checks') AS c (id bigint, env_id uuid, checked_at timestamptz);
             INSERT INTO workflow_drift_flags (check_id, workflow_id, flag)
             SELECT (c ->> 'id')::bigint, f, 'unknown'
             FROM model, jsonb_array_elements(org -> 'checks') c, jsonb_array_elements_text(c -> 'flags') f;
             INSERT INTO incidents (id, org_id, env_id, title, status, closed_at, payload_purged_at)
             SELECT i.id, '{id}', i.env_id, 'Random', i.status, i.closed_at, i.payload_purged_at
             FROM model, jsonb_to_recordset(org -> 'incidents')
                 AS i (id uuid, env_id uuid, status text, closed_at timestamptz, payload_purged_at timestamptz);
             INSERT INTO incident_payloads (incident_id, payload_json)
             SELECT i.id, '{{}}' FROM model, jsonb_to_recordset(org -> 'incidents') AS i (id uuid, has_payload boolean)
             WHERE i.has_payload;
             INSERT INTO approvals (id, org_id, incident_id, action, status, requested_by, created_at)
             SELECT a.id, '{id}', a.incident_id, 'accept_drift', a.status, 'sam', a.created_at
             FROM model, jsonb_to_recordset(org -> 'approvals')
                 AS a (id uuid, incident_id uuid, status text, created_at timestamptz)"
        ))
        .await;
    }
}

/// What is there of an organization; a stamp of its run shows as the run's start.
async fn found(db: &TestDatabase, org: Uuid) -> Left {
    let found: Value = db
        .value(&format!(
            "SELECT jsonb_build_object(
                'checks', (SELECT coalesce(jsonb_agg(id), '[]') FROM drift_checks WHERE org_id = r.org_id),
                'flags', (SELECT coalesce(jsonb_agg(jsonb_build_array(f.check_id, f.workflow_id)), '[]')
                          FROM workflow_drift_flags f JOIN drift_checks c ON c.id = f.check_id
                          WHERE c.org_id = r.org_id),
                'payloads', (SELECT coalesce(jsonb_agg(i.id), '[]') FROM incidents i
                             JOIN incident_payloads p ON p.incident_id = i.id WHERE i.org_id = r.org_id),
                'stamps', (SELECT jsonb_object_agg(i.id, CASE
                               WHEN i.payload_purged_at BETWEEN r.started_at AND r.finished_at THEN r.started_at
                               ELSE i.payload_purged_at END) FROM incidents i WHERE i.org_id = r.org_id),
                'approvals', (SELECT coalesce(jsonb_agg(id), '[]') FROM approvals WHERE org_id = r.org_id))
             FROM retention.purge_runs r WHERE r.org_id = '{org}'"
        ))
        .await;
    serde_json::from_value(found).unwrap()
}

#[tokio::test]
async fn a_naive_model_of_the_rules_leaves_the_same_rows() {
    let db = TestDatabase::new().await;
    let now: DateTime<Utc> = db.value("SELECT now()").await;
    let mut orgs = Vec::new();
    for seed in 0..CASES {
        let rng = StdRng::seed_from_u64(seed);
        let org = Dice { rng, now }.org(seed);
        org.write(&db).await;
        orgs.push((seed, org));
    }

    runs::purge_all_in_batches(&db, 3).await;

    let mut gone = [0; 4];
    for (seed, org) in orgs {
        let run = runs::newest_run(&db, org.id).await;
        let started: DateTime<Utc> = db
            .value(&format!(
                "SELECT started_at FROM retention.purge_runs WHERE id = '{run}'"
            ))
            .await;
        let left = org.left(started);
        assert_eq!(found(&db, org.id).await, left, "seed {seed}");
        if PLANS[org.plan].1.is_none() {
            continue;
        }
        let flags: usize = org.checks.iter().map(|c| c.flags.len()).sum();
        let payloads = org.incidents.iter().filter(|i| i.has_payload).count();
        let expected = [
            org.checks.len() - left.checks.len(),
            flags - left.flags.len(),
            payloads - left.payloads.len(),
            org.approvals.len() - left.approvals.len(),
        ];
        let purged = runs::purged(&db, run).await;
        for ((total, purged), expected) in gone.iter_mut().zip(purged).zip(expected) {
            assert_eq!(usize::try_from(purged).unwrap(), expected, "seed {seed}");
            *total += expected;
        }
    }
    assert!(gone.iter().all(|rows| *rows > 30), "too tame: {gone:?}");
}

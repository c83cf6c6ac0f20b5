//! What a run takes, leaves and records: row by row, in the order in which the rules are written down.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Approval, Case, Check, Clock, DAY, Incident, Org};

/// A row: its table, and its key there.
pub type Key = (String, String);

/// One step as it is recorded; the cutoff in microseconds.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub struct Step {
    pub status: String,
    pub cutoff: Option<i64>,
    pub purged: usize,
    pub kept: usize,
}

/// What becomes of an organization.
#[derive(Debug, Default)]
pub struct Expected {
    /// Rows that go.
    pub gone: BTreeSet<Key>,
    /// Incidents that are stamped.
    pub stamped: BTreeSet<String>,
    /// The run's error kind and its steps.
    pub error_kind: Option<String>,
    pub steps: BTreeMap<String, Step>,
}

/// Days by plan: drift checks, and what hangs on closed incidents. Neither: the plan is unknown.
fn windows(plan: &str) -> Option<(i64, Option<i64>)> {
    match plan.trim().to_lowercase().as_str() {
        "free" => Some((7, None)),
        "pro" => Some((30, Some(180))),
        "agency" | "agency+" | "agency_plus" => Some((90, Some(365))),
        "enterprise" => Some((180, Some(2555))),
        _ => None,
    }
}

impl Case {
    /// What the rules say of a run that first started then (in microseconds).
    pub fn expected(&self, clock: Clock, started: i64) -> Expected {
        let Some((checks, closed)) = windows(&self.org.plan) else {
            return Expected {
                error_kind: Some("policy_unresolved".into()),
                ..Expected::default()
            };
        };
        let mut expected = Expected::default();
        self.expect_checks(&mut expected, clock, started - checks * DAY);
        let cutoff = closed.map(|days| started - days * DAY);
        self.expect_payloads(&mut expected, clock, cutoff);
        self.expect_approvals(&mut expected, clock, cutoff);
        expected
    }

    fn expect_checks(&self, expected: &mut Expected, clock: Clock, cutoff: i64) {
        expected.rule("drift_checks", Some(cutoff));
        expected.rule("workflow_drift_flags", Some(cutoff));
        for (n, check) in self.org.checks.iter().enumerate() {
            if check.at.micros(clock) >= cutoff {
                continue;
            }
            if self.is_newest(n, check, clock) {
                expected.keep("drift_checks");
                continue;
            }
            let id = self.check(n);
            expected.purge("drift_checks", id.to_string());
            for flag in 0..check.flags {
                expected.purge("workflow_drift_flags", format!("{id} wf_{flag}"));
            }
        }
    }

    /// Of its environment, by time and then id, among those that are not in the future.
    fn is_newest(&self, n: usize, check: &Check, clock: Clock) -> bool {
        let place = (check.at.micros(clock), self.check(n));
        let newer = |(m, other): (usize, &Check)| {
            let at = other.at.micros(clock);
            other.env == check.env && at <= clock.now && (at, self.check(m)) > place
        };
        !self.org.checks.iter().enumerate().any(newer)
    }

    fn expect_payloads(&self, expected: &mut Expected, clock: Clock, cutoff: Option<i64>) {
        expected.rule("incident_payloads", cutoff);
        for (n, incident) in self.org.incidents.iter().enumerate() {
            if !incident.closed_before(clock, cutoff) {
                continue;
            }
            let id = self.incident(n).to_string();
            if incident.has_payload {
                expected.purge("incident_payloads", id.clone());
            }
            if incident.stamped.is_none() {
                expected.stamped.insert(id);
            }
        }
    }

    fn expect_approvals(&self, expected: &mut Expected, clock: Clock, cutoff: Option<i64>) {
        expected.rule("approvals", cutoff);
        for (n, approval) in self.org.approvals.iter().enumerate() {
            if cutoff.is_none_or(|cutoff| approval.at.micros(clock) >= cutoff) {
                continue;
            }
            if self.org.is_live(approval) {
                expected.keep("approvals");
            } else {
                expected.purge("approvals", self.approval(n).to_string());
            }
        }
    }
}

impl Org {
    /// The incident of an approval; some have none.
    pub(super) fn incident_of(&self, approval: &Approval) -> usize {
        approval.incident % (self.incidents.len() + 1)
    }

    fn is_live(&self, approval: &Approval) -> bool {
        let incident = self.incidents.get(self.incident_of(approval));
        approval.status == "pending" || incident.is_none_or(|incident| incident.status != "closed")
    }
}

impl Incident {
    fn closed_before(&self, clock: Clock, cutoff: Option<i64>) -> bool {
        let (Some(closed_at), Some(cutoff)) = (self.closed_at, cutoff) else {
            return false;
        };
        self.status == "closed" && closed_at.micros(clock) < cutoff
    }
}

impl Expected {
    fn rule(&mut self, table: &str, cutoff: Option<i64>) {
        let status = if cutoff.is_some() {
            "succeeded"
        } else {
            "no_rule"
        };
        let step = Step {
            status: status.into(),
            cutoff,
            ..Step::default()
        };
        self.steps.insert(table.into(), step);
    }

    fn step(&mut self, table: &str) -> &mut Step {
        self.steps.get_mut(table).unwrap()
    }

    fn keep(&mut self, table: &str) {
        self.step(table).kept += 1;
    }

    fn purge(&mut self, table: &str, key: String) {
        self.step(table).purged += 1;
        self.gone.insert((table.into(), key));
    }
}

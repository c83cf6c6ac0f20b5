//! Windows and cutoffs: how long each dataset is kept, and the instant before which it goes.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How long something is kept, in whole days of 24 hours: calendars, leap years and DST change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Window(u32);

impl Window {
    /// A window of so many days.
    #[must_use]
    pub const fn days(days: u32) -> Self {
        Self(days)
    }

    /// The window's length in days.
    #[must_use]
    pub const fn in_days(self) -> u32 {
        self.0
    }

    /// The window's cutoff as of `now`.
    #[must_use]
    pub fn cutoff(self, now: DateTime<Utc>) -> Cutoff {
        Cutoff(now - TimeDelta::hours(24 * i64::from(self.0)))
    }
}

/// A row goes if and only if its timestamp is strictly older than this instant.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Cutoff(pub DateTime<Utc>);

impl Cutoff {
    /// Whether a row with this timestamp is old enough to go.
    #[must_use]
    pub fn expires(self, timestamp: DateTime<Utc>) -> bool {
        timestamp < self.0
    }
}

/// The kinds of retained data that a plan has a window for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetName {
    /// Drift checks and their workflow flags.
    DriftChecks,
    /// Payloads of closed incidents.
    IncidentPayloads,
    /// Approvals of closed incidents.
    Approvals,
}

/// A value for each kind of retained data; `None` where there is no rule: nothing of that kind is purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PerDataset<T> {
    /// Drift checks and their workflow flags.
    #[schema(inline)]
    pub drift_checks: Option<T>,
    /// Payloads of closed incidents.
    #[schema(inline)]
    pub incident_payloads: Option<T>,
    /// Approvals of closed incidents.
    #[schema(inline)]
    pub approvals: Option<T>,
}

/// An organization's windows. Serializes as days by dataset, the shape of `purge_runs.policy`.
pub type RetentionPolicy = PerDataset<Window>;

/// A policy's cutoffs as of one instant.
pub type Cutoffs = PerDataset<Cutoff>;

impl<T: Copy> PerDataset<T> {
    /// The value for one dataset.
    #[must_use]
    pub const fn get(&self, dataset: DatasetName) -> Option<T> {
        match dataset {
            DatasetName::DriftChecks => self.drift_checks,
            DatasetName::IncidentPayloads => self.incident_payloads,
            DatasetName::Approvals => self.approvals,
        }
    }
}

impl RetentionPolicy {
    /// The longer window of each pair, *no rule* being the longest: what holds when a plan changes mid-run.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        let longer = |a: Option<Window>, b: Option<Window>| a.zip(b).map(|(a, b)| a.max(b));
        Self {
            drift_checks: longer(self.drift_checks, other.drift_checks),
            incident_payloads: longer(self.incident_payloads, other.incident_payloads),
            approvals: longer(self.approvals, other.approvals),
        }
    }

    /// The cutoffs as of `now`.
    #[must_use]
    pub fn cutoffs(&self, now: DateTime<Utc>) -> Cutoffs {
        let cutoff = |window: Option<Window>| window.map(|window| window.cutoff(now));
        Cutoffs {
            drift_checks: cutoff(self.drift_checks),
            incident_payloads: cutoff(self.incident_payloads),
            approvals: cutoff(self.approvals),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Timelike};
    use chrono_tz::Europe::Berlin;
    use proptest::prelude::*;

    use super::*;
    use crate::retention::Plan;

    #[test]
    fn a_row_at_the_cutoff_is_kept_and_one_microsecond_older_goes() {
        let now = Utc.with_ymd_and_hms(2026, 11, 23, 2, 0, 0).unwrap();
        for days in [7, 30, 90, 180, 365, 2555] {
            let cutoff = Window::days(days).cutoff(now);
            let at = now - TimeDelta::days(i64::from(days));
            assert!(cutoff.expires(at - TimeDelta::microseconds(1)));
            assert!(!cutoff.expires(at));
            assert!(!cutoff.expires(at + TimeDelta::microseconds(1)));
        }
    }

    #[test]
    fn a_day_is_24_hours_across_leap_days_and_dst_nights() {
        let leap = Utc.with_ymd_and_hms(2028, 3, 1, 0, 0, 0).unwrap();
        assert_eq!(
            Window::days(7).cutoff(leap).0,
            Utc.with_ymd_and_hms(2028, 2, 23, 0, 0, 0).unwrap()
        );

        // Clocks went forward in Berlin on 2026-03-29: seven days of 24 hours end at another wall-clock hour.
        let after = Berlin.with_ymd_and_hms(2026, 4, 1, 12, 0, 0).unwrap();
        let cutoff = Window::days(7)
            .cutoff(after.to_utc())
            .0
            .with_timezone(&Berlin);
        assert_eq!(cutoff.hour(), 11);
        assert_eq!(after.to_utc() - cutoff.to_utc(), TimeDelta::hours(7 * 24));
    }

    #[test]
    fn the_longer_window_wins_and_no_rule_is_the_longest() {
        let (free, pro, enterprise) = (
            Plan::Free.policy(),
            Plan::Pro.policy(),
            Plan::Enterprise.policy(),
        );
        assert_eq!(pro.longer(enterprise), enterprise);
        assert_eq!(enterprise.longer(pro), enterprise);
        let mixed = free.longer(pro);
        assert_eq!(mixed.drift_checks, Some(Window::days(30)));
        assert_eq!(mixed.incident_payloads, None);
        assert_eq!(mixed.approvals, None);
    }

    #[test]
    fn a_policy_is_recorded_as_days_by_dataset() {
        let json = serde_json::to_value(Plan::Free.policy()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"drift_checks": 7, "incident_payloads": null, "approvals": null})
        );
        assert_eq!(
            serde_json::from_value::<RetentionPolicy>(json).unwrap(),
            Plan::Free.policy()
        );
    }

    proptest! {
        #[test]
        fn expiry_is_exactly_the_comparison_of_age_and_window(
            days in 0_u32..4000,
            age_us in 0_i64..4000 * 86_400_000_000,
            now_s in 0_i64..4_000_000_000,
        ) {
            let now = DateTime::from_timestamp(now_s, 0).unwrap();
            let row = now - TimeDelta::microseconds(age_us);
            let expired = age_us > i64::from(days) * 86_400_000_000;
            prop_assert_eq!(Window::days(days).cutoff(now).expires(row), expired);
        }

        #[test]
        fn a_change_of_plan_never_shortens_any_window(a in 0_usize..4, b in 0_usize..4) {
            let (a, b) = (Plan::ALL[a].policy(), Plan::ALL[b].policy());
            let merged = a.longer(b);
            for dataset in [DatasetName::DriftChecks, DatasetName::IncidentPayloads, DatasetName::Approvals] {
                for policy in [a, b] {
                    match (merged.get(dataset), policy.get(dataset)) {
                        (None, _) => {}
                        (Some(merged), Some(window)) => prop_assert!(merged >= window),
                        (Some(_), None) => prop_assert!(false, "a rule appeared where a plan has none"),
                    }
                }
            }
        }
    }
}

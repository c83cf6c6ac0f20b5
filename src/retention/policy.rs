//! Windows and cutoffs: how long each dataset is kept, and the instant before which it goes.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, OneOfBuilder, Type},
    },
};

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

/// The kinds of retained data. A plan has a window, or no rule, for each.
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

impl DatasetName {
    /// Every dataset, in the order in which a run purges them.
    pub const ALL: [Self; 3] = [Self::DriftChecks, Self::IncidentPayloads, Self::Approvals];

    /// The tables that lose rows, the dataset's own first: records, metrics and answers go by these names.
    #[must_use]
    pub const fn tables(self) -> &'static [&'static str] {
        match self {
            Self::DriftChecks => &["drift_checks", "workflow_drift_flags"],
            Self::IncidentPayloads => &["incident_payloads"],
            Self::Approvals => &["approvals"],
        }
    }

    /// The dataset's own table, which is also the dataset's name.
    #[must_use]
    pub const fn table(self) -> &'static str {
        self.tables()[0]
    }
}

/// A value for each dataset; `None` where there is no rule: nothing of that dataset is purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerDataset<T>([Option<T>; DatasetName::ALL.len()]);

/// An organization's windows. Serializes as days by dataset, the shape of `purge_runs.policy`.
pub type RetentionPolicy = PerDataset<Window>;

/// A policy's cutoffs as of one instant.
pub type Cutoffs = PerDataset<Cutoff>;

impl<T> Default for PerDataset<T> {
    fn default() -> Self {
        Self(DatasetName::ALL.map(|_| None))
    }
}

impl<T> PerDataset<T> {
    /// One value for each dataset, in the order of [`DatasetName::ALL`].
    #[must_use]
    pub const fn new(values: [Option<T>; DatasetName::ALL.len()]) -> Self {
        Self(values)
    }

    /// The value for one dataset.
    #[must_use]
    pub const fn get(&self, dataset: DatasetName) -> Option<&T> {
        self.0[dataset as usize].as_ref()
    }

    /// Sets the value for one dataset.
    pub fn set(&mut self, dataset: DatasetName, value: T) {
        self.0[dataset as usize] = Some(value);
    }

    fn map<U>(&self, each: impl Fn(&T) -> U) -> PerDataset<U> {
        PerDataset(std::array::from_fn(|n| self.0[n].as_ref().map(&each)))
    }
}

impl<T: Serialize> Serialize for PerDataset<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(DatasetName::ALL.iter().zip(&self.0))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for PerDataset<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = BTreeMap::<DatasetName, Option<T>>::deserialize(deserializer)?;
        Ok(Self(
            DatasetName::ALL.map(|dataset| values.remove(&dataset).flatten()),
        ))
    }
}

impl<T: ToSchema> PartialSchema for PerDataset<T> {
    fn schema() -> RefOr<Schema> {
        let value = || {
            let nothing = ObjectBuilder::new().schema_type(Type::Null);
            OneOfBuilder::new().item(nothing).item(T::schema())
        };
        let object = DatasetName::ALL
            .iter()
            .fold(ObjectBuilder::new(), |object, dataset| {
                object.property(dataset.table(), value())
            });
        object.into()
    }
}

impl<T: ToSchema> ToSchema for PerDataset<T> {}

impl RetentionPolicy {
    /// The longer window of each pair, *no rule* being the longest: what holds when a plan changes mid-run.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        Self(std::array::from_fn(|n| {
            self.0[n].zip(other.0[n]).map(|(a, b)| a.max(b))
        }))
    }

    /// The cutoffs as of `now`.
    #[must_use]
    pub fn cutoffs(&self, now: DateTime<Utc>) -> Cutoffs {
        self.map(|window| window.cutoff(now))
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
        assert_eq!(mixed, PerDataset::new([Some(Window::days(30)), None, None]));
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
            for dataset in DatasetName::ALL {
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

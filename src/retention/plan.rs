//! The plans, how they are written, and what each promises: the authoritative table.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use super::{RetentionPolicy, Window};

/// A plan of WorkflowOps: `organizations.plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plan {
    /// `free`: drift checks for 7 days; no rule for anything else.
    Free,
    /// `pro`: drift checks for 30 days, payloads and approvals of closed incidents for 180.
    Pro,
    /// `agency`, `agency+`, `agency_plus`: 90 and 365 days.
    Agency,
    /// `enterprise`: 180 and 2555 days.
    Enterprise,
}

/// A plan name that stands in no table. Such an organization is purged of nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plan {} is unknown (known: free, pro, agency, agency+, agency_plus, enterprise)", shown(.0))]
pub struct UnknownPlan(pub String);

/// A plan as it is written, for people: what cannot be printed is escaped, and what is long is cut.
fn shown(plan: &str) -> String {
    const LONGEST: usize = 64;
    let start: String = plan.chars().take(LONGEST).collect();
    let dots = if start.len() < plan.len() { "…" } else { "" };
    format!("{start:?}{dots}")
}

impl Plan {
    /// Every plan, in ascending order of what it keeps.
    pub const ALL: [Self; 4] = [Self::Free, Self::Pro, Self::Agency, Self::Enterprise];

    /// The windows this plan promises. `None` is *no rule*: nothing of that kind is ever purged.
    #[must_use]
    pub const fn policy(self) -> RetentionPolicy {
        let (drift_checks, closed_incidents) = match self {
            Self::Free => (7, None),
            Self::Pro => (30, Some(180)),
            Self::Agency => (90, Some(365)),
            Self::Enterprise => (180, Some(2555)),
        };
        let closed_incidents = match closed_incidents {
            Some(days) => Some(Window::days(days)),
            None => None,
        };
        RetentionPolicy::new([
            Some(Window::days(drift_checks)),
            closed_incidents,
            closed_incidents,
        ])
    }

    /// The canonical name, as it stands in records and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Agency => "agency",
            Self::Enterprise => "enterprise",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl FromStr for Plan {
    type Err = UnknownPlan;

    /// Matches case-insensitively after trimming. Anything else is an error, never a default.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_lowercase().as_str() {
            "free" => Ok(Self::Free),
            "pro" => Ok(Self::Pro),
            "agency" | "agency+" | "agency_plus" => Ok(Self::Agency),
            "enterprise" => Ok(Self::Enterprise),
            _ => Err(UnknownPlan(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::retention::DatasetName;

    fn days(plan: Plan) -> (Option<u32>, Option<u32>, Option<u32>) {
        let policy = plan.policy();
        let days = |dataset| policy.get(dataset).map(|window: &Window| window.in_days());
        (
            days(DatasetName::DriftChecks),
            days(DatasetName::IncidentPayloads),
            days(DatasetName::Approvals),
        )
    }

    #[test]
    fn every_plan_keeps_what_the_table_says() {
        assert_eq!(days(Plan::Free), (Some(7), None, None));
        assert_eq!(days(Plan::Pro), (Some(30), Some(180), Some(180)));
        assert_eq!(days(Plan::Agency), (Some(90), Some(365), Some(365)));
        assert_eq!(days(Plan::Enterprise), (Some(180), Some(2555), Some(2555)));
    }

    #[test]
    fn names_match_in_any_case_and_with_blanks_around() {
        let spellings = [
            ("free", Plan::Free),
            ("FREE", Plan::Free),
            (" Pro\n", Plan::Pro),
            ("pRo", Plan::Pro),
            ("agency", Plan::Agency),
            ("Agency+", Plan::Agency),
            ("AGENCY_PLUS", Plan::Agency),
            ("\tagency_plus ", Plan::Agency),
            ("Enterprise", Plan::Enterprise),
        ];
        for (text, plan) in spellings {
            assert_eq!(text.parse(), Ok(plan), "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_unresolved_and_never_free() {
        for text in [
            "",
            " ",
            "fre",
            "free2",
            "pro+",
            "agency++",
            "agency plus",
            "agency-plus",
            "enterprise_",
            "legacy-2019",
            "null",
            "fr ee",
            "ｆｒｅｅ",
        ] {
            assert_eq!(text.parse::<Plan>(), Err(UnknownPlan(text.to_owned())));
        }
    }

    #[test]
    fn a_canonical_name_parses_to_its_own_plan() {
        for plan in Plan::ALL {
            assert_eq!(plan.name().parse(), Ok(plan));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_plan_only_if_trimmed_and_lowered_it_is_a_name_of_one(text in any_name()) {
            let names = [
                ("free", Plan::Free),
                ("pro", Plan::Pro),
                ("agency", Plan::Agency),
                ("agency+", Plan::Agency),
                ("agency_plus", Plan::Agency),
                ("enterprise", Plan::Enterprise),
            ];
            let name = text.trim().to_lowercase();
            let plan = names.into_iter().find(|(known, _)| *known == name);
            let expected = plan.map(|(_, plan)| plan).ok_or(UnknownPlan(text.clone()));
            prop_assert_eq!(text.parse(), expected);
        }
    }

    /// Anything, and what is nearly a name.
    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "\\s{0,2}(?i)(free|pro|agency|agency.|agency_plus|enterprise)\\s{0,2}.?",
        ]
    }
}

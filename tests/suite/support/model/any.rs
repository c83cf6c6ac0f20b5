//! Organizations of every kind: few instants, so that many rows share one; every edge of every window; names and
//! states that nobody meant.

use std::ops::Range;

use proptest::{
    collection::vec,
    option::weighted,
    prelude::*,
    sample::{Index, select},
};

use super::{Approval, Check, DAY, Incident, Org, When};

const MINUTE: i64 = 60 * 1_000_000;
/// In days: the edge of each window, and the present.
const EDGES: [i64; 7] = [0, 7, 30, 90, 180, 365, 2555];
/// How far from an edge: next to it, or far enough that it does not matter when exactly the run starts.
const OFF: [i64; 8] = [
    -1,
    0,
    1,
    -30 * MINUTE,
    30 * MINUTE,
    -120 * MINUTE,
    120 * MINUTE,
    DAY / 2,
];
const PLANS: [&str; 6] = [
    "free",
    "pro",
    "agency",
    "agency+",
    "agency_plus",
    "enterprise",
];
const NEARLY_PLANS: [&str; 8] = [
    "",
    " ",
    "fr ee",
    "pro+",
    "agency++",
    "agency plus",
    "ｆｒｅｅ",
    "enterprise_",
];
/// The last but one looks like the real one: its `s` is Cyrillic.
const STATUSES: [&str; 12] = [
    "Closed",
    "CLOSED",
    " closed",
    "closed ",
    "",
    "detected",
    "acknowledged",
    "stabilized",
    "reconciled",
    "reopened",
    "clo\u{455}ed",
    "resolved",
];

/// Any organization.
pub fn org() -> BoxedStrategy<Org> {
    let rows = prop_oneof![
        300 => rows(0..4, 0..4),
        300 => rows(0..14, 0..8),
        20 => rows(20..80, 5..30),
        1 => rows(400..900, 100..300),
    ];
    (plan(), any::<bool>(), 0_usize..4, rows, 0_usize..2)
        .prop_map(
            |(plan, began_before, environments, (checks, incidents, approvals), orphans)| Org {
                plan,
                began_before,
                environments,
                checks,
                incidents,
                approvals,
                orphans,
            },
        )
        .boxed()
}

type Rows = (Vec<Check>, Vec<Incident>, Vec<Approval>);

/// So many checks, and so many of the others, at a few instants.
fn rows(checks: Range<usize>, others: Range<usize>) -> BoxedStrategy<Rows> {
    let instants = vec(when(), 1..6);
    let made = (
        vec(check(), checks),
        vec(incident(), others.clone()),
        vec(approval(), others),
    );
    (instants, made)
        .prop_map(|(instants, (checks, incidents, approvals))| {
            let at = |index: Index| *index.get(&instants);
            (
                checks.into_iter().map(|row| row.dated(at)).collect(),
                incidents.into_iter().map(|row| row.dated(at)).collect(),
                approvals.into_iter().map(|row| row.dated(at)).collect(),
            )
        })
        .boxed()
}

fn plan() -> BoxedStrategy<String> {
    let spelled = (
        select(&PLANS[..]),
        any::<u32>(),
        "[ \t\n]{0,2}",
        "[ \t\r]{0,2}",
    )
        .prop_map(|(name, upper, before, after)| {
            let name = name.chars().enumerate().map(|(n, c)| {
                let is_upper = upper >> n & 1 == 1;
                if is_upper { c.to_ascii_uppercase() } else { c }
            });
            format!("{before}{}{after}", name.collect::<String>())
        });
    prop_oneof![
        8 => select(&PLANS[..]).prop_map(str::to_owned),
        4 => spelled,
        1 => select(&NEARLY_PLANS[..]).prop_map(str::to_owned),
        1 => "[^\0]{0,8}",
    ]
    .boxed()
}

fn when() -> BoxedStrategy<When> {
    prop_oneof![
        16 => (select(&EDGES[..]), select(&OFF[..])).prop_map(|(days, micros)| When::Before { days, micros }),
        6 => (1_i64..3000, 0..DAY).prop_map(|(days, micros)| When::Before { days, micros }),
        1 => (-400_i64..-1, 0..DAY).prop_map(|(days, micros)| When::Before { days, micros }),
        2 => select(&[When::MinusInfinity, When::LongAgo, When::FarAhead, When::Infinity][..]),
    ]
    .boxed()
}

/// A row whose times are places among the organization's instants.
trait Undated {
    type Row;
    fn dated(self, at: impl Fn(Index) -> When) -> Self::Row;
}

type UndatedCheck = (usize, Index, &'static str, usize);

fn check() -> impl Strategy<Value = UndatedCheck> {
    let status = select(&["in_sync", "drift", "unknown"][..]);
    (0_usize..5, any::<Index>(), status, 0_usize..3)
}

impl Undated for UndatedCheck {
    type Row = Check;

    fn dated(self, at: impl Fn(Index) -> When) -> Check {
        let (env, index, status, flags) = self;
        Check {
            env,
            at: at(index),
            status,
            flags,
        }
    }
}

type UndatedIncident = (String, Option<Index>, Option<Index>, bool, bool);

fn incident() -> impl Strategy<Value = UndatedIncident> {
    let status = prop_oneof![
        6 => Just("closed".to_owned()),
        4 => select(&STATUSES[..]).prop_map(str::to_owned),
        1 => "[^\0]{0,6}",
    ];
    let stamp = weighted(0.25, any::<Index>());
    (
        status,
        weighted(0.85, any::<Index>()),
        stamp,
        weighted(0.7, Just(())).prop_map(|payload| payload.is_some()),
        any::<bool>(),
    )
}

impl Undated for UndatedIncident {
    type Row = Incident;

    fn dated(self, at: impl Fn(Index) -> When) -> Incident {
        let (status, closed_at, stamped, has_payload, is_deleted) = self;
        Incident {
            status,
            closed_at: closed_at.map(&at),
            stamped: stamped.map(&at),
            has_payload,
            is_deleted,
        }
    }
}

type UndatedApproval = (usize, &'static str, Index);

fn approval() -> impl Strategy<Value = UndatedApproval> {
    let status = select(&["pending", "approved", "rejected", "cancelled"][..]);
    (0_usize..1000, status, any::<Index>())
}

impl Undated for UndatedApproval {
    type Row = Approval;

    fn dated(self, at: impl Fn(Index) -> When) -> Approval {
        let (incident, status, index) = self;
        Approval {
            incident,
            status,
            at: at(index),
        }
    }
}

//! An organization as data can come to be, good and bad, and a naive model of what a purge leaves of it. Written
//! apart from the product: windows and protections are stated here once more, from `docs/retention-map.md`.

mod any;
mod database;
mod rules;

use chrono::{DateTime, SecondsFormat};
use uuid::Uuid;

pub use self::{
    any::org,
    database::{
        Clock, Found, Preview, Record, Rows, by_case, enqueue, previews, records, rows, write,
    },
    rules::{Expected, Step},
};

/// A day, in microseconds.
pub const DAY: i64 = 24 * 3600 * 1_000_000;
/// Ids of checks are the case's number times this, and more.
const CHECKS_PER_CASE: u64 = 10_000;

/// A time that Postgres can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    MinusInfinity,
    /// The first day of Postgres's calendar, nearly.
    LongAgo,
    /// So long before [`Clock::as_of`]; negative: after it.
    Before {
        days: i64,
        micros: i64,
    },
    /// The last microsecond of Postgres's calendar.
    FarAhead,
    Infinity,
}

impl When {
    /// In microseconds, as far as such are needed to compare.
    pub fn micros(self, clock: Clock) -> i64 {
        match self {
            Self::MinusInfinity => i64::MIN,
            Self::LongAgo => i64::MIN + 1,
            Self::Before { days, micros } => clock.as_of - days * DAY - micros,
            Self::FarAhead => i64::MAX - 1,
            Self::Infinity => i64::MAX,
        }
    }

    /// As Postgres reads it.
    fn text(self, clock: Clock) -> String {
        match self {
            Self::MinusInfinity => "-infinity".into(),
            Self::LongAgo => "4713-01-01 00:00:00+00 BC".into(),
            Self::Before { .. } => DateTime::from_timestamp_micros(self.micros(clock))
                .unwrap()
                .to_rfc3339_opts(SecondsFormat::Micros, true),
            Self::FarAhead => "294276-12-31 23:59:59.999999+00".into(),
            Self::Infinity => "infinity".into(),
        }
    }
}

/// An organization, without ids: its rows name one another by their place.
#[derive(Debug, Clone)]
pub struct Org {
    pub plan: String,
    /// Whether its run first started at [`Clock::as_of`], and this is a later attempt: then ages are exact.
    pub began_before: bool,
    pub environments: usize,
    pub checks: Vec<Check>,
    pub incidents: Vec<Incident>,
    pub approvals: Vec<Approval>,
    /// Payloads and flags whose incidents and checks are not there.
    pub orphans: usize,
}

#[derive(Debug, Clone)]
pub struct Check {
    /// Beyond the organization's environments: one that is not there.
    pub env: usize,
    pub at: When,
    pub status: &'static str,
    pub flags: usize,
}

#[derive(Debug, Clone)]
pub struct Incident {
    pub status: String,
    pub closed_at: Option<When>,
    pub stamped: Option<When>,
    pub has_payload: bool,
    pub is_deleted: bool,
}

#[derive(Debug, Clone)]
pub struct Approval {
    /// Beyond the organization's incidents: one that is not there.
    pub incident: usize,
    pub status: &'static str,
    pub at: When,
}

/// An organization among others: its number makes its ids.
#[derive(Debug, Clone)]
pub struct Case {
    pub number: u64,
    pub org: Org,
}

impl Case {
    pub fn id(&self) -> Uuid {
        self.uuid(0, 0)
    }

    fn env(&self, n: usize) -> Uuid {
        self.uuid(1, n)
    }

    /// Half of the cases have negative ids: the largest is then the first one.
    fn check(&self, n: usize) -> i64 {
        let id = i64::try_from(self.number * CHECKS_PER_CASE).unwrap() + i64::try_from(n).unwrap();
        if self.number.is_multiple_of(2) {
            id
        } else {
            -id
        }
    }

    fn incident(&self, n: usize) -> Uuid {
        self.uuid(2, n)
    }

    fn approval(&self, n: usize) -> Uuid {
        self.uuid(3, n)
    }

    fn uuid(&self, kind: u64, n: usize) -> Uuid {
        Uuid::from_u64_pair(self.number, (kind << 32) | n as u64)
    }

    /// Whose row it is, by the key under which [`rows`] has it.
    fn number_of(key: &str) -> u64 {
        let id = key.split(' ').next().unwrap();
        id.parse::<Uuid>().map_or_else(
            |_| id.trim_start_matches('-').parse::<u64>().unwrap() / CHECKS_PER_CASE,
            |id| id.as_u64_pair().0,
        )
    }
}

//! When slots are: a cron expression in a time zone. Pure.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

use crate::config::ScheduleConfig;

/// When slots are.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    timezone: Tz,
}

/// A cron expression that is none, or none of use.
#[derive(Debug, thiserror::Error)]
pub enum BadSchedule {
    /// It cannot be read.
    #[error(
        "schedule.cron {0:?} is not a cron expression of six fields, seconds first, such as \"0 0 2 * * *\""
    )]
    Unreadable(String, #[source] croner::errors::CronError),
    /// No date is ever as it says, such as a 31st of February.
    #[error(
        "schedule.cron {0:?} never fires: no date is as it says, and nothing would ever be purged by schedule; write one that \
         fires, such as \"0 0 2 * * *\"; for no schedule at all leave it out, and serve without the role scheduler"
    )]
    Never(String),
}

impl Schedule {
    /// Reads the settings.
    ///
    /// # Errors
    /// When the cron expression is none, or never fires. A year has no place in it: then it would fire no more one day.
    pub fn new(config: &ScheduleConfig) -> Result<Self, BadSchedule> {
        let cron = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .build()
            .parse(&config.cron)
            .map_err(|error| BadSchedule::Unreadable(config.cron.clone(), error))?;
        let schedule = Self {
            cron,
            timezone: config.timezone,
        };
        // Without a year dates come again, so that any day will do to look from.
        match schedule.next(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(BadSchedule::Never(config.cron.clone())),
        }
    }

    /// The latest slot that is due at `now`, if there ever was one.
    #[must_use]
    pub fn latest(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = now.with_timezone(&self.timezone);
        self.cron
            .find_previous_occurrence(&local, true)
            .ok()
            .map(|slot| slot.to_utc())
    }

    /// The first slot after `now`, if there is one.
    #[must_use]
    pub fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = now.with_timezone(&self.timezone);
        self.cron
            .find_next_occurrence(&local, false)
            .ok()
            .map(|slot| slot.to_utc())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn schedule(cron: &str, timezone: Tz) -> Schedule {
        Schedule::new(&ScheduleConfig {
            cron: cron.into(),
            timezone,
        })
        .unwrap()
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn slots_stand_at_the_expressions_times() {
        let nightly = schedule("0 0 2 * * *", Tz::UTC);
        let now = utc("2026-11-23T18:00:00Z");
        assert_eq!(nightly.latest(now), Some(utc("2026-11-23T02:00:00Z")));
        assert_eq!(nightly.next(now), Some(utc("2026-11-24T02:00:00Z")));
        assert_eq!(
            nightly.latest(utc("2026-11-23T02:00:00Z")),
            Some(utc("2026-11-23T02:00:00Z"))
        );
    }

    #[test]
    fn every_night_has_one_slot_across_dst_changes() {
        // 02:30 does not exist in Berlin on 2026-03-29 and exists twice on 2026-10-25.
        let nightly = schedule("0 30 2 * * *", Tz::Europe__Berlin);
        for (from, nights) in [("2026-03-27T12:00:00Z", 4), ("2026-10-23T12:00:00Z", 4)] {
            let (from, mut slots) = (utc(from), Vec::new());
            let mut at = from;
            while let Some(next) = nightly
                .next(at)
                .filter(|next| *next < from + chrono::TimeDelta::days(4))
            {
                slots.push(next);
                at = next;
            }
            assert_eq!(slots.len(), nights, "{slots:?}");
        }
    }

    #[test]
    fn a_bad_expression_says_what_a_good_one_looks_like() {
        let error = Schedule::new(&ScheduleConfig {
            cron: "daily".into(),
            timezone: Tz::UTC,
        })
        .unwrap_err();
        assert!(error.to_string().contains("0 0 2 * * *"));
    }

    /// What a field can be, and what it cannot.
    fn field() -> impl Strategy<Value = String> {
        let number = prop_oneof![9 => 0_u32..8, 1 => 0_u32..100].prop_map(|n| n.to_string());
        let text = select(
            &[
                "*", "?", "L", "W", "15W", "5L", "MON#2", "FEB", "SUN", "LW", "", "-", "/", ",",
                "#", "*/0",
            ][..],
        );
        prop_oneof![
            9 => Just("*".to_owned()),
            9 => number.clone(),
            1 => (0_u32..70, 0_u32..70).prop_map(|(a, b)| format!("{a}-{b}")),
            1 => (0_u32..70, any::<u32>()).prop_map(|(a, b)| format!("{a}/{b}")),
            1 => any::<u8>().prop_map(|b| format!("*/{b}")),
            1 => proptest::collection::vec(number, 1..5).prop_map(|all| all.join(",")),
            1 => text.prop_map(str::to_owned),
            1 => "[^ ]{0,4}",
        ]
    }

    proptest! {
        #[test]
        fn no_expression_makes_looking_for_slots_panic_or_go_backwards(
            fields in proptest::collection::vec(field(), 5..8),
            timezone in select(&chrono_tz::TZ_VARIANTS[..]),
            now in 0_i64..16_000_000_000,
        ) {
            let now = DateTime::from_timestamp(now, 0).unwrap();
            if let Ok(schedule) = Schedule::new(&ScheduleConfig { cron: fields.join(" "), timezone }) {
                prop_assert!(schedule.latest(now).is_none_or(|slot| slot <= now));
                prop_assert!(schedule.next(now).is_none_or(|slot| slot > now));
            }
        }

        #[test]
        fn no_text_makes_the_reading_of_an_expression_panic(cron in any::<String>()) {
            let _ = Schedule::new(&ScheduleConfig { cron, timezone: Tz::UTC });
        }
    }

    #[test]
    fn an_expression_that_never_fires_is_refused_and_one_that_seldom_does_is_not() {
        let read = |cron: &str| {
            Schedule::new(&ScheduleConfig {
                cron: cron.into(),
                timezone: Tz::Europe__Berlin,
            })
        };
        for never in ["0 0 2 31 2 *", "0 0 2 30 2 *", "0 0 2 31 4,6,9,11 *"] {
            assert!(matches!(read(never), Err(BadSchedule::Never(_))), "{never}");
        }
        let leap_day = read("0 0 2 29 2 *").unwrap();
        assert_eq!(
            leap_day.next(utc("2026-11-23T18:00:00Z")),
            Some(utc("2028-02-29T01:00:00Z"))
        );
        let of_one_year = read("0 0 2 * * * 2020");
        assert!(matches!(of_one_year, Err(BadSchedule::Unreadable(..))));
    }
}

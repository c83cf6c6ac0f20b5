//! Hours of the day, such as `22:00-06:00`.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Days, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A range of hours from a start, included, to an end, excluded. It spans midnight if the end is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from: NaiveTime,
    to: NaiveTime,
}

/// The text is not a range of hours.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} are not hours of a day such as \"22:00-06:00\"")]
pub struct BadHours(String);

impl FromStr for Hours {
    type Err = BadHours;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = |text: &str| NaiveTime::parse_from_str(text.trim(), "%H:%M").ok();
        text.split_once('-')
            .and_then(|(from, to)| time(from).zip(time(to)))
            .filter(|(from, to)| from != to)
            .map(|(from, to)| Self { from, to })
            .ok_or_else(|| BadHours(text.to_owned()))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}",
            self.from.format("%H:%M"),
            self.to.format("%H:%M")
        )
    }
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Hours {
    /// The next start of the hours in `timezone`, or `None` if `now` is within them.
    #[must_use]
    pub fn closed_until(self, now: DateTime<Utc>, timezone: Tz) -> Option<DateTime<Utc>> {
        let local = now.with_timezone(&timezone);
        let (date, time) = (local.date_naive(), local.time());
        let within = if self.from < self.to {
            self.from <= time && time < self.to
        } else {
            self.from <= time || time < self.to
        };
        if within {
            return None;
        }
        let day = if time < self.from {
            Some(date)
        } else {
            date.checked_add_days(Days::new(1))
        };
        // If the clocks skip the start, the hours begin after the gap.
        let opens = day?.and_time(self.from);
        [opens, opens + TimeDelta::hours(1)]
            .into_iter()
            .find_map(|at| timezone.from_local_datetime(&at).earliest())
            .map(|at| at.to_utc())
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Europe::Berlin;
    use proptest::prelude::*;

    use super::*;

    fn closed_until(hours: &str, now: &str) -> Option<String> {
        let hours: Hours = hours.parse().unwrap();
        hours
            .closed_until(now.parse().unwrap(), Berlin)
            .map(|at| at.to_rfc3339())
    }

    #[test]
    fn the_first_minute_is_within_and_the_last_is_not() {
        // 21:00 UTC is 22:00 in Berlin in winter.
        assert_eq!(
            closed_until("22:00-06:00", "2026-11-25T20:59:59Z").unwrap(),
            "2026-11-25T21:00:00+00:00"
        );
        assert_eq!(closed_until("22:00-06:00", "2026-11-25T21:00:00Z"), None);
        assert_eq!(closed_until("22:00-06:00", "2026-11-26T04:59:59Z"), None);
        assert_eq!(
            closed_until("22:00-06:00", "2026-11-26T05:00:00Z").unwrap(),
            "2026-11-26T21:00:00+00:00"
        );
        assert_eq!(
            closed_until("01:00-03:00", "2026-11-25T12:00:00Z").unwrap(),
            "2026-11-26T00:00:00+00:00"
        );
    }

    #[test]
    fn hours_that_the_clocks_skip_begin_after_the_gap() {
        assert_eq!(
            closed_until("02:30-04:00", "2026-03-29T00:00:00Z").unwrap(),
            "2026-03-29T01:30:00+00:00"
        );
    }

    #[test]
    fn what_is_not_hours_is_refused_by_name() {
        for text in [
            "",
            "22",
            "22:00",
            "22:00-22:00",
            "22:00-25:00",
            "22-06",
            "a-b",
        ] {
            let error = text.parse::<Hours>().unwrap_err();
            assert!(error.to_string().contains("22:00-06:00"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn they_are_open_when_they_open_and_never_more_than_two_days_off(
            from in 0_u32..1440, length in 1_u32..1440, now in 1_700_000_000_i64..1_900_000_000
        ) {
            let time = |minute: u32| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
            let hours: Hours = format!("{}-{}", time(from), time(from + length)).parse().unwrap();
            prop_assert_eq!(hours.to_string().parse::<Hours>().unwrap(), hours);
            let now = DateTime::from_timestamp(now, 0).unwrap();
            if let Some(opens) = hours.closed_until(now, Tz::UTC) {
                prop_assert!(opens > now && opens - now <= TimeDelta::days(2));
                prop_assert_eq!(hours.closed_until(opens, Tz::UTC), None);
            }
        }

        #[test]
        fn any_text_is_hours_or_refused(text in ".*") {
            let _ = text.parse::<Hours>();
        }
    }
}

//! Numbers, ages and durations as people read them, the same on the command line and in the console.

use chrono::{DateTime, TimeDelta, Utc};

/// A number with its thousands separated: `1 204`.
#[must_use]
pub fn number(n: impl TryInto<i64>) -> String {
    let n = n.try_into().unwrap_or(i64::MAX);
    let digits = n.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    if n < 0 { format!("-{text}") } else { text }
}

/// A number with its noun: `1 run`, `1 204 runs`.
#[must_use]
pub fn quantity(n: impl TryInto<i64>, singular: &str, plural: &str) -> String {
    let n = n.try_into().unwrap_or(i64::MAX);
    format!("{} {}", number(n), if n == 1 { singular } else { plural })
}

/// The time from `then` to `now`: `3 h ago`, `in 5 min`, `2 y ago`.
#[must_use]
pub fn age(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    let past = now - then;
    let length = past.abs();
    let text = if length < TimeDelta::seconds(1) {
        return "now".into();
    } else if length < TimeDelta::minutes(1) {
        format!("{} s", length.num_seconds())
    } else if length < TimeDelta::hours(1) {
        format!("{} min", length.num_minutes())
    } else if length < TimeDelta::days(2) {
        format!("{} h", length.num_hours())
    } else if length < TimeDelta::days(730) {
        format!("{} d", length.num_days())
    } else {
        format!("{} y", length.num_days() / 365)
    };
    if past < TimeDelta::zero() {
        format!("in {text}")
    } else {
        format!("{text} ago")
    }
}

/// A duration in its two largest units: `3 d 4 h`, `1 min 12 s`, `40 ms`.
#[must_use]
pub fn duration(length: TimeDelta) -> String {
    let seconds = length.num_seconds();
    let [days, hours, minutes] = [seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60];
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 1 => format!("{} ms", length.num_milliseconds()),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let shown: Vec<_> = [0, 12, 999, 1204, 1_000_000, -4321].map(number).into();
        assert_eq!(shown, ["0", "12", "999", "1 204", "1 000 000", "-4 321"]);
    }

    #[test]
    fn ages_are_rounded_down_to_one_unit() {
        let now = DateTime::from_timestamp(1_000_000_000, 0).unwrap();
        let ages = [0, 59, 60, 7199, 86_400, 172_800, 63_072_000, -90]
            .map(|s| age(now, now - TimeDelta::seconds(s)));
        assert_eq!(
            ages,
            [
                "now",
                "59 s ago",
                "1 min ago",
                "1 h ago",
                "24 h ago",
                "2 d ago",
                "2 y ago",
                "in 1 min"
            ]
        );
    }

    #[test]
    fn a_duration_has_its_two_largest_units() {
        let shown = [40, 12_000, 72_000, 7_260_000, 273_600_000]
            .map(|ms| duration(TimeDelta::milliseconds(ms)));
        assert_eq!(
            shown,
            ["40 ms", "12 s", "1 min 12 s", "2 h 1 min", "3 d 4 h"]
        );
    }

    proptest! {
        #[test]
        fn any_number_reads_back_without_its_blanks(n in any::<i64>()) {
            prop_assert_eq!(number(n).replace(' ', "").parse(), Ok(n));
        }

        #[test]
        fn numbers_too_large_to_count_are_shown_as_the_largest(n in any::<u64>(), one in "\\w+") {
            let n = n | 1 << 63;
            prop_assert_eq!(number(n), number(i64::MAX));
            prop_assert!(quantity(n, &one, "many").ends_with(" many"));
        }

        #[test]
        fn any_age_and_duration_has_words(now in any_time(), then in any_time()) {
            prop_assert!(!age(now, then).is_empty());
            prop_assert!(!duration(now - then).is_empty());
        }
    }

    /// Any time that chrono can represent.
    fn any_time() -> impl Strategy<Value = DateTime<Utc>> {
        let (first, last) = (
            DateTime::<Utc>::MIN_UTC.timestamp(),
            DateTime::<Utc>::MAX_UTC.timestamp(),
        );
        prop_oneof![
            (first..=last).prop_map(|seconds| DateTime::from_timestamp(seconds, 0).unwrap()),
            Just(DateTime::<Utc>::MIN_UTC),
            Just(DateTime::<Utc>::MAX_UTC),
        ]
    }
}

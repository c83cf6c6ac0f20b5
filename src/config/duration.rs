//! Durations as people write them. They are read in any units (`90s`, `1m 30s`) and written in the largest exact unit.

use std::time::Duration;

use serde::{Deserializer, Serializer};

/// The longest duration of a setting. No calculation with a duration up to this length overflows.
pub(super) const MAX_DURATION: Duration = Duration::from_hours(100 * 365 * 24);

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    humantime_serde::deserialize(from)
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
pub(super) fn serialize<S: Serializer>(length: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&to_text(*length))
}

/// The duration in the largest exact unit.
pub(super) fn to_text(length: Duration) -> String {
    let millis = length.as_millis();
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ];
    let exact = units
        .iter()
        .find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit));
    exact.map_or_else(
        || format!("{millis}ms"),
        |(name, unit)| format!("{}{name}", millis / unit),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::{IntoDeserializer, value::Error};

    use super::*;

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for (text, length) in [
            ("500ms", 500),
            ("5s", 5000),
            ("90s", 90_000),
            ("1h", 3_600_000),
            ("400d", 34_560_000_000),
        ] {
            let length = Duration::from_millis(length);
            assert_eq!(to_text(length), text);
            assert_eq!(humantime::parse_duration(text).unwrap(), length);
        }
    }

    proptest! {
        #[test]
        fn any_length_that_a_setting_can_have_reads_back_as_the_same(millis in 0..=MAX_DURATION.as_secs() * 1000) {
            let length = Duration::from_millis(millis);
            prop_assert_eq!(humantime::parse_duration(&to_text(length)), Ok(length));
        }

        #[test]
        fn any_text_is_a_duration_or_an_error(text in "([0-9]{1,25} ?(|ns|us|ms|s|m|h|d|w|M|y|min|\\PC) ?){0,3}") {
            let _ = deserialize(IntoDeserializer::<Error>::into_deserializer(text.as_str()));
        }
    }
}

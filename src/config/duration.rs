//! Durations as people write them: read in any units (`90s`, `1m 30s`), shown in the largest that is exact.

use std::time::Duration;

use serde::{Deserializer, Serializer};

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    humantime_serde::deserialize(from)
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
pub(super) fn serialize<S: Serializer>(length: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&shown(*length))
}

fn shown(length: Duration) -> String {
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
            assert_eq!(shown(length), text);
            assert_eq!(humantime::parse_duration(text).unwrap(), length);
        }
    }
}

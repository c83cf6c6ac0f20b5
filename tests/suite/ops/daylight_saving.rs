//! Slots of every night across changes of the clocks, in eight places where they differ: one a night, whatever the clocks
//! do, and never one that is not due yet.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use drift_retention::{config::ScheduleConfig, schedule::Schedule};

/// Where, the nightly time (minute and hour of cron), the noon before, and the UTC times of the slots of three nights: the
/// clocks change in the second.
const CASES: [(Tz, &str, &str, [&str; 3]); 8] = [
    // 02:30 does not exist on 29 March: the slot comes when the clocks have moved on.
    (
        Tz::Europe__Berlin,
        "30 2",
        "2026-03-27T12:00:00Z",
        [
            "2026-03-28T01:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z",
        ],
    ),
    // 02:30 exists twice on 25 October: the first counts.
    (
        Tz::Europe__Berlin,
        "30 2",
        "2026-10-23T12:00:00Z",
        [
            "2026-10-24T00:30:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-26T01:30:00Z",
        ],
    ),
    (
        Tz::America__New_York,
        "30 2",
        "2026-03-06T18:00:00Z",
        [
            "2026-03-07T07:30:00Z",
            "2026-03-08T07:00:00Z",
            "2026-03-09T06:30:00Z",
        ],
    ),
    (
        Tz::America__New_York,
        "30 1",
        "2026-10-30T18:00:00Z",
        [
            "2026-10-31T05:30:00Z",
            "2026-11-01T05:30:00Z",
            "2026-11-02T06:30:00Z",
        ],
    ),
    // By half an hour: 02:15 does not exist on 4 October.
    (
        Tz::Australia__Lord_Howe,
        "15 2",
        "2026-10-02T02:00:00Z",
        [
            "2026-10-02T15:45:00Z",
            "2026-10-03T15:30:00Z",
            "2026-10-04T15:15:00Z",
        ],
    ),
    // 01:45 exists twice on 5 April.
    (
        Tz::Australia__Lord_Howe,
        "45 1",
        "2026-04-03T02:00:00Z",
        [
            "2026-04-03T14:45:00Z",
            "2026-04-04T14:45:00Z",
            "2026-04-05T15:15:00Z",
        ],
    ),
    // At midnight: 6 September begins at 01:00.
    (
        Tz::America__Santiago,
        "0 0",
        "2026-09-04T16:00:00Z",
        [
            "2026-09-05T04:00:00Z",
            "2026-09-06T04:00:00Z",
            "2026-09-07T03:00:00Z",
        ],
    ),
    // Midnight to one o'clock comes twice: 1 November has 00:30 twice.
    (
        Tz::America__Havana,
        "30 0",
        "2026-10-30T16:00:00Z",
        [
            "2026-10-31T04:30:00Z",
            "2026-11-01T04:30:00Z",
            "2026-11-02T05:30:00Z",
        ],
    ),
];

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn every_night_has_one_slot_where_the_clocks_change() {
    for (timezone, time, noon, nights) in CASES {
        let cron = format!("0 {time} * * *");
        let schedule = Schedule::new(&ScheduleConfig { cron, timezone }).unwrap();
        let mut at = utc(noon);
        for night in nights.map(utc) {
            assert_eq!(
                schedule.next(at),
                Some(night),
                "{timezone} {time} after {at}"
            );
            // What is due is the latest from that instant on, and not before.
            assert_eq!(schedule.latest(night), Some(night), "{timezone} {time}");
            let before = schedule.latest(night - TimeDelta::microseconds(1));
            assert!(before < Some(night), "{timezone} {time}: {before:?}");
            at = night;
        }
        assert_eq!(
            schedule.latest(utc(nights[2]) - TimeDelta::minutes(1)),
            Some(utc(nights[1]))
        );
    }
}

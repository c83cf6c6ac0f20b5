//! Settings of any bytes, from a file or from the environment, are used or refused.

use std::{ffi::OsString, io::Write, os::unix::ffi::OsStringExt, path::Path};

use drift_retention::{
    config::{Config, settings},
    runs::Lease,
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use crate::support::product;

/// Every key that is a setting, and two that are none.
fn any_key() -> impl Strategy<Value = String> {
    let settings = settings(&Config::default())
        .into_iter()
        .map(|known| known.key);
    let bogus = ["worker", "nothing.at.all"].map(str::to_owned);
    select(settings.chain(bogus).collect::<Vec<_>>())
}

/// Settings of the worker that are durations.
const DURATIONS: [&str; 5] = [
    "heartbeat",
    "backoff_base",
    "backoff_max",
    "shutdown_grace",
    "keep_runs",
];

/// Text that a setting could have.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "-?[0-9]{1,25}",
        "[0-9]{1,20}(ns|ms|s|m|h|d|y)",
        select(
            &[
                "",
                "0 0 2 30 2 *",
                "Europe/Berlin",
                "[::]:0",
                "postgres://a:b@c/d",
                "/nowhere"
            ][..]
        )
        .prop_map(str::to_owned),
    ]
}

/// A value as TOML writes it.
fn toml_value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => text().prop_map(|text| json!(text).to_string()),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        2 => (0_u32..300).prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| format!("{number:?}")),
        1 => select(&["true", "[]", "[1, \"a\"]", "{}", "{a = 1}", "2024-02-29T00:00:00Z"][..]).prop_map(str::to_owned),
    ]
}

/// Reads the settings, and uses those that are taken for what a service uses them for.
fn load(bytes: &[u8]) {
    let mut file = NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(bytes).unwrap();
    use_of(file.path());
}

fn use_of(path: &Path) {
    let Ok(config) = Config::load(Some(path)) else {
        return;
    };
    assert!(!settings(&config).is_empty());
    assert!(Lease::of(config.worker.heartbeat).0 >= config.worker.heartbeat);
    assert!(config.worker.concurrency() > 0);
    let _ = (
        config.http.own_address(),
        drift_retention::schedule::Schedule::new(&config.schedule),
    );
    let backoff = drift_retention::runs::Backoff {
        base: config.worker.backoff_base,
        max: config.worker.backoff_max,
    };
    assert!(backoff.wait(i32::MAX) <= backoff.max);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_settings_file_of_any_bytes_is_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        load(&bytes);
    }

    #[test]
    fn any_value_of_a_setting_is_taken_and_usable_or_refused(
        settings in vec((any_key(), toml_value()), 1..4),
    ) {
        let lines: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        load(lines.concat().as_bytes());
    }

    #[test]
    fn a_duration_of_any_length_is_taken_and_usable_or_refused(
        key in select(&DURATIONS[..]), shorter in 0..64, unit in select(&["ms", "s", "m", "d", "y"][..]),
    ) {
        let length = u64::MAX >> shorter;
        load(format!("worker.{key} = \"{length}{unit}\"").as_bytes());
    }
}

/// A key as the environment names it.
fn variable(key: &str) -> String {
    format!("DRIFT_RETENTION_{}", key.replace('.', "__").to_uppercase())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_bytes_in_the_environment_are_taken_or_refused(
        values in vec((any_key(), prop_oneof![
            text().prop_map(String::into_bytes),
            vec(any::<u8>(), 0..20),
        ]), 1..4),
    ) {
        let mut command = product::command("postgres://nobody@127.0.0.1:1/nothing");
        command.args(["config", "show"]);
        for (key, value) in values {
            let value: Vec<u8> = value.into_iter().filter(|byte| *byte != 0).collect();
            command.env(variable(&key), OsString::from_vec(value));
        }
        let output = Runtime::new().unwrap().block_on(async { command.output().await }).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        prop_assert!(matches!(output.status.code(), Some(0 | 2)), "{:?} {}", output.status, said);
        prop_assert!(!said.contains("panicked"), "{}", said);
    }
}

//! Whatever comes from outside is used or refused: settings, tokens, cursors and queries of any bytes stop nothing.

use std::{cell::RefCell, ffi::OsString, io::Write, os::unix::ffi::OsStringExt, path::Path};

use axum::http::{HeaderMap, HeaderValue, header};
use drift_retention::{
    config::{AuthConfig, Config, settings},
    http::{Identity, Role, Verifier, mint},
    queue::{Cursor, Lease},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::TestRunner,
};
use reqwest::Method;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Api, SECRET, answer, token},
    app::App,
    console::{Console, Who},
    product,
    text::base64,
    visitor::Visitor,
};

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
    let backoff = drift_retention::queue::Backoff {
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

    #[test]
    fn any_text_is_a_cursor_that_reads_back_as_the_same_or_is_refused(
        text in prop_oneof![any::<String>(), "-?[0-9]{1,20}_[0-9a-f]{32}", "[0-9]{1,17}_[0-9A-F-]{30,40}"],
    ) {
        if let Ok(cursor) = text.parse::<Cursor>() {
            prop_assert_eq!(cursor.to_string().parse::<Cursor>().ok(), Some(cursor));
        }
    }

    #[test]
    fn a_cursor_of_ours_reads_back_as_it_was(micros in 0_i64..253_402_300_800_000_000, id in any::<u128>()) {
        let text = format!("{micros}_{id:032x}");
        let cursor = text.parse::<Cursor>().ok();
        prop_assert_eq!(cursor.map(|cursor| cursor.to_string()), Some(text));
    }
}

fn secret() -> AuthConfig {
    serde_json::from_value(json!({"hs256_secret": SECRET})).unwrap()
}

/// Whose token the verifier says it is.
fn accepted(runtime: &Runtime, authorization: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(authorization) else {
        return false;
    };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    let verifier = Verifier::new(&secret());
    runtime.block_on(verifier.identify(&headers)).is_ok()
}

fn valid_token() -> String {
    let identity = Identity {
        subject: "dana".into(),
        role: Role::Operator,
        org: None,
    };
    mint(&secret(), &identity, std::time::Duration::from_hours(1)).unwrap()
}

proptest! {
    #[test]
    fn a_token_of_any_bytes_is_refused(bytes in vec(any::<u8>(), 0..300), scheme in any::<bool>()) {
        let runtime = Runtime::new().unwrap();
        let prefix: &[u8] = if scheme { b"Bearer " } else { b"" };
        prop_assert!(!accepted(&runtime, &[prefix, &bytes].concat()));
    }

    #[test]
    fn a_token_of_any_three_parts_is_refused(
        header in any_json(), claims in any_json(), signature in "[A-Za-z0-9_-]{0,90}",
    ) {
        let runtime = Runtime::new().unwrap();
        let token = format!("Bearer {header}.{claims}.{signature}");
        prop_assert!(!accepted(&runtime, token.as_bytes()));
    }

    #[test]
    fn a_valid_token_with_one_character_changed_is_refused(
        place in any::<Index>(), instead in "[!-~]", cut in any::<bool>(),
    ) {
        let runtime = Runtime::new().unwrap();
        let good = valid_token();
        let bearer = format!("Bearer {good}");
        prop_assert!(accepted(&runtime, bearer.as_bytes()));
        let at = place.index(good.len());
        let (head, tail) = good.split_at(at);
        let bad = if cut { head.to_owned() } else { format!("{head}{instead}{}", &tail[1..]) };
        prop_assert!(bad == good || !accepted(&runtime, format!("Bearer {bad}").as_bytes()), "{}", bad);
    }
}

/// Base64 of JSON as tokens have it, of any shape.
fn any_json() -> impl Strategy<Value = String> {
    let header = (
        select(&["none", "HS256", "hs256", "RS256", ""][..]),
        any::<String>(),
    )
        .prop_map(|(alg, kid)| json!({"alg": alg, "kid": kid, "typ": "JWT"}));
    let claims = (any::<String>(), any::<i64>())
        .prop_map(|(sub, exp)| json!({"sub": sub, "exp": exp, "role": "operator"}));
    let other = select(&["null", "[]", "{}", "1e999", "{\"alg\": 5}"][..]).prop_map(str::to_owned);
    prop_oneof![
        header.prop_map(|json| json.to_string()),
        claims.prop_map(|json| json.to_string()),
        other,
        any::<String>(),
    ]
    .prop_map(|text| base64(text.as_bytes()))
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

/// What the API takes queries for.
const API: [&str; 5] = [
    "/retention/runs",
    "/orgs/ORG/retention/runs",
    "/orgs/ORG/environments",
    "/orgs/ORG/incidents",
    "/orgs/ORG/drift/dashboard",
];
/// And the console.
const CONSOLE: [&str; 11] = [
    "/console/overview",
    "/console/overdue",
    "/console/unresolved",
    "/console/orgs",
    "/console/runs",
    "/console/runs/replay",
    "/console/actions",
    "/console/orgs/ORG/environments",
    "/console/orgs/ORG/incidents",
    "/console/orgs/ORG/retention",
    "/signin",
];
const NAMES: [&str; 12] = [
    "limit",
    "cursor",
    "status",
    "org_id",
    "since",
    "until",
    "error_kind",
    "q",
    "token",
    "run",
    "page",
    "",
];

/// A query, well-formed or not: bytes as they are, and percent-encoded.
fn query() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "-?[0-9]{1,20}",
        "[0-9]{1,17}_[0-9a-f]{32}",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:00:00Z",
        "[!$-;=?-~]{0,20}",
        vec(any::<u8>(), 0..12).prop_map(|bytes| {
            let encoded: Vec<String> = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
            encoded.concat()
        }),
    ];
    let pair = (select(&NAMES[..]), value).prop_map(|(name, value)| format!("{name}={value}"));
    vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

/// Whether it is no error of ours, and what is wrong is told as everywhere: by a problem, or by a page.
fn is_told(answer: &Answer) -> bool {
    let media_type = answer.header("content-type").unwrap_or_default();
    let is_told = media_type.starts_with("application/problem+json")
        || media_type.starts_with("text/html")
        || answer.body.is_empty();
    answer.status < 400 || answer.status < 500 && is_told
}

/// Asks for these with any queries; a `500` fails, and so does whatever else a service says when it is at a loss.
fn ask(paths: &'static [&'static str], org: Uuid, answer: impl Fn(String) -> Answer) {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let asked = (select(paths), query());
    let done = runner.run(&asked, |(path, query)| {
        let path = path.replace("ORG", &org.to_string());
        let answer = answer(format!("{path}?{query}"));
        prop_assert!(is_told(&answer), "{}: {}", answer.status, answer.text());
        Ok(())
    });
    done.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn any_query_of_the_api_is_answered_without_an_error_of_ours() {
    let runtime = Runtime::new().unwrap();
    let api = runtime.block_on(Api::start());
    let org = runtime.block_on(App::on(&api.db.pool).org_with_expired(3));
    let operator = token("operator", None);
    ask(&API, org, |path| {
        runtime.block_on(api.get(&path, &operator))
    });
}

#[test]
fn any_query_of_the_console_is_answered_without_an_error_of_ours() {
    let runtime = Runtime::new().unwrap();
    let console = runtime.block_on(Console::start());
    let org = runtime.block_on(console.app.org_with_expired(3));
    let visitor = runtime.block_on(Visitor::signed_in(&console, Who::Operator));
    let visitor = RefCell::new(visitor);
    ask(&CONSOLE, org, |path| {
        runtime.block_on(visitor.borrow_mut().get(&path))
    });
}

/// Control characters, letters beyond ASCII, bytes that are no UTF-8, escapes that are none, and far too much of one, each as an
/// address or a form has it.
fn odd_values() -> Vec<String> {
    let values = [
        "%00",
        "%01",
        "%1b%5b2J",
        "%0d%0aset-cookie:x",
        "%7f",
        "%c2%9b31m",
        "%e2%80%ae",
        "%f0%9f%a6%80",
        "%ff",
        "%c3%28",
        "%ed%a0%80",
        "%",
        "%zz",
        "%2f..%2f..",
        "%5c",
        "//evil.example",
        "a/b?c#d",
    ];
    let long = [
        "a".repeat(7000),
        "%01".repeat(2000),
        "%f0%9f%a6%80".repeat(500),
    ];
    values.map(str::to_owned).into_iter().chain(long).collect()
}

/// Asks for every place with every odd value in it.
async fn ask_everywhere(places: &[String], mut ask: impl AsyncFnMut(&str) -> Answer) {
    for place in places {
        for value in odd_values() {
            let answer = ask(&place.replace("ODD", &value)).await;
            assert!(
                is_told(&answer),
                "{place} with {value:.40}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn odd_bytes_in_any_address_are_told_by_a_problem_or_a_page() {
    let console = Console::start().await;
    let org = console.app.org_with_expired(3).await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    let mut nobody = Visitor::of(&console);
    let places = [
        "/ODD",
        "/console/ODD",
        "/console/orgs?search=ODD",
        "/console/orgs?cursor=ODD",
        "/console/orgs/ODD/retention",
        "/console/orgs/ORG/ODD",
        "/console/orgs/ORG/environments/ODD",
        "/console/orgs/ORG/incidents?status=ODD",
        "/console/orgs/ORG/incidents?severity=ODD&environment=ODD",
        "/console/orgs/ORG/incidents/ODD?tab=ODD",
        "/console/runs?error_kind=ODD",
        "/console/runs?org=ODD&since=ODD&until=ODD",
        "/console/runs?ODD=ODD",
        "/console/runs/ODD/progress",
        "/console/runs/replay?run=ODD",
        "/console/actions?cursor=ODD",
        "/console/assets/ODD/console.css",
        "/console/assets/1/ODD",
        "/signin?next=ODD",
        "/signin?next=/console/ODD",
        "/signin?token=ODD",
        "/retention/runs/ODD",
        "/retention/runs?cursor=ODD",
        "/orgs/ODD/retention/policy",
        "/orgs/ORG/incidents?status=ODD",
    ];
    let places = places.map(|place| place.replace("ORG", &org.to_string()));
    ask_everywhere(&places, async |path| operator.get(path).await).await;
    ask_everywhere(&places, async |path| nobody.get(path).await).await;
}

#[tokio::test]
async fn odd_bytes_in_any_field_of_a_form_are_told_by_a_page() {
    let many = ("DRIFT_RETENTION_HTTP__SIGN_INS_PER_MINUTE", "100000");
    let console = Console::serving("api", &[many]).await;
    let org = console.app.org_with_expired(3).await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    let purge = format!("/console/orgs/{org}/retention/purge");
    let csrf = operator.csrf(&purge).await;
    let mut fields: Vec<String> = ["reason", "key", "csrf", "ODD"]
        .map(|field| format!("{purge}?csrf={csrf}&{field}=ODD"))
        .into();
    fields.push(format!(
        "/console/runs/replay?csrf={csrf}&run=ODD&reason=ODD"
    ));
    fields.push("/signout?csrf=ODD".to_owned());
    ask_everywhere(&fields, async |form| {
        let (path, body) = form.split_once('?').unwrap();
        operator.post_raw(path, body.as_bytes()).await
    })
    .await;

    let mut visitor = Visitor::of(&console);
    for next in ["ODD", "/console/ODD", "/console/%01", "/console/runs?ODD"] {
        let csrf = visitor.csrf("/signin").await;
        let token = Who::Operator.token().await;
        let form = format!("/signin?csrf={csrf}&token={token}&next={next}");
        ask_everywhere(&[form], async |form| {
            // Each begins where nobody is signed in yet.
            let (path, body) = form.split_once('?').unwrap();
            let answer = visitor.clone().post_raw(path, body.as_bytes()).await;
            if answer.status == 303 {
                let to = answer.header("location").unwrap();
                assert!(to.starts_with("/console"), "{to}");
            }
            answer
        })
        .await;
    }
    for path in ["/signin", &purge] {
        let answer = operator.post_raw(path, &vec![b'a'; 100_000]).await;
        assert_eq!(answer.status, 413, "{path}: {}", answer.text());
        assert!(is_told(&answer), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn odd_bytes_in_any_header_are_told_by_a_problem_or_a_page() {
    let console = Console::start().await;
    let org = console.app.org_with_expired(3).await;
    let client = reqwest::Client::new();
    let token = Who::Operator.token().await;
    let values: [&[u8]; 6] = [
        b"",
        b"\xff\xfe",
        b"%01",
        "\u{202e}é🦀".as_bytes(),
        b"\t;,=\"",
        &[b'a'; 6000],
    ];
    for header in [
        "accept",
        "accept-encoding",
        "authorization",
        "content-type",
        "cookie",
        "host",
        "hx-request",
        "idempotency-key",
        "if-none-match",
        "origin",
        "range",
        "referer",
        "traceparent",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
    ] {
        for (value, path) in values
            .iter()
            .flat_map(|value| {
                ["/console/runs", "/signin", "/retention/runs", "/readyz"]
                    .map(|path| (*value, path.to_owned()))
            })
            .chain(
                values
                    .iter()
                    .map(|value| (*value, format!("/orgs/{org}/retention/purge"))),
            )
        {
            let method = if path.ends_with("/purge") {
                Method::POST
            } else {
                Method::GET
            };
            let mut request = client
                .request(method, console.url(&path))
                .header(header, value);
            if header != "authorization" {
                request = request.bearer_auth(&token);
            }
            let answer = answer(request).await;
            assert!(
                is_told(&answer),
                "{header} of {path}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
}

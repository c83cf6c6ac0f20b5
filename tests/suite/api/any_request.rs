//! Requests of any bytes to the API and the console: a cursor, a query, an address, a form or a header is used, or a problem or
//! a page says what is wrong with it.

use std::cell::RefCell;

use drift_retention::runs::Cursor;
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use reqwest::Method;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Api, answer, token},
    app::App,
    console::{Console, Who},
    visitor::Visitor,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

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

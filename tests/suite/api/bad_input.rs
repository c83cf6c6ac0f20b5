//! Whatever is sent, the answer is a 4xx that says what is wrong, and nothing changed; and what stands around every
//! answer: request ids, security headers, compression, and no word to foreign origins.

use reqwest::{
    RequestBuilder,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::{Answer, Api, answer, token},
    app::App,
};

/// An API with one organization, and an operator who sends it things.
struct Target {
    api: Api,
    org: Uuid,
    operator: String,
}

impl Target {
    async fn new() -> Self {
        let api = Api::start().await;
        Self {
            org: App::on(&api.db.pool).org_with_expired(3).await,
            api,
            operator: token("operator", None),
        }
    }

    fn purge(&self) -> String {
        format!("/orgs/{}/retention/purge", self.org)
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.api.request(method, path).bearer_auth(&self.operator)
    }

    async fn get(&self, path: &str) -> Answer {
        self.api.get(path, &self.operator).await
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.api.post(path, &self.operator, body).await
    }

    /// Rows of all of the product's tables, and of the queue's.
    async fn rows(&self) -> Value {
        self.api
            .db
            .value(
                "SELECT jsonb_object_agg(relname, (xpath('/row/n/text()', query_to_xml(
                     format('SELECT count(*) AS n FROM %s', oid::regclass), false, true, '')))[1]::text)
                 FROM pg_class WHERE relkind = 'r'
                   AND (relnamespace = 'retention'::regnamespace OR oid = 'apalis.jobs'::regclass)",
            )
            .await
    }
}

#[tokio::test]
async fn ids_that_are_none_are_bad_requests() {
    let target = Target::new().await;
    let before = target.rows().await;
    let huge = "9".repeat(4_000);
    for id in ["17", "-1", "not-an-id", "%00", "%FF", "' OR 1=1", &huge] {
        let id = id.replace(' ', "%20");
        for path in [
            format!("/orgs/{id}/environments"),
            format!("/orgs/{}/environments/{id}", target.org),
            format!("/orgs/{id}/retention/policy"),
            format!("/orgs/{}/incidents/{id}", target.org),
            format!("/retention/runs/{id}"),
            format!("/retention/runs/{id}/events"),
        ] {
            target.get(&path).await.assert_problem(400, &path);
        }
        for path in [
            format!("/orgs/{id}/retention/purge"),
            format!("/retention/runs/{id}/replay"),
            format!("/retention/runs/{id}/cancel"),
        ] {
            target.post(&path, "{}").await.assert_problem(400, &path);
        }
    }
    assert_eq!(target.rows().await, before);
}

#[tokio::test]
async fn queries_that_mean_nothing_are_bad_requests() {
    let target = Target::new().await;
    let org = format!("/orgs/{}", target.org);
    let id = "00000000000000000000000000000000";
    let lists = [
        "/retention/runs",
        "/retention/runs-of",
        "/environments",
        "/incidents",
    ];
    for list in lists {
        let path = match list {
            "/retention/runs" => list.to_owned(),
            "/retention/runs-of" => format!("{org}/retention/runs"),
            of_org => format!("{org}{of_org}"),
        };
        for query in [
            "limit=0",
            "limit=-1",
            "limit=201",
            "limit=99999999999999999999",
            "limit=1e2",
            "limit=",
            "limit=ten",
            "limit=5&limit=6",
            "cursor=x",
            "cursor=%00",
            "cursor=_",
            "cursor=1_2",
            "unknown=1",
            "Limit=5",
            "limit[]=5",
            &format!("cursor=99999999999999999999_{id}"),
            &format!("cursor=-8000000000000000000_{id}"),
            &format!("cursor=9223372036854775807_{id}"),
            &format!("cursor=-9223372036854775808_{id}"),
        ] {
            let what = format!("{path}?{query}");
            target.get(&what).await.assert_problem(400, &what);
        }
    }
    for query in [
        "status=done",
        "status=queued&status=failed",
        "org_id=17",
        "since=yesterday",
        "since=2024-02-30T00:00:00Z",
        "until=%00",
        "error_kind=a%00b",
        "since=-100000-01-01T00:00:00Z",
        "until=%2B262142-12-31T00:00:00Z",
    ] {
        let what = format!("/retention/runs?{query}");
        target.get(&what).await.assert_problem(400, &what);
    }
    let what = format!("{org}/incidents?status=a%00b");
    target.get(&what).await.assert_problem(400, &what);
}

#[tokio::test]
async fn bodies_that_mean_nothing_are_refused_and_nothing_changes() {
    let target = Target::new().await;
    let before = target.rows().await;
    let long = json!({"reason": "r".repeat(1_001)}).to_string();
    let deep = "[".repeat(30_000);
    let run = format!("/retention/runs/{}", Uuid::new_v4());
    let paths = [
        target.purge(),
        "/retention/runs/replay".to_owned(),
        format!("{run}/replay"),
        format!("{run}/cancel"),
    ];
    for path in &paths {
        for body in [
            "{",
            "[]",
            "17",
            "\"reason\"",
            "{}{}",
            "{\"reason\": 17}",
            "{\"unknown\": 1}",
            "{\"reason\": \"a\", \"reason\": \"b\"}",
            "{\"reason\": \"a\\u0000b\"}",
            "\0",
            "{\"reason\": \"\\ud800\"}",
            &long,
            &deep,
        ] {
            let what = format!("{path} {}", &body[..body.len().min(60)]);
            target
                .post(path, body.to_owned())
                .await
                .assert_problem(400, &what);
        }
        let no_utf8 = b"{\"reason\": \"\xff\"}".to_vec();
        target
            .post(path, no_utf8)
            .await
            .assert_problem(400, "no UTF-8");
        let huge = json!({"reason": "r".repeat(10 * 1024 * 1024)}).to_string();
        // The service may close before it has read all: then there is no answer to read.
        let sent = target
            .request("POST", path)
            .header(CONTENT_TYPE, "application/json");
        if let Ok(response) = sent.body(huge).send().await {
            assert_eq!(response.status(), 413, "{path}");
        }
        let some = json!({"reason": "r".repeat(70_000)}).to_string();
        target.post(path, some).await.assert_problem(413, path);
        for media_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
        ] {
            let request = target
                .request("POST", path)
                .header(CONTENT_TYPE, media_type);
            answer(request.body("{}"))
                .await
                .assert_problem(415, media_type);
        }
        answer(target.request("POST", path).body("{}"))
            .await
            .assert_problem(415, "no type");
    }
    for body in [
        json!({"status": "succeeded"}),
        json!({"status": "running"}),
        json!({"status": "?"}),
        json!({"error_kind": "a\0b"}),
        json!({"org_id": "17"}),
        json!({"dry_run": "yes"}),
        json!({"since": "yesterday"}),
        json!({"since": 99_999_999_999_999_999_u64}),
        json!({"since": "-100000-01-01T00:00:00Z", "dry_run": true}),
    ] {
        let what = body.to_string();
        target
            .post("/retention/runs/replay", what.clone())
            .await
            .assert_problem(400, &what);
    }
    assert_eq!(target.rows().await, before);
}

#[tokio::test]
async fn idempotency_keys_that_cannot_be_kept_are_refused() {
    let target = Target::new().await;
    let before = target.rows().await;
    let long = "k".repeat(201);
    for key in [
        b"".as_slice(),
        long.as_bytes(),
        "schlüssel".as_bytes(),
        b"\xff",
    ] {
        let key = HeaderValue::from_bytes(key).unwrap();
        let what = format!("{key:?}");
        let request = target
            .request("POST", &target.purge())
            .header("Idempotency-Key", key);
        answer(request).await.assert_problem(400, &what);
    }
    assert_eq!(target.rows().await, before);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let target = Target::new().await;
    let before = target.rows().await;
    for path in [
        "/nothing",
        "/orgs",
        "/orgs/",
        "/retention",
        "/healthz/",
        "//healthz",
    ] {
        target.get(path).await.assert_problem(404, path);
    }
    for (method, path) in [
        ("GET", target.purge()),
        ("DELETE", target.purge()),
        ("PUT", "/retention/runs".to_owned()),
        ("POST", "/healthz".to_owned()),
        ("PATCH", format!("/retention/runs/{}", Uuid::new_v4())),
        ("BREW", "/openapi.json".to_owned()),
    ] {
        let answer = answer(target.request(method, &path)).await;
        answer.assert_problem(405, &format!("{method} {path}"));
        assert!(answer.header("allow").is_some(), "{method} {path}");
    }
    assert_eq!(target.rows().await, before);
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_security_headers() {
    let target = Target::new().await;
    for path in [
        "/healthz",
        "/openapi.json",
        "/retention/runs",
        "/nothing",
        "/retention/runs/17",
    ] {
        let made = target.get(path).await;
        let id = made.header("x-request-id").unwrap();
        assert!(id.parse::<Uuid>().is_ok(), "{path}: {id}");
        let given = answer(target.request("GET", path).header("x-request-id", "abc-17")).await;
        assert_eq!(given.header("x-request-id"), Some("abc-17"), "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(made.header(name), Some(value), "{path}: {name}");
        }
        let policy = made.header("content-security-policy").unwrap();
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
    }
}

#[tokio::test]
async fn answers_are_compressed_for_who_asks() {
    let target = Target::new().await;
    let plain = target.get("/openapi.json").await;
    assert_eq!(plain.header("content-encoding"), None);
    let request = target.request("GET", "/openapi.json");
    let zipped = answer(request.header("accept-encoding", "gzip")).await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert!(zipped.body.starts_with(&[0x1f, 0x8b]) && zipped.body.len() < plain.body.len());
}

#[tokio::test]
async fn foreign_origins_are_told_nothing() {
    let target = Target::new().await;
    let before = target.rows().await;
    let asked = target
        .request("OPTIONS", &target.purge())
        .header("Origin", "https://evil.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization");
    let preflight = answer(asked).await;
    preflight.assert_problem(405, "preflight");
    let read = target
        .request("GET", "/retention/runs")
        .header("Origin", "https://evil.example");
    for answer in [preflight, answer(read).await] {
        let names = answer.headers.keys();
        let cors: Vec<_> = names
            .filter(|name| name.as_str().starts_with("access-control-"))
            .collect();
        assert!(cors.is_empty(), "{cors:?}");
    }
    assert_eq!(target.rows().await, before);
}

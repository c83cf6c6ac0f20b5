//! A caller of the HTTP API: a base URL and a token that the product's `token` command signed.

use std::ffi::OsStr;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::{
    TestDatabase,
    product::{self, Service},
};

/// The secret that services and tokens of a test share.
pub const SECRET: (&str, &str) = (
    "DRIFT_RETENTION_AUTH__HS256_SECRET",
    "a secret of the tests, long enough to be one",
);

/// Starts `serve` with these roles, the tests' secret and extra environment, and waits until it is ready.
pub async fn serve(db: &TestDatabase, roles: &str, env: &[(&str, &str)]) -> Service {
    let env: Vec<_> = env.iter().copied().chain([SECRET]).collect();
    let service = Service::start(&db.url, roles, &env);
    service.ready().await;
    service
}

/// A token with these claims, as arguments of the command that signs it.
pub async fn token(claims: &[impl AsRef<OsStr>]) -> String {
    let minted = product::command("")
        .arg("token")
        .args(claims)
        .env(SECRET.0, SECRET.1)
        .output()
        .await
        .unwrap();
    assert!(minted.status.success(), "{minted:?}");
    String::from_utf8(minted.stdout).unwrap().trim().to_owned()
}

/// Somebody with a token.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    /// An operator named `oda`.
    pub async fn operator(service: &Service) -> Self {
        Self::with(service, &["--sub", "oda", "--role", "operator"]).await
    }

    /// An admin of `org` named `ada`.
    pub async fn admin(service: &Service, org: Uuid) -> Self {
        let org = org.to_string();
        Self::with(service, &["--sub", "ada", "--role", "admin", "--org", &org]).await
    }

    async fn with(service: &Service, claims: &[&str]) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: format!("http://127.0.0.1:{}", service.port),
            token: token(claims).await,
        }
    }

    /// The same, with another token.
    pub fn with_token(self, token: String) -> Self {
        Self { token, ..self }
    }

    /// A request with the token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token)
    }

    /// GET, whatever the answer: status and JSON.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    /// GET that must be answered with 200.
    pub async fn read(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// POST of JSON, whatever the answer.
    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// All items of a list, page by page of so many; fails when a page but the last is not full.
    pub async fn pages(&self, path: &str, limit: usize) -> Vec<Value> {
        let first = format!(
            "{path}{}limit={limit}",
            if path.contains('?') { '&' } else { '?' }
        );
        let mut page = self.read(&first).await;
        let mut items = Vec::new();
        loop {
            let of_page = page["items"].as_array().unwrap();
            items.extend(of_page.iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else {
                return items;
            };
            assert_eq!(of_page.len(), limit, "only the last page is short");
            page = self.read(&format!("{first}&cursor={cursor}")).await;
        }
    }

    /// Follows a run's events; anything but a stream fails.
    pub async fn follow(&self, run: Uuid) -> Events {
        let path = format!("/retention/runs/{run}/events");
        let response = self.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events {
            response,
            text: String::new(),
        }
    }
}

/// Sends a request; status and JSON of the answer.
pub async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    let body =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} with no JSON: {text}"));
    (status, body)
}

/// Server-sent events as they come.
pub struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// The next run that the stream tells of; nothing when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                    assert!(event.lines().any(|line| line == "event: run"), "{event}");
                    return Some(serde_json::from_str(data).unwrap());
                }
                continue; // a comment that keeps the connection alive
            }
            let chunk = self.response.chunk().await.ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// An id that an answer holds.
pub fn id(value: &Value) -> Uuid {
    value.as_str().unwrap().parse().unwrap()
}

/// The same JSON without these keys.
pub fn without(mut value: Value, keys: &[&str]) -> Value {
    for key in keys {
        value.as_object_mut().unwrap().remove(*key);
    }
    value
}

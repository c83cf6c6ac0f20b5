//! The HTTP API of a service of this test's own, with tokens as the sign-in service of the main app would sign them.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::{
    Method, RequestBuilder,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{TestDatabase, product::Service};

/// What the service shares with whoever signs tokens.
pub const SECRET: &str = "a secret of the tests, of thirty-two bytes or more";
pub const ISSUER: &str = "https://sign-in.example";
pub const AUDIENCE: &str = "drift-retention";

/// The settings of a service that takes tokens signed with [`SECRET`].
pub const HS256: [(&str, &str); 3] = [
    ("DRIFT_RETENTION_AUTH__HS256_SECRET", SECRET),
    ("DRIFT_RETENTION_AUTH__ISSUER", ISSUER),
    ("DRIFT_RETENTION_AUTH__AUDIENCE", AUDIENCE),
];

/// A service in the role `api`: it purges nothing.
pub struct Api {
    pub db: TestDatabase,
    pub service: Service,
    client: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Fails unless this is a problem as documented, of this status.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, what: &str) {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{what}: {text}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{what}: {text}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status, "{what}");
        for member in ["title", "detail"] {
            let text = problem[member].as_str().unwrap();
            assert!(!text.is_empty(), "{what}: {member}");
        }
        let kind = problem["type"].as_str().unwrap();
        assert!(
            kind.starts_with("urn:drift-retention:problem:"),
            "{what}: {kind}"
        );
    }
}

impl Api {
    /// A service that takes tokens signed with [`SECRET`].
    pub async fn start() -> Self {
        Self::with(&HS256).await
    }

    /// A service with these settings.
    pub async fn with(env: &[(&str, &str)]) -> Self {
        let db = TestDatabase::new().await;
        let service = Service::start(&db.url, "api", env);
        service.ready().await;
        Self {
            db,
            service,
            client: reqwest::Client::new(),
        }
    }

    /// A request without a token.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method: Method = method.parse().unwrap();
        let url = format!("http://127.0.0.1:{}{path}", self.service.port);
        self.client.request(method, url)
    }

    /// What a request with this token is answered.
    pub async fn send(&self, method: &str, path: &str, token: &str) -> Answer {
        answer(self.request(method, path).bearer_auth(token)).await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, token).await
    }

    /// A request with a body that says it is JSON, whatever it is.
    pub async fn post(&self, path: &str, token: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request("POST", path).bearer_auth(token);
        answer(request.header(CONTENT_TYPE, "application/json").body(body)).await
    }
}

/// Sends a request, and reads the answer to its end.
pub async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await.unwrap().to_vec(),
    }
}

/// Claims that the service takes, for an hour.
pub fn claims(role: &str, org: Option<Uuid>) -> Value {
    let mut claims = json!({
        "sub": format!("{role}@example.com"), "role": role, "iss": ISSUER, "aud": AUDIENCE,
        "exp": get_current_timestamp() + 3600,
    });
    if let Some(org) = org {
        claims["org_id"] = json!(org);
    }
    claims
}

/// These claims, one of them changed; null takes it away.
pub fn but(mut claims: Value, name: &str, value: Value) -> Value {
    let members = claims.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    claims
}

/// Signed with a shared secret by HS256.
pub fn signed_with(secret: &[u8], claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret);
    signed(&Header::new(Algorithm::HS256), &key, claims)
}

/// Signed with any key.
pub fn signed(header: &Header, key: &EncodingKey, claims: &Value) -> String {
    encode(header, claims, key).unwrap()
}

/// A token that the service takes.
pub fn token(role: &str, org: Option<Uuid>) -> String {
    signed_with(SECRET.as_bytes(), &claims(role, org))
}

//! A browser reduced to its cookies: what the console answers, header by header, redirects not followed.

use std::collections::BTreeMap;

use reqwest::{
    Method, RequestBuilder,
    header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue},
    redirect::Policy,
};

use super::{
    api::{Answer, answer},
    console::{Console, Who},
};

/// The cookie of a session.
pub const SESSION: &str = "drift_retention_session";

/// Somebody with a cookie jar.
#[derive(Clone)]
pub struct Visitor {
    http: reqwest::Client,
    origin: String,
    headers: HeaderMap,
    pub cookies: BTreeMap<String, String>,
}

impl Visitor {
    /// Nobody yet.
    pub fn of(console: &Console) -> Self {
        Self {
            http: reqwest::Client::builder()
                .redirect(Policy::none())
                .build()
                .unwrap(),
            origin: console.origin(),
            headers: HeaderMap::new(),
            cookies: BTreeMap::new(),
        }
    }

    /// The same, who calls the service by this name.
    pub fn calling(self, host: &'static str) -> Self {
        self.saying("host", host)
    }

    /// The same, who sends this header with every request.
    pub fn saying(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    /// The same, at another service.
    pub fn moved_to(&self, console: &Console) -> Self {
        Self {
            origin: console.origin(),
            ..self.clone()
        }
    }

    /// Somebody who has signed in by link.
    pub async fn signed_in(console: &Console, who: Who) -> Self {
        let mut visitor = Self::of(console);
        let arrived = visitor.take_link(&who.link().await).await;
        assert_eq!(arrived.status, 303, "{}", arrived.text());
        visitor
    }

    /// Opens the sign-in link with this token, and presses the button there.
    pub async fn take_link(&mut self, token: &str) -> Answer {
        let csrf = self.csrf(&format!("/signin?token={token}")).await;
        let fields = [("csrf", &*csrf), ("token", token), ("link", "true")];
        self.post("/signin", &fields).await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(Method::GET, path).await
    }

    /// A request without a body.
    pub async fn ask(&mut self, method: Method, path: &str) -> Answer {
        let request = self.request(method, path);
        self.send(request).await
    }

    /// Sends a form with exactly these fields.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let encoded = reqwest::Url::parse_with_params("http://form", fields).unwrap();
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(encoded.query().unwrap_or_default().to_owned());
        self.send(request).await
    }

    /// Sends a form's body as it is.
    pub async fn post_raw(&mut self, path: &str, body: &[u8]) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body.to_owned());
        self.send(request).await
    }

    /// The token that the forms of a page carry.
    pub async fn csrf(&mut self, path: &str) -> String {
        let page = self.get(path).await.text();
        let (_, rest) = page
            .split_once(r#"name="csrf" value=""#)
            .unwrap_or_else(|| panic!("{page}"));
        rest.split('"').next().unwrap().to_owned()
    }

    /// The present value of the session's cookie.
    pub fn session(&self) -> String {
        self.cookies[SESSION].clone()
    }

    /// Whether the console still knows them.
    pub async fn is_signed_in(&mut self) -> bool {
        let answer = self.get("/console").await;
        assert_eq!(answer.status, 303);
        !answer.header("location").unwrap().starts_with("/signin")
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.origin));
        let request = request.headers(self.headers.clone());
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if cookies.is_empty() {
            request
        } else {
            request.header(COOKIE, cookies.join("; "))
        }
    }

    async fn send(&mut self, request: RequestBuilder) -> Answer {
        let answer = answer(request).await;
        for set in set_cookies(&answer) {
            let (pair, attributes) = set.split_once(';').unwrap_or((&set, ""));
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

/// The `Set-Cookie` headers of an answer.
pub fn set_cookies(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("set-cookie").iter();
    all.map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

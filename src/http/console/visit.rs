//! The middleware and extractors of the console: they find the session of a cookie, check the CSRF token of a form, and
//! set the security headers.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, OriginalUri, Request, State},
    http::{HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use serde::{Deserialize, de::DeserializeOwned};
use subtle::ConstantTimeEq;

use super::{
    failure::Failure,
    session::{self, COOKIE, Visitor},
};
use crate::http::{ApiState, Problem, auth::KeyState, proxies::HttpsOnly};

/// Allows only our own files, and no inline scripts or styles.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Identifies the visitor, replaces an old cookie, and sets the pages' headers.
pub(super) async fn identify_visitor(
    State(state): State<ApiState>,
    jar: CookieJar,
    https_only: HttpsOnly,
    mut request: Request,
    next: Next,
) -> Response {
    let cookie = jar.get(COOKIE).map(|cookie| cookie.value().to_owned());
    let mut exchanged = None;
    if let Some(cookie) = &cookie {
        match visitor(&state, cookie).await {
            Ok(CookieOwner::Visitor(visitor, next)) => {
                let counted = state
                    .limits
                    .admit_request(&visitor.identity, request.extensions());
                if let Err(problem) = counted.await {
                    return Failure::from(problem).into_response();
                }
                request.extensions_mut().insert(visitor);
                exchanged = next;
            }
            Ok(CookieOwner::KeyUnknown) => {
                request.extensions_mut().insert(KeyUnknown);
            }
            Ok(CookieOwner::Nobody) => {}
            Err(error) => return Failure::from(error).into_response(),
        }
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    );
    // A cookie that the handler sets itself (sign-in, sign-out) takes precedence.
    match exchanged {
        Some(cookie) if !response.headers().contains_key(header::SET_COOKIE) => (
            CookieJar::new().add(session_cookie(cookie, https_only)),
            response,
        )
            .into_response(),
        _ => response,
    }
}

/// The owner of a cookie.
enum CookieOwner {
    /// A signed-in visitor, and a new cookie if the old one was replaced.
    Visitor(Visitor, Option<String>),
    /// No valid session.
    Nobody,
    /// A session whose key cannot be checked, because the key set cannot be read now.
    KeyUnknown,
}

/// Marks a request whose key cannot be checked. Its session is neither trusted nor ended.
#[derive(Clone, Copy)]
struct KeyUnknown;

async fn visitor(state: &ApiState, cookie: &str) -> sqlx::Result<CookieOwner> {
    let Some(session) = session::find(&state.database, cookie).await? else {
        return Ok(CookieOwner::Nobody);
    };
    match state.verifier.key_state(&session.key, session.age).await {
        KeyState::Configured => {}
        KeyState::Unknown => return Ok(CookieOwner::KeyUnknown),
        KeyState::Gone => {
            session::end(&state.database, cookie).await?;
            tracing::info!(session = %session.id, "a session ended: its key is no longer configured");
            return Ok(CookieOwner::Nobody);
        }
    }
    // A database that is read-only for a moment must not prevent reading.
    if session.was_idle
        && let Err(error) = session::note_use(&state.database, session.id).await
    {
        tracing::debug!(%error, "cannot record the use of a session");
    }
    let exchanged = if session.is_stale {
        session::rotate(&state.database, cookie).await?
    } else {
        None
    };
    Ok(CookieOwner::Visitor(session.visitor, exchanged))
}

/// The cookie of a session.
pub(super) fn session_cookie(secret: String, HttpsOnly(https_only): HttpsOnly) -> Cookie<'static> {
    Cookie::build((COOKIE, secret))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(https_only)
        .build()
}

impl FromRequestParts<ApiState> for Visitor {
    type Rejection = Failure;

    /// Redirects a user who is not signed in to the sign-in page, and after it to the requested page.
    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Failure> {
        if let Some(visitor) = parts.extensions.get::<Self>() {
            return Ok(visitor.clone());
        }
        if parts.extensions.get::<KeyUnknown>().is_some() {
            let why = "the keys of the sign-in service cannot be read now; try again in a moment";
            return Err(Problem::busy(why).into());
        }
        if parts.headers.contains_key("hx-request") {
            return Err(Failure::SignInAgain);
        }
        if parts.method != Method::GET {
            let why = "your session has ended; sign in, then do it again";
            return Err(Problem::unauthorized(why).into());
        }
        // The routes are nested, so their own path lacks the prefix.
        let uri = parts.extensions.get::<OriginalUri>();
        let uri = uri.map_or(&parts.uri, |OriginalUri(uri)| uri);
        let wanted = uri.path_and_query().map_or("", |path| path.as_str());
        Err(Failure::SignInFirst(wanted.to_owned()))
    }
}

/// A form that comes from a page of this visitor's session, as its CSRF token proves.
#[derive(Debug)]
pub(super) struct Signed<T>(pub Visitor, pub T);

#[derive(Deserialize)]
struct Csrf {
    #[serde(default)]
    csrf: String,
}

impl<T: DeserializeOwned> FromRequest<ApiState> for Signed<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, state).await?;
        let body = Bytes::from_request(Request::from_parts(parts, body), state)
            .await
            .map_err(Problem::from)?;
        let sent: Csrf = parse_form(&body)?;
        if !bool::from(sent.csrf.as_bytes().ct_eq(visitor.csrf.as_bytes())) {
            let problem = Problem::forbidden(
                "the form does not come from a page of your session; reload the page, then send it again",
            );
            return Err(problem.into());
        }
        Ok(Self(visitor, parse_form(&body)?))
    }
}

/// Reads a form's fields.
pub(super) fn parse_form<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_html_form::from_bytes(body)
        .map_err(|error| Problem::bad_request(format!("the form cannot be read: {error}")))
}

/// A page's query. An empty field of a form counts as absent.
#[derive(Debug)]
pub(super) struct PageQuery<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for PageQuery<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Failure> {
        let query = parts.uri.query().unwrap_or_default();
        let filled: Vec<&str> = query
            .split('&')
            .filter(|pair| !pair.ends_with('='))
            .collect();
        Ok(Self(parse_form(filled.join("&").as_bytes())?))
    }
}

/// A path's ids.
#[derive(Debug)]
pub(super) struct PagePath<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<ApiState> for PagePath<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(ids)) => Ok(Self(ids)),
            Err(_) => Err(Problem::not_found().into()),
        }
    }
}

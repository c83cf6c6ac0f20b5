//! How a request came to us: what the proxy in front says of it, where the settings trust that proxy.

use std::net::SocketAddr;

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::Response,
};

use super::ApiState;
use crate::config::TrustedProxies;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whether the browser sends our cookies over HTTPS only. It must not where it cannot: on plain HTTP, which is for
/// loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HttpsOnly(pub bool);

impl HttpsOnly {
    pub(super) fn of(parts: &Parts, state: &ApiState) -> Self {
        let came_by_https = came_by_https(&parts.extensions, &parts.headers, &state.proxies);
        Self(!is_loopback(&parts.headers) || came_by_https)
    }
}

impl FromRequestParts<ApiState> for HttpsOnly {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts, state))
    }
}

/// Whether a trusted proxy says that the browser reached it over HTTPS. Of several proxies the first one, which the browser
/// reached, has the first word.
fn came_by_https(extensions: &Extensions, headers: &HeaderMap, proxies: &TrustedProxies) -> bool {
    let client = extensions.get::<ConnectInfo<SocketAddr>>();
    let is_trusted = client.is_some_and(|client| proxies.contain(client.ip()));
    let said = headers.get(FORWARDED_PROTO);
    let said = said.and_then(|said| said.to_str().ok()).unwrap_or_default();
    let first = said.split(',').next().unwrap_or_default();
    is_trusted && first.trim().eq_ignore_ascii_case("https")
}

/// Tells a browser that came by HTTPS to come by nothing else for a year. Of other names below this one we know nothing.
pub(super) async fn keep_to_https(
    State(proxies): State<TrustedProxies>,
    request: Request,
    next: Next,
) -> Response {
    let came_by_https = came_by_https(request.extensions(), request.headers(), &proxies);
    let mut response = next.run(request).await;
    if came_by_https {
        response.headers_mut().insert(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        );
    }
    response
}

/// Whether the browser asked for this machine by a loopback name.
fn is_loopback(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
    name.is_some_and(|name| {
        let name = name.trim_matches(['[', ']']);
        name == "localhost"
            || name
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

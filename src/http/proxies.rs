//! The origin of a request, as the proxy in front reports it, if the settings trust that proxy.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::Response,
};

use super::ApiState;
use crate::config::TrustedProxies;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: the last address in the chain that is not a trusted proxy. The client may have invented the
/// addresses before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientAddress(pub IpAddr);

impl FromRequestParts<ApiState> for ClientAddress {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        let client = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let client = client.map_or(IpAddr::from([0, 0, 0, 0]), |client| client.ip());
        Ok(Self(client_address(client, &parts.headers, &state.proxies)))
    }
}

fn client_address(connected: IpAddr, headers: &HeaderMap, proxies: &TrustedProxies) -> IpAddr {
    let said = headers.get_all(FORWARDED_FOR).iter();
    let said = said.filter_map(|said| said.to_str().ok());
    let mut before: Vec<IpAddr> = said
        .flat_map(|said| said.split(','))
        // An entry that is not an address ends the chain: nothing before it is trusted.
        .map(|address| address.trim().parse().unwrap_or(IpAddr::from([0, 0, 0, 0])))
        .collect();
    let mut client = connected;
    while proxies.contain(client) {
        match before.pop() {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// Whether our cookies are marked for HTTPS only. They are not on plain HTTP, which only loopback addresses may use.
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

/// Whether a trusted proxy says that the browser reached it over HTTPS. If there are several proxies, the first value
/// counts: it comes from the proxy that the browser reached.
fn came_by_https(extensions: &Extensions, headers: &HeaderMap, proxies: &TrustedProxies) -> bool {
    let client = extensions.get::<ConnectInfo<SocketAddr>>();
    let is_trusted = client.is_some_and(|client| proxies.contain(client.ip()));
    let said = headers.get(FORWARDED_PROTO);
    let said = said.and_then(|said| said.to_str().ok()).unwrap_or_default();
    let first = said.split(',').next().unwrap_or_default();
    is_trusted && first.trim().eq_ignore_ascii_case("https")
}

/// Tells a browser that came by HTTPS to use only HTTPS for a year. Subdomains are not included, because they may
/// belong to other services.
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

/// Whether the request's `Host` is a loopback name or address.
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn client_is_the_last_address_that_is_no_trusted_proxy() {
        let proxies = serde_json::from_str(r#"["10.0.0.0/8"]"#).unwrap();
        let address = |connected: &str, said: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for said in said {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(said));
            }
            client_address(connected.parse().unwrap(), &headers, &proxies).to_string()
        };
        // Only a trusted proxy is believed.
        assert_eq!(address("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(address("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        // The client's own claim precedes the address that the proxy saw.
        assert_eq!(
            address("10.0.0.1", &["203.0.113.9, 198.51.100.1"]),
            "198.51.100.1"
        );
        assert_eq!(
            address("10.0.0.1", &["203.0.113.9", "198.51.100.1, 10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(address("10.0.0.1", &["198.51.100.1, unknown"]), "0.0.0.0");
        assert_eq!(address("10.0.0.1", &[]), "10.0.0.1");
    }
}

//! `http.*`: the address of the HTTP server, the trusted proxies in front of it, and the rate limits.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::ToSchema;

use super::attach::list_or_text;

/// `http.*`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// The address of the HTTP server: health, metrics, the API and the console.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// Addresses and networks of proxies whose `X-Forwarded-Proto` and `X-Forwarded-For` are trusted: `["127.0.0.1",
    /// "10.0.0.0/8"]`. In the environment, separated by commas.
    #[schema(value_type = Vec<String>)]
    pub trusted_proxies: TrustedProxies,
    /// Requests per minute that the members of one organization may send to the API and the console. Operators have no
    /// limit.
    #[schema(value_type = u32)]
    pub requests_per_minute: NonZeroU32,
    /// Purges per minute that may be requested for one organization over HTTP.
    #[schema(value_type = u32)]
    pub purges_per_minute: NonZeroU32,
    /// Sign-in attempts per minute that one address may make at the console. Opening a sign-in link counts as one.
    #[schema(value_type = u32)]
    pub sign_ins_per_minute: NonZeroU32,
}

impl HttpConfig {
    /// The address at which this machine reaches the service: `listen`, or loopback if it listens on every address.
    #[must_use]
    pub fn own_address(&self) -> SocketAddr {
        let mut address = self.listen;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        address
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            trusted_proxies: TrustedProxies::default(),
            requests_per_minute: NonZeroU32::new(6_000).unwrap_or(NonZeroU32::MAX),
            purges_per_minute: NonZeroU32::new(30).unwrap_or(NonZeroU32::MAX),
            sign_ins_per_minute: NonZeroU32::new(60).unwrap_or(NonZeroU32::MAX),
        }
    }
}

/// The proxies whose forwarding headers are trusted.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Whether `address` is a trusted proxy.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        // A socket for both families reports an IPv4 address as ::ffff:10.0.0.1.
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl Serialize for TrustedProxies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(IpNet::to_string))
    }
}

impl<'de> Deserialize<'de> for TrustedProxies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = list_or_text(deserializer)?;
        let networks = entries.iter().map(|entry| {
            let one_address = || entry.parse().map(|address: IpAddr| IpNet::from(address.to_canonical()));
            entry.parse().or_else(|_| one_address()).map_err(|_| {
                D::Error::custom(format!(
                    "http.trusted_proxies: {entry:?} is neither an address (10.0.0.7) nor a network (10.0.0.0/8)"
                ))
            })
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

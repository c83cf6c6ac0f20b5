//! `http.*`: where HTTP is served, and which proxies stand before it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::ToSchema;

use super::attach::several;

/// `http.*`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Where HTTP is served: health, metrics, the API and the console.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// Addresses and networks of proxies that are believed when they say `X-Forwarded-Proto: https`, and where a
    /// request comes from (`X-Forwarded-For`): `["127.0.0.1", "10.0.0.0/8"]`. In the environment separated by commas.
    #[schema(value_type = Vec<String>)]
    pub trusted_proxies: TrustedProxies,
    /// How many requests the people of one organization may send in a minute, to the API and the console. Operators may send more.
    #[schema(value_type = u32)]
    pub requests_per_minute: NonZeroU32,
    /// How many purges of one organization may be asked for in a minute, over HTTP.
    #[schema(value_type = u32)]
    pub purges_per_minute: NonZeroU32,
    /// How many attempts to sign in to the console one address may make in a minute; a sign-in link that is looked at is one.
    #[schema(value_type = u32)]
    pub sign_ins_per_minute: NonZeroU32,
}

impl HttpConfig {
    /// Where this machine reaches the service: `listen`, or loopback where it listens on every address.
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

/// The proxies that are believed when they say how a request came to them.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Whether `address` is one of them.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        // On a socket for both families an IPv4 address comes as ::ffff:10.0.0.1.
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
        let entries = several(deserializer)?;
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

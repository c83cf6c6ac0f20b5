//! A token's header and claims, and the checks that they are valid now, for this service and for this purpose.
//!
//! Claims are read strictly: each occurs once, in one form. A token is for the API or for a sign-in link, never for both.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Datelike, Utc};
use jsonwebtoken::get_current_timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Number, Value};
use uuid::Uuid;

use super::{Identity, Role};
use crate::{config::AuthConfig, ids::OrgId};

/// How far the clocks of issuer and service may differ.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);
/// The longest time that a sign-in link is valid.
pub const LINK_LIFETIME: Duration = Duration::from_mins(10);
/// The `use` claim of a link's token. A token for the API has no `use`.
const CONSOLE_LINK: &str = "console_link";

/// The purpose of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Calling the API, and signing in to the console with the form.
    Api,
    /// Signing in to the console with a link, once.
    ConsoleLink,
}

/// The parts of a token's header that this service reads.
#[derive(Debug, Deserialize)]
pub(super) struct TokenHeader {
    pub alg: String,
    pub kid: Option<String>,
    /// Extensions that a verifier must know or refuse. We know none.
    #[serde(default, deserialize_with = "present")]
    pub crit: bool,
}

/// True if the field is present, with any value, including null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A token's claims. Times are in seconds and may have a fraction.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    sub: String,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<Uuid>,
    exp: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<Number>,
    /// Makes two tokens of the same second different, so that each is its own sign-in link.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    jti: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Value>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    /// For a link: when its session ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_exp: Option<Number>,
}

/// How long a token and its session are valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    /// When the token expires.
    pub expires_at: DateTime<Utc>,
    /// When a session that the token begins must end.
    pub session_ends_at: DateTime<Utc>,
}

impl Claims {
    /// The claims of a new token that is valid from now on.
    pub(super) fn new(
        config: &AuthConfig,
        identity: &Identity,
        purpose: Purpose,
        ttl: Duration,
    ) -> Self {
        let now = get_current_timestamp();
        let after = |life: Duration| Number::from(now.saturating_add(life.as_secs()));
        let is_link = purpose == Purpose::ConsoleLink;
        Self {
            sub: identity.subject.clone(),
            role: identity.role.name().to_owned(),
            org_id: identity.org.map(|org| org.0),
            exp: after(if is_link { ttl.min(LINK_LIFETIME) } else { ttl }),
            nbf: None,
            iat: Some(now.into()),
            jti: Some(Uuid::new_v4()),
            iss: config.issuer.clone().map(Into::into),
            aud: config.audience.clone().map(Into::into),
            purpose: is_link.then(|| CONSOLE_LINK.to_owned()),
            session_exp: is_link.then(|| after(ttl)),
        }
    }

    /// Returns the lifetime if the claims are valid now for this purpose, or the reason why they are not.
    pub(super) fn check_lifetime(&self, purpose: Purpose) -> Result<Lifetime, &'static str> {
        #[expect(clippy::cast_precision_loss, reason = "seconds, far below 2^53")]
        let now = get_current_timestamp() as f64;
        let leeway = LEEWAY.as_secs_f64();
        if self.exp.as_f64().is_none_or(|exp| exp < now - leeway) {
            return Err("it has expired");
        }
        let from = self.nbf.as_ref().map(Number::as_f64);
        if from.is_some_and(|from| from.is_none_or(|from| from > now + leeway)) {
            return Err("it is not valid yet");
        }
        let expires_at = date(&self.exp).ok_or("its exp is no date before the year 10000")?;
        let session_ends_at = match (purpose, self.purpose.as_deref()) {
            (Purpose::Api, None) => expires_at,
            (Purpose::ConsoleLink, Some(CONSOLE_LINK)) => self.session_of_link(now)?,
            (Purpose::Api, Some(CONSOLE_LINK)) => {
                return Err(
                    "it belongs to a sign-in link, which only signs in to the console, once",
                );
            }
            (Purpose::ConsoleLink, None) => {
                return Err(
                    "it does not belong to a sign-in link: the token of a link has use: console_link",
                );
            }
            (_, Some(_)) => return Err("this service does not know its use"),
        };
        Ok(Lifetime {
            expires_at,
            session_ends_at,
        })
    }

    /// When the session of this link ends, if the link is well-formed.
    fn session_of_link(&self, now: f64) -> Result<DateTime<Utc>, &'static str> {
        let made = self.iat.as_ref().and_then(Number::as_f64);
        let is_short = made.zip(self.exp.as_f64()).is_some_and(|(made, exp)| {
            made <= now + LEEWAY.as_secs_f64() && exp <= made + LINK_LIFETIME.as_secs_f64()
        });
        if !is_short {
            return Err(
                "a link must say when it was made (iat) and expire at most ten minutes later",
            );
        }
        let ends = self.session_exp.as_ref();
        if ends.and_then(Number::as_f64).is_none_or(|ends| ends < now) {
            return Err(
                "a link must say when its session ends (session_exp), and that time must be in the future",
            );
        }
        ends.and_then(date)
            .ok_or("its session_exp is no date before the year 10000")
    }

    /// Checks that the claims come from this issuer and are for this audience.
    pub(super) fn check_issuer_and_audience(
        &self,
        issuer: Option<&str>,
        audience: Option<&str>,
    ) -> Result<(), &'static str> {
        if let Some(issuer) = issuer
            && self.iss.as_ref().is_none_or(|iss| iss != issuer)
        {
            return Err("it is from another issuer");
        }
        if let Some(audience) = audience
            && !self
                .aud
                .as_ref()
                .is_some_and(|aud| contains_audience(aud, audience))
        {
            return Err("it is for another audience");
        }
        Ok(())
    }

    /// The bearer, or the reason why the claims do not identify one.
    pub(super) fn identity(self) -> Result<Identity, String> {
        let role =
            Role::from_name(&self.role).ok_or("its role is none of viewer, admin and operator")?;
        let identity = Identity::new(self.sub, role, self.org_id.map(OrgId));
        identity.map_err(|why| why.to_string())
    }
}

/// Decodes a part of a token, or returns `None` if it is malformed. Serde would read an array as a struct's fields in
/// their order, so only an object is accepted.
pub(super) fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    let text = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    serde_json::from_slice(&text).ok().filter(|_| is_object)
}

/// Whether the claim is this audience or a list that contains it.
fn contains_audience(aud: &Value, audience: &str) -> bool {
    match aud {
        Value::Array(audiences) => audiences.iter().any(|entry| entry == audience),
        single => single == audience,
    }
}

/// The date, to the second, if its year has four digits.
fn date(date: &Number) -> Option<DateTime<Utc>> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast saturates, and no calendar reaches the saturated value"
    )]
    let whole = date.as_f64()? as i64;
    DateTime::from_timestamp(whole, 0).filter(|at| at.year() < 10_000)
}

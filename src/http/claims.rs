//! What a token says: its header and its claims, and whether they hold now, for us, and for what it is used for.
//!
//! Claims are read strictly. Each stands once, in its one form, and a token is either for the API or a sign-in link's.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Datelike, Utc};
use jsonwebtoken::get_current_timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Number, Value};
use uuid::Uuid;

use super::{Identity, Role};
use crate::{config::AuthConfig, ids::OrgId};

/// How far clocks may differ.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);
/// How long a sign-in link can be taken at most.
pub const LINK_LIFE: Duration = Duration::from_mins(10);
/// What `use` says in a link's token. A token for the API has no `use`.
const CONSOLE_LINK: &str = "console_link";

/// What a token is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To ask the API, and to sign in to the console by its form.
    Api,
    /// To sign in to the console by a link, once.
    ConsoleLink,
}

/// A token's header, as far as it matters to us.
#[derive(Debug, Deserialize)]
pub(super) struct TokenHeader {
    pub alg: String,
    pub kid: Option<String>,
    /// Extensions that whoever does not know them must refuse. We know none.
    #[serde(default, deserialize_with = "present")]
    pub crit: bool,
}

/// Present in whatever shape, null included.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A token's claims. Times are seconds, which may have a fraction.
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
    /// Tells two tokens of one second apart: each is a sign-in link of its own.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    jti: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Value>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    /// Of a link: when the session that it begins ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_exp: Option<Number>,
}

/// How long a token is good for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    /// When the token expires.
    pub expires_at: DateTime<Utc>,
    /// When a session ends that it begins.
    pub session_ends_at: DateTime<Utc>,
}

impl Claims {
    /// The claims of a new token, from now on.
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
            exp: after(if is_link { ttl.min(LINK_LIFE) } else { ttl }),
            nbf: None,
            iat: Some(now.into()),
            jti: Some(Uuid::new_v4()),
            iss: config.issuer.clone().map(Into::into),
            aud: config.audience.clone().map(Into::into),
            purpose: is_link.then(|| CONSOLE_LINK.to_owned()),
            session_exp: is_link.then(|| after(ttl)),
        }
    }

    /// How long these claims hold, if they hold now; or why not.
    pub(super) fn holds(&self, purpose: Purpose) -> Result<Lifetime, &'static str> {
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
                    "it is a sign-in link's, which signs in to the console, once, and opens nothing else",
                );
            }
            (Purpose::ConsoleLink, None) => {
                return Err(
                    "it is no sign-in link's: a link has a token of its own, with use: console_link",
                );
            }
            (_, Some(_)) => return Err("its use is none that is known here"),
        };
        Ok(Lifetime {
            expires_at,
            session_ends_at,
        })
    }

    /// When a session ends that this link begins, if it is a link as it should be.
    fn session_of_link(&self, now: f64) -> Result<DateTime<Utc>, &'static str> {
        let made = self.iat.as_ref().and_then(Number::as_f64);
        let is_short = made.zip(self.exp.as_f64()).is_some_and(|(made, exp)| {
            made <= now + LEEWAY.as_secs_f64() && exp <= made + LINK_LIFE.as_secs_f64()
        });
        if !is_short {
            return Err(
                "a link says when it was made (iat), and expires at most ten minutes after that",
            );
        }
        let ends = self.session_exp.as_ref();
        if ends.and_then(Number::as_f64).is_none_or(|ends| ends < now) {
            return Err(
                "a link says when its session ends (session_exp), and that is still to come",
            );
        }
        ends.and_then(date)
            .ok_or("its session_exp is no date before the year 10000")
    }

    /// Whether they are from this issuer and for this audience; or why not.
    pub(super) fn are_for(
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
            && !self.aud.as_ref().is_some_and(|aud| names(aud, audience))
        {
            return Err("it is for another audience");
        }
        Ok(())
    }

    /// Whose they are; or why nobody's.
    pub(super) fn identity(self) -> Result<Identity, String> {
        let role =
            Role::named(&self.role).ok_or("its role is none of viewer, admin and operator")?;
        let identity = Identity::new(self.sub, role, self.org_id.map(OrgId));
        identity.map_err(|why| why.to_string())
    }
}

/// A part of a token; none where it is not what it should be. Serde would read an array as a struct's fields, in their
/// order.
pub(super) fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    let text = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    serde_json::from_slice(&text).ok().filter(|_| is_object)
}

/// Whether an audience, or a list of them, has this one.
fn names(aud: &Value, audience: &str) -> bool {
    match aud {
        Value::Array(several) => several.iter().any(|one| one == audience),
        one => one == audience,
    }
}

/// A date that can be written, to the second.
fn date(date: &Number) -> Option<DateTime<Utc>> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast saturates, and no calendar has what that cuts off"
    )]
    let whole = date.as_f64()? as i64;
    DateTime::from_timestamp(whole, 0).filter(|at| at.year() < 10_000)
}

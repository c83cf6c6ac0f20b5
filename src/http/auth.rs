//! Bearer tokens: JWTs signed with a shared secret (HS256), or with a key of a JWKS (RS256, ES256, `EdDSA`).
//!
//! The key decides the algorithm, never the token: `alg: none`, and a public key used as an HMAC secret, fail.
//! Without any key configured every token is refused. There is no default secret.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Datelike, Utc};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, crypto, encode, get_current_timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Number, Value};
use uuid::Uuid;

use super::{
    Identity, Problem, Role,
    jwks::{self, Jwks},
};
use crate::{config::AuthConfig, ids::OrgId, text::is_control};

/// How far clocks may differ, in seconds.
const LEEWAY: f64 = 30.0;
/// In place of an expiry that no calendar has.
const DATE_FAR_AWAY: DateTime<Utc> = DateTime::from_timestamp(253_402_214_400, 0).unwrap();
/// The longest subject that is kept in records.
const MAX_SUBJECT: usize = 200;

/// A token's header, as far as it matters to us.
#[derive(Debug, Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    /// Extensions that whoever does not know them must refuse. We know none.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// Present in whatever shape, null included.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A token's claims. Times are seconds, which may have a fraction.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<Uuid>,
    exp: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<Number>,
    /// Tells two tokens of one second apart: each is a sign-in link of its own.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    jti: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Value>,
}

/// Verifies bearer tokens.
#[derive(Debug)]
pub struct Verifier {
    secret: Option<DecodingKey>,
    jwks: Option<Jwks>,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Verifier {
    /// A verifier with the keys that are configured; none: it refuses every token.
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        let secret = config.hs256_secret.as_ref();
        Self {
            secret: secret.map(|secret| DecodingKey::from_secret(secret.reveal().as_bytes())),
            jwks: config.jwks.clone().map(Jwks::new),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
        }
    }

    /// Whether there is any key to verify a token with.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.secret.is_some() || self.jwks.is_some()
    }

    /// The bearer of the request's token.
    ///
    /// # Errors
    /// 401 without a valid token. The answer says what is missing, not what a forger would want to know.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Problem> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| Problem::unauthorized("send a token: Authorization: Bearer …"))?;
        Ok(self.verify(token).await?.0)
    }

    /// The bearer of `token`, and when it expires.
    ///
    /// # Errors
    /// 401 if it is not valid.
    pub(super) async fn verify(&self, token: &str) -> Result<(Identity, DateTime<Utc>), Problem> {
        if !self.is_configured() {
            return Err(Problem::unauthorized(
                "this service has no key to verify tokens with; its operator has to set auth.hs256_secret or auth.jwks",
            ));
        }
        let no_jwt = || refused("it is no JWT of a known algorithm");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(no_jwt)?;
        let (header, payload) = signed.split_once('.').ok_or_else(no_jwt)?;
        let header: TokenHeader = decode(header).ok_or_else(no_jwt)?;
        if header.crit {
            return Err(refused("it has an extension (crit) that is not known here"));
        }
        let algorithm = algorithm(&header.alg).ok_or_else(no_jwt)?;
        let keys = self.keys(header.kid.as_deref(), algorithm).await?;
        let verifies =
            |key| crypto::verify(signature, signed.as_bytes(), key, algorithm).unwrap_or(false);
        if !keys.iter().any(verifies) {
            return Err(refused("its signature does not verify"));
        }
        let claims: Claims =
            decode(payload).ok_or_else(|| refused("a claim is missing or malformed"))?;
        self.check(&claims).map_err(refused)?;
        // An expiry beyond what can be written is none that matters.
        let expires_at =
            DateTime::from_timestamp(whole_seconds(&claims.exp), 0).filter(|at| at.year() < 10_000);
        Ok((identity(claims)?, expires_at.unwrap_or(DATE_FAR_AWAY)))
    }

    /// The keys that the header asks for. Each is for this one algorithm.
    async fn keys(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<DecodingKey>, Problem> {
        if algorithm == Algorithm::HS256 {
            let secret = self.secret.clone();
            let secret = secret.ok_or_else(|| refused("HS256 is not configured"))?;
            return Ok(vec![secret]);
        }
        let jwks = self
            .jwks
            .as_ref()
            .filter(|_| jwks::ALGORITHMS.contains(&algorithm));
        let jwks = jwks.ok_or_else(|| refused("its algorithm is not configured"))?;
        let keys = jwks.keys(kid, algorithm).await;
        if keys.is_empty() {
            return Err(refused("its key is unknown, or not for its algorithm"));
        }
        Ok(keys)
    }

    /// Whether these claims hold now, and for us; or why not.
    fn check(&self, claims: &Claims) -> Result<(), &'static str> {
        #[expect(clippy::cast_precision_loss, reason = "seconds, far below 2^53")]
        let now = get_current_timestamp() as f64;
        let seconds = |date: &Number| date.as_f64();
        if seconds(&claims.exp).is_none_or(|exp| exp < now - LEEWAY) {
            return Err("it has expired");
        }
        let from = claims.nbf.as_ref().map(seconds);
        if from.is_some_and(|from| from.is_none_or(|from| from > now + LEEWAY)) {
            return Err("it is not valid yet");
        }
        if let Some(issuer) = &self.issuer
            && claims.iss.as_ref().is_none_or(|iss| iss != issuer)
        {
            return Err("it is from another issuer");
        }
        if let Some(audience) = &self.audience
            && !claims.aud.as_ref().is_some_and(|aud| names(aud, audience))
        {
            return Err("it is for another audience");
        }
        Ok(())
    }
}

/// A part of a token; none where it is not what it should be.
fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    let text = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The algorithm of this name. RFC 9864 gives each curve of `EdDSA` a name of its own.
fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "Ed25519" => Some(Algorithm::EdDSA),
        name => name.parse().ok(),
    }
}

/// Whether an audience, or a list of them, has this one.
fn names(aud: &Value, audience: &str) -> bool {
    match aud {
        Value::Array(several) => several.iter().any(|one| one == audience),
        one => one == audience,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast saturates, and no calendar has what that cuts off"
)]
fn whole_seconds(date: &Number) -> i64 {
    date.as_f64().map_or(0, |seconds| seconds as i64)
}

fn identity(claims: Claims) -> Result<Identity, Problem> {
    let subject = claims.sub;
    if subject.trim().is_empty()
        || subject.contains(is_control)
        || subject.chars().count() > MAX_SUBJECT
    {
        return Err(refused("its sub cannot be kept in records"));
    }
    let org = claims.org_id.map(OrgId);
    match (claims.role, org) {
        (Role::Operator, _) => Ok(Identity {
            subject,
            role: Role::Operator,
            org: None,
        }),
        (role, Some(_)) => Ok(Identity { subject, role, org }),
        (_, None) => Err(refused("it names no org_id")),
    }
}

fn refused(why: &str) -> Problem {
    Problem::unauthorized(format!("the token is refused: {why}"))
}

/// Signs a token for development and tests, with the configured secret, issuer and audience.
///
/// # Errors
/// When no secret is configured.
pub fn mint(config: &AuthConfig, identity: &Identity, ttl: Duration) -> Result<String, MintError> {
    let secret = config.hs256_secret.as_ref().ok_or(MintError::NoSecret)?;
    let claims = Claims {
        sub: identity.subject.clone(),
        role: identity.role,
        org_id: identity.org.map(|org| org.0),
        exp: get_current_timestamp()
            .saturating_add(ttl.as_secs())
            .min(i64::MAX.unsigned_abs())
            .into(),
        nbf: None,
        jti: Some(Uuid::new_v4()),
        iss: config.issuer.clone().map(Into::into),
        aud: config.audience.clone().map(Into::into),
    };
    Ok(encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(secret.reveal().as_bytes()),
    )?)
}

/// Why no token was signed.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// There is no secret, and never a default one.
    #[error(
        "auth.hs256_secret is not set; set DRIFT_RETENTION_AUTH__HS256_SECRET to the service's secret (`openssl rand -hex 32` makes one)"
    )]
    NoSecret,
    /// Signing failed.
    #[error("cannot sign the token")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

//! Bearer tokens: JWTs signed with a shared secret (HS256), or with a key of a JWKS (RS256, ES256, `EdDSA`).
//!
//! The key decides the algorithm, never the token: `alg: none`, and a public key used as an HMAC secret, fail.
//! Without any key configured every token is refused. There is no default secret.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use chrono::{DateTime, Datelike, Utc};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Identity, Problem, Role, jwks::Jwks};
use crate::{config::AuthConfig, ids::OrgId};

/// How far clocks may differ, in seconds.
const LEEWAY: u64 = 30;
/// In place of an expiry that no calendar has.
const DATE_FAR_AWAY: DateTime<Utc> = DateTime::from_timestamp(253_402_214_400, 0).unwrap();
/// The longest subject that is kept in records.
const MAX_SUBJECT: usize = 200;

/// A token's claims.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<Uuid>,
    exp: i64,
    /// Tells two tokens of one second apart: each is a sign-in link of its own.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    jti: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<serde_json::Value>,
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
        let header =
            decode_header(token).map_err(|_| refused("it is no JWT of a known algorithm"))?;
        let (key, algorithm) = self.key(&header).await?;
        let claims = decode::<Claims>(token, &key, &self.validation(algorithm))
            .map_err(|error| refused(reason(&error)))?
            .claims;
        // An expiry beyond what can be written is none that matters.
        let expires_at = DateTime::from_timestamp(claims.exp, 0).filter(|at| at.year() < 10_000);
        Ok((identity(claims)?, expires_at.unwrap_or(DATE_FAR_AWAY)))
    }

    /// The key that the header asks for, and the one algorithm that this key is for.
    async fn key(&self, header: &Header) -> Result<(DecodingKey, Algorithm), Problem> {
        if header.alg == Algorithm::HS256 {
            let secret = self
                .secret
                .clone()
                .ok_or_else(|| refused("HS256 is not configured"))?;
            return Ok((secret, Algorithm::HS256));
        }
        let jwks = self
            .jwks
            .as_ref()
            .ok_or_else(|| refused("its algorithm is not configured"))?;
        let key = jwks.key(header.kid.as_deref()).await;
        key.filter(|(_, algorithm)| *algorithm == header.alg)
            .ok_or_else(|| refused("its key is unknown, or not for its algorithm"))
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "sub"]);
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".into());
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        validation
    }
}

fn identity(claims: Claims) -> Result<Identity, Problem> {
    let subject = claims.sub;
    if subject.trim().is_empty() || subject.contains('\0') || subject.chars().count() > MAX_SUBJECT
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

fn reason(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidAudience => "it is for another audience",
        ErrorKind::InvalidIssuer => "it is from another issuer",
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::Json(_) => {
            "a claim is missing or malformed"
        }
        _ => "its signature does not verify",
    }
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
        exp: i64::try_from(jsonwebtoken::get_current_timestamp().saturating_add(ttl.as_secs()))
            .unwrap_or(i64::MAX),
        jti: Some(Uuid::new_v4()),
        iss: config.issuer.clone(),
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

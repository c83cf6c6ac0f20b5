//! Bearer tokens and the tokens of sign-in links: JWTs signed with a shared secret (HS256), or with a key of a JWKS (RS256,
//! ES256, `EdDSA`).
//!
//! The key decides the algorithm, never the token: `alg: none`, and a public key used as an HMAC secret, fail.
//! If no key is configured, every token is refused. There is no default secret.

use std::time::Duration;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use chrono::{DateTime, Utc};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, crypto, encode, get_current_timestamp,
};
use tokio::time::Instant;

use super::{
    ApiState, Identity, Problem,
    claims::{Claims, LEEWAY, Purpose, TokenHeader, decode},
    console,
    jwks::{self, Jwks},
};
use crate::{config::AuthConfig, postgres::Database};

/// The fingerprint of a shared secret begins with this prefix. The thumbprint of a public key has no colon.
pub(super) const SECRET_FINGERPRINT_PREFIX: &str = "hs256:";
/// The fingerprint is the secret's signature of this text. No token has such text as its signed part.
const FINGERPRINT_MESSAGE: &[u8] = b"the fingerprint of auth.hs256_secret";

/// A key that verifies tokens.
#[derive(Debug, Clone)]
pub(super) struct VerifyingKey {
    pub decoding: DecodingKey,
    /// Identifies the key. It is the same in every process and reveals nothing of a secret.
    pub fingerprint: String,
}

/// A token that is valid now.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// The bearer.
    pub identity: Identity,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
    /// When a session that the token begins must end.
    pub session_ends_at: DateTime<Utc>,
    /// The fingerprint of the key that verified the token.
    pub key: String,
}

impl Token {
    /// The moment after which the token is refused. A stream of events ends at that moment.
    pub(super) fn deadline(&self) -> Instant {
        let now = i64::try_from(get_current_timestamp()).unwrap_or(i64::MAX);
        let left = self.expires_at.timestamp().saturating_sub(now);
        let left = left.saturating_add_unsigned(LEEWAY.as_secs());
        // Nothing waits for longer than a day.
        let left = Duration::from_secs(u64::try_from(left).unwrap_or_default());
        Instant::now() + left.min(Duration::from_hours(24))
    }
}

impl FromRequestParts<ApiState> for Token {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let token = state.verifier.bearer(&parts.headers).await?;
        state
            .limits
            .admit_request(&token.identity, &parts.extensions)
            .await?;
        Ok(token)
    }
}

/// The state of a key that once verified a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyState {
    /// The key still verifies tokens.
    Configured,
    /// The key no longer verifies tokens.
    Gone,
    /// The key set cannot be read now.
    Unknown,
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Verifier {
    secret: Option<VerifyingKey>,
    jwks: Option<Jwks>,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Verifier {
    /// A verifier with the configured keys. Without keys it refuses every token.
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        let secret = config.hs256_secret.as_ref();
        Self {
            secret: secret.and_then(|secret| secret_key(secret.reveal().as_bytes())),
            jwks: config.jwks.clone().map(Jwks::new),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
        }
    }

    /// Whether any key is configured.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.secret.is_some() || self.jwks.is_some()
    }

    /// Ends the console's sessions that a former shared secret signed. They end for good, even if nobody uses them again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_sessions_of_other_secrets(&self, database: &Database) -> sqlx::Result<()> {
        let secret = self.secret.as_ref();
        let fingerprint = secret.map(|secret| secret.fingerprint.as_str());
        let sessions = console::delete_sessions_of_other_secrets(database, fingerprint).await?;
        if sessions > 0 {
            tracing::info!(sessions, "ended sessions: auth.hs256_secret has changed");
        }
        Ok(())
    }

    /// The bearer of the request's token.
    ///
    /// # Errors
    /// 401 without a valid token. The answer says what is missing and nothing that would help a forger.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Problem> {
        Ok(self.bearer(headers).await?.identity)
    }

    /// The request's token.
    async fn bearer(&self, headers: &HeaderMap) -> Result<Token, Problem> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| Problem::unauthorized("send a token: Authorization: Bearer …"))?;
        self.verify(token, Purpose::Api).await
    }

    /// Verifies `token` for this purpose and returns its contents.
    ///
    /// # Errors
    /// 401 if the token is not valid.
    pub(super) async fn verify(&self, token: &str, purpose: Purpose) -> Result<Token, Problem> {
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
            return Err(refused(
                "it has an extension (crit) that this service does not know",
            ));
        }
        let algorithm = algorithm(&header.alg).ok_or_else(no_jwt)?;
        let keys = self.keys(header.kid.as_deref(), algorithm).await?;
        let verifies = |key: &VerifyingKey| {
            crypto::verify(signature, signed.as_bytes(), &key.decoding, algorithm).unwrap_or(false)
        };
        let key = keys.into_iter().find(verifies);
        let key = key.ok_or_else(|| refused("its signature does not verify"))?;
        let claims: Claims =
            decode(payload).ok_or_else(|| refused("a claim is missing or malformed"))?;
        let lifetime = claims.check_lifetime(purpose).map_err(refused)?;
        claims
            .check_issuer_and_audience(self.issuer.as_deref(), self.audience.as_deref())
            .map_err(refused)?;
        Ok(Token {
            identity: claims.identity().map_err(refused)?,
            expires_at: lifetime.expires_at,
            session_ends_at: lifetime.session_ends_at,
            key: key.fingerprint,
        })
    }

    /// The keys that match the token's header, each for this algorithm.
    async fn keys(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<VerifyingKey>, Problem> {
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

    /// The present state of the key that verified a token `ago`.
    pub(super) async fn key_state(&self, fingerprint: &str, ago: Duration) -> KeyState {
        let secret = self.secret.as_ref();
        if secret.is_some_and(|secret| secret.fingerprint == fingerprint) {
            return KeyState::Configured;
        }
        match &self.jwks {
            Some(jwks) if !fingerprint.starts_with(SECRET_FINGERPRINT_PREFIX) => {
                jwks.key_state(fingerprint, ago).await
            }
            _ => KeyState::Gone,
        }
    }
}

fn secret_key(secret: &[u8]) -> Option<VerifyingKey> {
    let signing = EncodingKey::from_secret(secret);
    let signed = crypto::sign(FINGERPRINT_MESSAGE, &signing, Algorithm::HS256).ok()?;
    Some(VerifyingKey {
        decoding: DecodingKey::from_secret(secret),
        fingerprint: format!("{SECRET_FINGERPRINT_PREFIX}{signed}"),
    })
}

/// The algorithm with this name. RFC 9864 gives each curve of `EdDSA` its own name.
fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "Ed25519" => Some(Algorithm::EdDSA),
        name => name.parse().ok(),
    }
}

fn refused(why: impl std::fmt::Display) -> Problem {
    Problem::unauthorized(format!("the token is refused: {why}"))
}

/// Signs a token for development and tests, with the configured secret, issuer and audience.
///
/// # Errors
/// When no secret is configured.
pub fn mint(config: &AuthConfig, identity: &Identity, ttl: Duration) -> Result<String, MintError> {
    sign(config, &Claims::new(config, identity, Purpose::Api, ttl))
}

/// Signs the token of a sign-in link, for a session of this length. The link itself is valid for at most ten minutes.
///
/// # Errors
/// When no secret is configured.
pub fn mint_link(
    config: &AuthConfig,
    identity: &Identity,
    session: Duration,
) -> Result<String, MintError> {
    let claims = Claims::new(config, identity, Purpose::ConsoleLink, session);
    sign(config, &claims)
}

fn sign(config: &AuthConfig, claims: &Claims) -> Result<String, MintError> {
    let secret = config.hs256_secret.as_ref().ok_or(MintError::NoSecret)?;
    let key = EncodingKey::from_secret(secret.reveal().as_bytes());
    Ok(encode(&Header::default(), claims, &key)?)
}

/// Why no token was signed.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// No secret is configured, and there is no default.
    #[error(
        "auth.hs256_secret is not set; set DRIFT_RETENTION_AUTH__HS256_SECRET to the service's secret (`openssl rand -hex 32` makes one)"
    )]
    NoSecret,
    /// Signing failed.
    #[error("cannot sign the token")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

//! A set of public keys (JWKS) from a file or a URL, read again when a token names a key it does not hold: that is
//! how keys rotate.

use std::time::Duration;

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm},
};
use tokio::{sync::Mutex, time::Instant};

use crate::telemetry::logs::chain;

/// How long a set is trusted without looking again: a key that was withdrawn is honoured no longer than this.
const FRESH: Duration = Duration::from_mins(10);
/// How often tokens with unknown keys can make us look.
const SOONEST: Duration = Duration::from_secs(5);
/// How long a URL may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest set that is read, in bytes.
const MAX_SIZE: usize = 1024 * 1024;

/// Where the keys are, and those read last.
#[derive(Debug)]
pub(super) struct Jwks {
    source: String,
    last: Mutex<Option<Reading>>,
}

#[derive(Debug)]
struct Reading {
    at: Instant,
    keys: JwkSet,
}

/// Why the set could not be read.
#[derive(Debug, thiserror::Error)]
enum JwksError {
    #[error("cannot read auth.jwks")]
    File(#[from] std::io::Error),
    #[error("cannot fetch auth.jwks")]
    Url(#[from] reqwest::Error),
    #[error("auth.jwks is no set of keys")]
    Json(#[from] serde_json::Error),
    #[error("auth.jwks is larger than {MAX_SIZE} bytes")]
    TooLarge,
}

impl Jwks {
    pub(super) fn new(source: String) -> Self {
        Self {
            source,
            last: Mutex::new(None),
        }
    }

    /// The key `kid` (a set of one key needs none) and the algorithm that it is for.
    pub(super) async fn key(&self, kid: Option<&str>) -> Option<(DecodingKey, Algorithm)> {
        let mut last = self.last.lock().await;
        let age = last.as_ref().map(|reading| reading.at.elapsed());
        let known = last
            .as_ref()
            .is_some_and(|reading| find(&reading.keys, kid).is_some());
        let look_again = match age {
            None => true,
            Some(age) => age > FRESH || (!known && age > SOONEST),
        };
        if look_again {
            let keys = match (self.read().await, last.take()) {
                (Ok(keys), _) => keys,
                (Err(error), before) => {
                    tracing::warn!(error = chain(&error), "keeping the keys read before");
                    before.map_or_else(|| JwkSet { keys: Vec::new() }, |reading| reading.keys)
                }
            };
            *last = Some(Reading {
                at: Instant::now(),
                keys,
            });
        }
        let jwk = find(&last.as_ref()?.keys, kid)?;
        Some((DecodingKey::from_jwk(jwk).ok()?, algorithm(jwk)?))
    }

    async fn read(&self) -> Result<JwkSet, JwksError> {
        let is_url = self.source.starts_with("https://") || self.source.starts_with("http://");
        let text = if is_url {
            let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
            client
                .get(&self.source)
                .send()
                .await?
                .error_for_status()?
                .bytes()
                .await?
                .to_vec()
        } else {
            tokio::fs::read(&self.source).await?
        };
        if text.len() > MAX_SIZE {
            return Err(JwksError::TooLarge);
        }
        Ok(serde_json::from_slice(&text)?)
    }
}

fn find<'a>(keys: &'a JwkSet, kid: Option<&str>) -> Option<&'a Jwk> {
    match (kid, keys.keys.as_slice()) {
        (Some(kid), _) => keys.find(kid),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

/// The one algorithm of a key. A shared secret (`oct`) has no business in a set of public keys.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let by_key = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let (algorithm, stated) = by_key;
    jwk.common
        .key_algorithm
        .is_none_or(|said| said == stated)
        .then_some(algorithm)
}

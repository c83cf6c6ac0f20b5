//! A set of public keys (JWKS) from a file or a URL. It is read again when a token names a key that it does not hold,
//! so that keys can rotate.
//!
//! One request at a time reads the set. A token whose key is known does not wait for it, because the URL may hang and
//! anybody can name a key that does not exist.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{
        AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
        ThumbprintHash,
    },
};
use reqwest::redirect::{Attempt, Policy};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    time::{Instant, timeout},
};

use super::auth::{KeyState, VerifyingKey};
use crate::telemetry::logs::chain;

/// The algorithms that a key of the set may have.
pub(super) const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// The age at which the next token causes another read of the set. A withdrawn key stays valid until then.
const MAX_SET_AGE: Duration = Duration::from_mins(10);
/// The shortest time between two reads that tokens with unknown keys cause.
const MIN_READ_INTERVAL: Duration = Duration::from_secs(5);
/// How long the source may take to answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token whose key is known waits for a read that is due. Most sources answer within this time.
const KNOWN_KEY_WAIT: Duration = Duration::from_millis(50);
/// How many requests with unknown keys may wait for a read. Further ones are refused at once.
const MAX_WAITING_REQUESTS: usize = 32;
/// The largest key set, in bytes.
const MAX_SET_BYTES: usize = 1024 * 1024;
/// The longest chain of redirects.
const MAX_REDIRECTS: usize = 3;

/// The location of the keys and the keys that were read last.
#[derive(Debug, Clone)]
pub(super) struct Jwks(Arc<Source>);

#[derive(Debug)]
struct Source {
    location: String,
    last: Mutex<Reading>,
    /// Held by the request that reads the set.
    read_lock: Arc<AsyncMutex<()>>,
    /// Limits the requests that wait for that read.
    waiting: Semaphore,
}

#[derive(Debug, Default)]
struct Reading {
    keys: Vec<Key>,
    /// When the read of these keys began.
    read_at: Option<Instant>,
    /// When the last read ended, whether it succeeded or not.
    tried_at: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    /// The algorithm that the key is for.
    algorithm: Algorithm,
    verifying: VerifyingKey,
}

/// Why the set could not be read.
#[derive(Debug, thiserror::Error)]
enum JwksError {
    #[error("cannot read auth.jwks")]
    File(#[from] std::io::Error),
    #[error("cannot fetch auth.jwks")]
    Url(#[source] reqwest::Error),
    #[error("it redirects to another host or to a URL without https")]
    Redirect,
    #[error("auth.jwks is not a JSON Web Key Set")]
    Json(#[from] serde_json::Error),
    #[error("auth.jwks is larger than {MAX_SET_BYTES} bytes")]
    TooLarge,
    #[error("auth.jwks does not answer within {} s", READ_TIMEOUT.as_secs())]
    TooLate,
}

impl From<reqwest::Error> for JwksError {
    /// Removes the URL, which may hold a password or a token. The setting's name says enough.
    fn from(error: reqwest::Error) -> Self {
        Self::Url(error.without_url())
    }
}

impl Jwks {
    pub(super) fn new(location: String) -> Self {
        Self(Arc::new(Source {
            location,
            last: Mutex::default(),
            read_lock: Arc::default(),
            waiting: Semaphore::new(MAX_WAITING_REQUESTS),
        }))
    }

    /// The keys for `algorithm` whose id is `kid`. In a set with one key, a token needs no `kid`.
    pub(super) async fn keys(&self, kid: Option<&str>, algorithm: Algorithm) -> Vec<VerifyingKey> {
        let select = |keys: &[Key]| {
            let named: &[Key] = match kid {
                None if keys.len() > 1 => &[],
                _ => keys,
            };
            let fitting = named.iter().filter(|key| {
                key.algorithm == algorithm && (kid.is_none() || key.id.as_deref() == kid)
            });
            fitting.map(|key| key.verifying.clone()).collect()
        };
        self.find(select).await
    }

    /// The present state of the key that verified a token `ago`. Only a set that was read since then proves that the key is gone.
    pub(super) async fn key_state(&self, fingerprint: &str, ago: Duration) -> KeyState {
        let select = |keys: &[Key]| -> Vec<()> {
            let same = |key: &&Key| key.verifying.fingerprint == fingerprint;
            keys.iter().filter(same).map(|_| ()).collect()
        };
        if !self.find(select).await.is_empty() {
            return KeyState::Configured;
        }
        let read_at = self.0.last().read_at;
        if read_at.is_some_and(|at| at.elapsed() < ago) {
            KeyState::Gone
        } else {
            KeyState::Unknown
        }
    }

    /// Applies `select` to the keys, after reading them again if that is due.
    async fn find<T>(&self, select: impl Fn(&[Key]) -> Vec<T>) -> Vec<T> {
        let find = || select(&self.0.last().keys);
        let known = find();
        match self.0.read_lock.clone().try_lock_owned() {
            Ok(read_lock) if self.0.is_due(known.is_empty()) => {
                let source = self.0.clone();
                // A separate task, so that the read continues when the request that started it is cancelled.
                let reading = tokio::spawn(async move {
                    source.read_again().await;
                    drop(read_lock);
                });
                let max_wait = if known.is_empty() {
                    Duration::MAX
                } else {
                    KNOWN_KEY_WAIT
                };
                let _ = timeout(max_wait, reading).await;
            }
            // Another request is reading and may find the key. Few requests wait for it: tokens with unknown keys
            // must not occupy connections.
            Err(_) if known.is_empty() => {
                if let Ok(_permit) = self.0.waiting.try_acquire() {
                    drop(self.0.read_lock.lock().await);
                }
            }
            _ => return known,
        }
        find()
    }
}

impl Source {
    fn last(&self) -> MutexGuard<'_, Reading> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to read again: after a short interval if a key is missing, otherwise when the set is old.
    fn is_due(&self, is_missing: bool) -> bool {
        let last = self.last();
        let is_older = |at: Option<Instant>, age| at.is_none_or(|at| at.elapsed() > age);
        is_older(last.tried_at, MIN_READ_INTERVAL)
            && (is_missing || is_older(last.read_at, MAX_SET_AGE))
    }

    async fn read_again(&self) {
        let began = Instant::now();
        let read = timeout(READ_TIMEOUT, self.read()).await;
        let read = read.unwrap_or(Err(JwksError::TooLate));
        let mut last = self.last();
        last.tried_at = Some(Instant::now());
        match read {
            Ok(keys) => {
                last.keys = keys;
                last.read_at = Some(began);
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "keeping the keys read before");
            }
        }
    }

    async fn read(&self) -> Result<Vec<Key>, JwksError> {
        let is_url = self.location.starts_with("https://") || self.location.starts_with("http://");
        let text = if is_url {
            self.fetch().await?
        } else {
            tokio::fs::read(&self.location).await?
        };
        if text.len() > MAX_SET_BYTES {
            return Err(JwksError::TooLarge);
        }
        parse(&text)
    }

    async fn fetch(&self) -> Result<Vec<u8>, JwksError> {
        let client = reqwest::Client::builder()
            .timeout(READ_TIMEOUT)
            .redirect(Policy::custom(follow))
            .referer(false)
            .build()?;
        let mut answer = client
            .get(&self.location)
            .send()
            .await?
            .error_for_status()?;
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_SET_BYTES {
                return Err(JwksError::TooLarge);
            }
        }
        Ok(text)
    }
}

/// Follows redirects only to https on the same host. An attacker who answers for the host must not lead us to other
/// keys or to internal services.
fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let first = attempt.previous().first();
    let is_same_host = first.is_some_and(|first| first.host() == attempt.url().host());
    let is_followed = is_same_host
        && attempt.url().scheme() == "https"
        && attempt.previous().len() <= MAX_REDIRECTS;
    if is_followed {
        attempt.follow()
    } else {
        attempt.error(JwksError::Redirect)
    }
}

/// The keys of a set that can verify tokens. Other entries are skipped.
fn parse(text: &[u8]) -> Result<Vec<Key>, JwksError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }

    // Some editors begin a file with a byte order mark.
    let set: Set = serde_json::from_slice(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text))?;
    let mut keys = Vec::new();
    for (at, entry) in set.keys.into_iter().enumerate() {
        let kid = entry.get("kid").cloned().unwrap_or_default();
        match read_entry(entry) {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => tracing::debug!(%kid, "a key of auth.jwks does not verify tokens"),
            Err(error) => tracing::warn!(
                error = chain(&error), %kid, entry = at + 1,
                "a key of auth.jwks cannot be read and is skipped"
            ),
        }
    }
    Ok(keys)
}

/// A key that verifies tokens, or `None` if the entry is for something else.
fn read_entry(mut entry: Value) -> jsonwebtoken::errors::Result<Option<Key>> {
    // RFC 9864 gives each curve of EdDSA its own name.
    if let Some(name) = entry.get_mut("alg").filter(|name| *name == "Ed25519") {
        *name = "EdDSA".into();
    }
    let jwk: Jwk = serde_json::from_value(entry)?;
    let Some(algorithm) = algorithm(&jwk).filter(|_| may_verify(&jwk)) else {
        return Ok(None);
    };
    let verifying = VerifyingKey {
        decoding: DecodingKey::from_jwk(&jwk)?,
        fingerprint: jwk.thumbprint(ThumbprintHash::SHA256)?,
    };
    Ok(Some(Key {
        id: jwk.common.key_id,
        algorithm,
        verifying,
    }))
}

fn may_verify(jwk: &Jwk) -> bool {
    let purpose = jwk.common.public_key_use.as_ref();
    let operations = jwk.common.key_operations.as_ref();
    purpose.is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

/// The algorithm of a key. A shared secret (`oct`) is ignored: this is a set of public keys.
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
    let (algorithm, expected) = by_key;
    jwk.common
        .key_algorithm
        .is_none_or(|algorithm| algorithm == expected)
        .then_some(algorithm)
}

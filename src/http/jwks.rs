//! A set of public keys (JWKS) from a file or a URL, read again when a token names a key it does not hold: that is
//! how keys rotate.
//!
//! It is read by one request at a time, and a token whose key is known does not wait for that: the URL may hang, and
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
    sync::{Mutex as Turn, Semaphore},
    time::{Instant, timeout},
};

use super::auth::{KeyStanding, VerifyingKey};
use crate::telemetry::logs::chain;

/// What keys of a set can be for.
pub(super) const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// How long a set is trusted without looking again: a key that was withdrawn is honoured no longer than this, and until
/// the next token comes.
const FRESH: Duration = Duration::from_mins(10);
/// How often tokens with unknown keys can make us look.
const SOONEST: Duration = Duration::from_secs(5);
/// How long the source may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token whose key is known waits for a set that is due: most sources answer within it.
const PATIENCE: Duration = Duration::from_millis(50);
/// How many requests with unknown keys wait for a reading. Beyond that they are refused at once.
const WAITING: usize = 32;
/// The largest set that is read, in bytes.
const MAX_SIZE: usize = 1024 * 1024;
/// The most redirects that are followed.
const MOST_REDIRECTS: usize = 3;

/// Where the keys are, and those read last.
#[derive(Debug, Clone)]
pub(super) struct Jwks(Arc<Source>);

#[derive(Debug)]
struct Source {
    location: String,
    last: Mutex<Reading>,
    /// Whoever has it reads.
    turn: Arc<Turn<()>>,
    /// Places to wait for that.
    waiting: Semaphore,
}

#[derive(Debug, Default)]
struct Reading {
    keys: Vec<Key>,
    /// When the reading of these keys began.
    read_at: Option<Instant>,
    /// When it was last tried, whatever came of it.
    tried_at: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    /// The one algorithm that it is for.
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
    #[error("it redirects, and not to https on the same host")]
    Redirect,
    #[error("auth.jwks is no set of keys")]
    Json(#[from] serde_json::Error),
    #[error("auth.jwks is larger than {MAX_SIZE} bytes")]
    TooLarge,
    #[error("auth.jwks does not answer within {} s", TIMEOUT.as_secs())]
    TooLate,
}

impl From<reqwest::Error> for JwksError {
    /// The URL may hold a password or a token, and the setting's name says enough.
    fn from(error: reqwest::Error) -> Self {
        Self::Url(error.without_url())
    }
}

impl Jwks {
    pub(super) fn new(location: String) -> Self {
        Self(Arc::new(Source {
            location,
            last: Mutex::default(),
            turn: Arc::default(),
            waiting: Semaphore::new(WAITING),
        }))
    }

    /// The keys for `algorithm` that are named `kid`; a set of one key needs no name.
    pub(super) async fn keys(&self, kid: Option<&str>, algorithm: Algorithm) -> Vec<VerifyingKey> {
        let wanted = |keys: &[Key]| {
            let named: &[Key] = match kid {
                None if keys.len() > 1 => &[],
                _ => keys,
            };
            let fitting = named.iter().filter(|key| {
                key.algorithm == algorithm && (kid.is_none() || key.id.as_deref() == kid)
            });
            fitting.map(|key| key.verifying.clone()).collect()
        };
        self.find(wanted).await
    }

    /// How the key stands that verified something so long ago. Only a set that was read since then can say that it is gone.
    pub(super) async fn standing(&self, fingerprint: &str, ago: Duration) -> KeyStanding {
        let wanted = |keys: &[Key]| -> Vec<()> {
            let same = |key: &&Key| key.verifying.fingerprint == fingerprint;
            keys.iter().filter(same).map(|_| ()).collect()
        };
        if !self.find(wanted).await.is_empty() {
            return KeyStanding::Configured;
        }
        let read_at = self.0.last().read_at;
        if read_at.is_some_and(|at| at.elapsed() < ago) {
            KeyStanding::Gone
        } else {
            KeyStanding::Unknown
        }
    }

    /// What is wanted of the keys, which are read again where that is due.
    async fn find<T>(&self, wanted: impl Fn(&[Key]) -> Vec<T>) -> Vec<T> {
        let find = || wanted(&self.0.last().keys);
        let known = find();
        match self.0.turn.clone().try_lock_owned() {
            Ok(turn) if self.0.is_due(known.is_empty()) => {
                let source = self.0.clone();
                // A task of its own: it goes on when the request that it began with is given up.
                let reading = tokio::spawn(async move {
                    source.read_again().await;
                    drop(turn);
                });
                let patience = if known.is_empty() {
                    Duration::MAX
                } else {
                    PATIENCE
                };
                let _ = timeout(patience, reading).await;
            }
            // Somebody reads already, and may find it. Few wait for that: whoever sends tokens with unknown keys must not
            // hold connections.
            Err(_) if known.is_empty() => {
                if let Ok(_waiting) = self.0.waiting.try_acquire() {
                    drop(self.0.turn.lock().await);
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

    /// Whether to read again: for a key that is missing soon, otherwise when the set is old.
    fn is_due(&self, is_missing: bool) -> bool {
        let last = self.last();
        let is_older = |at: Option<Instant>, age| at.is_none_or(|at| at.elapsed() > age);
        is_older(last.tried_at, SOONEST) && (is_missing || is_older(last.read_at, FRESH))
    }

    async fn read_again(&self) {
        let began = Instant::now();
        let read = timeout(TIMEOUT, self.read()).await;
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
        if text.len() > MAX_SIZE {
            return Err(JwksError::TooLarge);
        }
        parse(&text)
    }

    async fn fetch(&self) -> Result<Vec<u8>, JwksError> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
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
            if text.len() > MAX_SIZE {
                return Err(JwksError::TooLarge);
            }
        }
        Ok(text)
    }
}

/// Whoever can answer in the place of the set's host must not lead us to keys of their own, or to services inside.
fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let first = attempt.previous().first();
    let is_same_host = first.is_some_and(|first| first.host() == attempt.url().host());
    let is_followed = is_same_host
        && attempt.url().scheme() == "https"
        && attempt.previous().len() <= MOST_REDIRECTS;
    if is_followed {
        attempt.follow()
    } else {
        attempt.error(JwksError::Redirect)
    }
}

/// The keys of a set that tokens can be verified with. What else stands in it is skipped.
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
            Ok(None) => tracing::debug!(%kid, "a key of auth.jwks is not for tokens"),
            Err(error) => tracing::warn!(
                error = chain(&error), %kid, entry = at + 1,
                "a key of auth.jwks cannot be read and is skipped"
            ),
        }
    }
    Ok(keys)
}

/// A key that signs tokens; none where it is for something else.
fn read_entry(mut entry: Value) -> jsonwebtoken::errors::Result<Option<Key>> {
    // RFC 9864 gives each curve of EdDSA a name of its own.
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

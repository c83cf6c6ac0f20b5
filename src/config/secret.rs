//! Values that are never shown, and those that come from a file of their own.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::ConfigError;

/// What stands in the place of a secret.
const HIDDEN: &str = "(hidden)";

/// A value that is never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(value: String) -> Self {
        Self(value)
    }

    /// One that nobody else knows, for a service that lives as long as the demo.
    #[must_use]
    pub fn random() -> Self {
        Self(format!(
            "{}{}",
            Uuid::new_v4().simple(),
            Uuid::new_v4().simple()
        ))
    }

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

/// Shows a URL without the password in it. What is not understood is not shown at all.
#[allow(clippy::ref_option, reason = "serde hands over a reference")]
pub(super) fn hide_password<S: Serializer>(
    url: &Option<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    url.as_deref().map(without_password).serialize(serializer)
}

fn without_password(url: &str) -> String {
    let parts = url
        .split_once("://")
        .filter(|_| !url.contains("password="))
        .map(|(scheme, rest)| (scheme, rest.rsplit_once('@')));
    match parts {
        Some((_, None)) => url.to_owned(),
        Some((scheme, Some((user, host)))) => {
            let name = user.split_once(':').map_or(user, |(name, _)| name);
            format!("{scheme}://{name}:{HIDDEN}@{host}")
        }
        None => HIDDEN.to_owned(),
    }
}

/// The value that a file holds, without the line's end.
pub(super) fn from_file(
    key: &'static str,
    path: Option<&Path>,
) -> Result<Option<String>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned())),
        Err(source) => Err(ConfigError::File {
            key,
            path: path.to_owned(),
            source,
        }),
    }
}

/// A value that is set directly, or by its file, but not by both.
pub(super) fn take_one<T>(
    key: &'static str,
    value: &mut Option<T>,
    of_file: Option<T>,
) -> Result<(), ConfigError> {
    if value.is_some() && of_file.is_some() {
        return Err(ConfigError::Twice(key));
    }
    if of_file.is_some() {
        *value = of_file;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hidden_however_it_is_written() {
        for (url, shown) in [
            (
                "postgres://me:s3cret@db/app",
                "postgres://me:(hidden)@db/app",
            ),
            ("postgres://me:p@ss@db/app", "postgres://me:(hidden)@db/app"),
            ("postgres://me@db/app", "postgres://me:(hidden)@db/app"),
            ("postgres://db/app", "postgres://db/app"),
            ("postgres://db/app?user=me&password=s3cret", "(hidden)"),
            ("host=db password=s3cret", "(hidden)"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}

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

/// Takes the value from its file, without the line's end: it is set directly, or by its file, but not by both.
pub(super) fn read_in_place_of<T>(
    key: &'static str,
    value: &mut Option<T>,
    file: Option<&Path>,
    of_text: impl FnOnce(String) -> T,
) -> Result<(), ConfigError> {
    let Some(path) = file else { return Ok(()) };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
        key,
        path: path.to_owned(),
        source,
    })?;
    if value.is_some() {
        return Err(ConfigError::Twice(key));
    }
    *value = Some(of_text(text.trim_end_matches(['\n', '\r']).to_owned()));
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

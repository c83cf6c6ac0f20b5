//! Secret values, which are never shown, and values that are read from their own file.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::ConfigError;

/// The text that replaces a secret.
const HIDDEN: &str = "(hidden)";

/// A value that is never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(value: String) -> Self {
        Self(value)
    }

    /// A random secret, for the demo.
    #[must_use]
    pub fn random() -> Self {
        Self(format!(
            "{}{}",
            Uuid::new_v4().simple(),
            Uuid::new_v4().simple()
        ))
    }

    /// The value, for code that must use it.
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

/// A URL without the parts that can be secret: user, password and query. A URL that cannot be parsed is hidden
/// entirely.
pub(super) fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return HIDDEN.to_owned();
    };
    let (before, after) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    // The `@` may belong to a password that begins earlier.
    if after.contains('@') {
        return HIDDEN.to_owned();
    }
    let place = match before.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => before.to_owned(),
    };
    let query = after.chars().next().map(|mark| format!("{mark}{HIDDEN}"));
    format!("{scheme}://{place}{}", query.unwrap_or_default())
}

/// Reads a value from its file, without the final line break. A value may be set directly or by file, not both.
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
    fn user_password_and_query_are_hidden_however_they_are_written() {
        for (url, shown) in [
            ("postgres://me:s3cret@db/app", "postgres://(hidden)@db/app"),
            ("postgres://me:p@ss@db/app", "postgres://(hidden)@db/app"),
            ("postgres://me:p/ss@db/app", "postgres://(hidden)@db/app"),
            ("postgres://me:p?ss@db/app", "(hidden)"),
            ("postgres://me:p#ss@db/app", "(hidden)"),
            ("postgres://me@db/app", "postgres://(hidden)@db/app"),
            ("postgres://db/app", "postgres://db/app"),
            (
                "postgres://db/app?user=me&password=s3cret",
                "postgres://db/app?(hidden)",
            ),
            ("postgres://db?password=s@cret", "(hidden)"),
            ("https://keys/set?key=s3cret", "https://keys/set?(hidden)"),
            ("https://keys/set#s3cret", "https://keys/set#(hidden)"),
            ("host=db password=s3cret", "(hidden)"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}

//! A list: in TOML an array, in the environment separated by commas.

use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Several(Vec<String>),
    Text(String),
}

/// Reads either; blanks around an entry and empty entries count for nothing.
pub(super) fn several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let written = match Written::deserialize(deserializer)? {
        Written::Several(several) => several,
        Written::Text(text) => text.split(',').map(str::to_owned).collect(),
    };
    let entries = written.iter().map(|entry| entry.trim().to_owned());
    Ok(entries.filter(|entry| !entry.is_empty()).collect())
}

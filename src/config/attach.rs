//! `attach.*`: what the operator has acknowledged of the main app's tables.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// `attach.*`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttachConfig {
    /// Tables whose rows may go with purged rows by a foreign key's cascade, each with its schema: `["public.approval_audit"]`.
    /// In the environment separated by commas.
    #[serde(deserialize_with = "several")]
    pub cascades: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Several(Vec<String>),
    Text(String),
}

/// In TOML an array, in the environment a text; blanks around an entry and empty entries count for nothing.
pub(super) fn several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let written = match Written::deserialize(deserializer)? {
        Written::Several(several) => several,
        Written::Text(text) => text.split(',').map(str::to_owned).collect(),
    };
    let entries = written.iter().map(|entry| entry.trim().to_owned());
    Ok(entries.filter(|entry| !entry.is_empty()).collect())
}

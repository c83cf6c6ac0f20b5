//! `attach.*`: the facts about the main app's tables that the operator has acknowledged.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// `attach.*`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttachConfig {
    /// Tables whose rows a foreign key may delete together with purged rows, each with its schema:
    /// `["public.approval_audit"]`. In the environment, separated by commas.
    #[serde(deserialize_with = "list_or_text")]
    pub cascades: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ListOrText {
    Several(Vec<String>),
    Text(String),
}

/// Reads an array (TOML) or a comma-separated text (environment). Blanks around an entry and empty entries are ignored.
pub(super) fn list_or_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    let written = match ListOrText::deserialize(deserializer)? {
        ListOrText::Several(list_or_text) => list_or_text,
        ListOrText::Text(text) => text.split(',').map(str::to_owned).collect(),
    };
    let entries = written.iter().map(|entry| entry.trim().to_owned());
    Ok(entries.filter(|entry| !entry.is_empty()).collect())
}

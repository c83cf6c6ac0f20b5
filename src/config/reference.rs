//! The list of all settings, derived from the code: key, environment variable, default and description.

use serde_json::Value;
use utoipa::{
    PartialSchema,
    openapi::{RefOr, Schema},
};

use super::{
    AttachConfig, AuthConfig, Config, DatabaseConfig, HttpConfig, PurgeConfig, ScheduleConfig,
    WorkerConfig, environment::PREFIX, secret::without_secrets,
};

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As in TOML: `worker.heartbeat`.
    pub key: String,
    /// The value in TOML, or `None` if it is not set.
    pub value: Option<String>,
    /// The description.
    pub about: String,
}

impl Setting {
    /// The environment variable of the same setting.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}_{}", self.key.replace('.', "__").to_uppercase())
    }
}

/// Every setting by section and name, with its value in `config`. Secrets are hidden, those in URLs too.
#[must_use]
pub fn settings(config: &Config) -> Vec<Setting> {
    let sections = [
        ("", Config::schema()),
        ("database", DatabaseConfig::schema()),
        ("http", HttpConfig::schema()),
        ("auth", AuthConfig::schema()),
        ("worker", WorkerConfig::schema()),
        ("purge", PurgeConfig::schema()),
        ("schedule", ScheduleConfig::schema()),
        ("attach", AttachConfig::schema()),
    ];
    let values = serde_json::to_value(config).unwrap_or_default();
    let mut settings = Vec::new();
    for (section, schema) in sections {
        let RefOr::T(Schema::Object(object)) = schema else {
            continue;
        };
        for (name, property) in &object.properties {
            // A reference is a section, which the outer loop handles.
            let about = match property {
                RefOr::T(Schema::Object(property)) => &property.description,
                RefOr::T(Schema::Array(property)) => &property.description,
                _ => continue,
            };
            let (key, value) = match section {
                "" => (name.clone(), &values[name]),
                _ => (format!("{section}.{name}"), &values[section][name]),
            };
            settings.push(Setting {
                key,
                value: (!value.is_null()).then(|| display_value(name, value)),
                about: about.clone().unwrap_or_default(),
            });
        }
    }
    settings
}

/// A value in TOML. A value that is a URL, or should be one, is shown without its secrets.
fn display_value(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) if name.ends_with("url") || text.contains("://") => {
            Value::from(without_secrets(text)).to_string()
        }
        value => value.to_string(),
    }
}

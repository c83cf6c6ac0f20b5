//! Every setting as the code declares it: its key, its environment name, its default and what it says of itself.

use serde_json::Value;
use utoipa::{
    PartialSchema,
    openapi::{RefOr, Schema},
};

use super::{
    AuthConfig, Config, DatabaseConfig, HttpConfig, PREFIX, PurgeConfig, ScheduleConfig,
    WorkerConfig,
};

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As in TOML: `worker.heartbeat`.
    pub key: String,
    /// Its value: the default, or what is configured; none: not set.
    pub value: Option<String>,
    /// What it is for.
    pub about: String,
}

impl Setting {
    /// The environment variable of the same setting.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}_{}", self.key.replace('.', "__").to_uppercase())
    }
}

/// Every setting by section and name, with its value in `config`. Secrets are hidden.
#[must_use]
pub fn settings(config: &Config) -> Vec<Setting> {
    let sections = [
        ("database", DatabaseConfig::schema()),
        ("http", HttpConfig::schema()),
        ("auth", AuthConfig::schema()),
        ("worker", WorkerConfig::schema()),
        ("purge", PurgeConfig::schema()),
        ("schedule", ScheduleConfig::schema()),
    ];
    let values = serde_json::to_value(config).unwrap_or_default();
    let mut settings = Vec::new();
    for (section, schema) in sections {
        let RefOr::T(Schema::Object(object)) = schema else {
            continue;
        };
        for (name, property) in &object.properties {
            settings.push(Setting {
                key: format!("{section}.{name}"),
                value: shown(&values[section][name]),
                about: about(property),
            });
        }
    }
    settings
}

/// A value as TOML has it.
fn shown(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| value.to_string())
}

fn about(property: &RefOr<Schema>) -> String {
    match property {
        RefOr::T(Schema::Object(object)) => object.description.clone().unwrap_or_default(),
        _ => String::new(),
    }
}

//! `config`: checks the settings, shows them, and lists every setting.

use std::process::ExitCode;

use anyhow::Result;

use super::{Settings, database, output::say};
use crate::{
    config::{Config, Setting, settings},
    schedule::Schedule,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Read the settings as a service would, and say whether they are right
    Check,
    /// Print the settings in force as TOML; secrets are hidden
    Show,
    /// Print every setting with its default, as Markdown
    Reference,
}

pub(super) fn run(command: &ConfigCommand, from: &Settings) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check => {
            let config = from.load()?;
            Schedule::new(&config.schedule)?;
            for ignored in database::check_urls(&config)? {
                say!("note: {ignored}")?;
            }
            config.database_url()?;
            say!("the settings are right")?;
        }
        ConfigCommand::Show => say!("{}", as_toml(&settings(&from.load()?)))?,
        ConfigCommand::Reference => say!("{}", reference())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings as a TOML file. A setting without a value is a comment.
fn as_toml(settings: &[Setting]) -> String {
    let mut lines = Vec::new();
    let mut open = "";
    for setting in settings {
        // Settings outside a section come first, as TOML requires.
        let (section, name) = setting.key.split_once('.').unwrap_or(("", &setting.key));
        if section != open {
            lines.extend((!lines.is_empty()).then(String::new));
            lines.push(format!("[{section}]"));
            open = section;
        }
        lines.push(match &setting.value {
            Some(value) => format!("{name} = {value}"),
            None => format!("# {name} is not set"),
        });
    }
    lines.join("\n")
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `drift-retention config reference`; a test holds it to the code. -->

Settings come from flags, then the environment, then `--config FILE.toml`. An unknown key is refused wherever it stands.
Durations are written `500ms`, `5s`, `2h`, `400d`. A secret can come from a file of its own (`…_file`), as container
platforms mount it. A variable that is empty is as good as none.

`drift-retention config check` reads the settings as a service would; `config show` prints what is in force, with secrets
hidden. [deploy/config.example.toml](../deploy/config.example.toml) is a file to begin with.

| Key | Environment | Default | |
|---|---|---|---|";

/// `docs/configuration.md`.
fn reference() -> String {
    let mut lines = vec![INTRODUCTION.to_owned()];
    lines.extend(settings(&Config::default()).iter().map(|setting| {
        let default = match &setting.value {
            Some(value) => format!("`{}`", value.trim_matches('"')),
            None => "–".to_owned(),
        };
        let about = setting.about.replace('\n', " ");
        format!(
            "| `{}` | `{}` | {default} | {about} |",
            setting.key,
            setting.variable()
        )
    }));
    lines.join("\n")
}

//! Settings from the environment. An empty variable counts as not set, because container platforms and templates set
//! variables that nobody filled in.

use config::Environment;

use super::ConfigError;

/// The prefix of every environment name; levels are joined by `__`.
pub(super) const PREFIX: &str = "DRIFT_RETENTION";

/// `DATABASE_URL`, the only variable without our prefix: every Postgres tool knows it.
#[expect(clippy::disallowed_methods, reason = "this module reads the settings")]
pub(super) fn database_url() -> Option<String> {
    std::env::var("DATABASE_URL")
        .ok()
        .filter(|url| !url.is_empty())
}

/// The settings in the environment.
///
/// # Errors
/// When Kubernetes has added variables that look like settings.
pub(super) fn settings() -> Result<Environment, ConfigError> {
    if let Some(link) = std::env::vars_os()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| is_service_link(name))
        .min()
    {
        return Err(ConfigError::ServiceLink(link));
    }
    Ok(Environment::with_prefix(PREFIX)
        .prefix_separator("_")
        .separator("__")
        .ignore_empty(true))
}

/// Whether Kubernetes set the variable to describe a Service (`NAME_SERVICE_HOST`, `NAME_PORT`,
/// `NAME_PORT_8080_TCP_ADDR`) whose name begins with the program's name.
fn is_service_link(variable: &str) -> bool {
    let Some(name) = variable.strip_prefix(PREFIX).filter(|n| !n.contains("__")) else {
        return false;
    };
    let of_port = |rest: &str| {
        let mut parts = rest.split('_').skip(1);
        rest.is_empty()
            || (parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
                && parts
                    .next()
                    .is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol)))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name
            .match_indices("_PORT")
            .any(|(at, found)| of_port(&name[at + found.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, settings};

    #[test]
    fn variables_of_a_service_are_told_from_settings() {
        for name in [
            "DRIFT_RETENTION_PORT",
            "DRIFT_RETENTION_PORT_8080_TCP",
            "DRIFT_RETENTION_PORT_8080_TCP_ADDR",
            "DRIFT_RETENTION_PORT_53_UDP_PROTO",
            "DRIFT_RETENTION_SERVICE_HOST",
            "DRIFT_RETENTION_SERVICE_PORT",
            "DRIFT_RETENTION_SERVICE_PORT_HTTP",
            "DRIFT_RETENTION_WORKER_SERVICE_HOST",
            "DRIFT_RETENTION_WORKER_PORT",
            "DRIFT_RETENTION_API_PORT_8080_TCP_PORT",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        let of_settings = settings(&Config::default());
        for setting in of_settings.iter().map(super::super::Setting::variable) {
            assert!(!is_service_link(&setting), "{setting}");
        }
        for name in [
            "DRIFT_RETENTION_PORTS",
            "DRIFT_RETENTION_PORT_OF_CALL",
            "PORT",
        ] {
            assert!(!is_service_link(name), "{name}");
        }
    }
}

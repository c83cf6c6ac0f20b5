//! Log lines: text on a terminal, JSON otherwise. `RUST_LOG` sets the filter. If it would silence everything by
//! mistake, the default applies and a warning says so. No line can control a terminal or span two lines.

use std::{
    error::Error,
    io::{self, IsTerminal, Write},
};

use opentelemetry_sdk::trace::SdkTracer;
use sqlx::postgres::PgDatabaseError;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{postgres, text};

/// The crates that write log lines: this program and its libraries.
const LOGGING_CRATES: [&str; 13] = [
    "drift_retention",
    "apalis",
    "sqlx",
    "axum",
    "hyper",
    "h2",
    "tower",
    "tonic",
    "reqwest",
    "rustls",
    "opentelemetry",
    "tokio",
    "log",
];

/// Turns off a log line that shows the URL, including the password.
const HIDE_URLS: &str = "hyper_util::client::legacy::pool=off";

/// Starts logging to stderr, and sends our spans to `tracer` if there is one. `default_level` applies if `RUST_LOG` is
/// not set. It does not affect traces.
pub fn init(default_level: &str, tracer: Option<SdkTracer>) {
    // apalis and sqlx log every wake-up and notice at `info`, which is noise at our default level. A service shows
    // Postgres's warnings. A command does not: it may end in the middle of a transaction, and a warning about a
    // superfluous ROLLBACK would appear in its output.
    let default = match default_level {
        "info" => "info,apalis_core=warn,apalis_postgres=warn,sqlx=warn",
        "warn" => "warn,sqlx::postgres::notice=off",
        quieter => quieter,
    };
    let (filter, refused) = match rust_log().map(|asked| parse_filter(&asked)) {
        None => (EnvFilter::new(default), None),
        Some(Ok(filter)) => (filter, None),
        // Commands do not log warnings, but this one must appear.
        Some(Err(why)) => {
            let default = format!("{default},{}=warn", module_path!());
            (EnvFilter::new(default), Some(why))
        }
    };
    let filter = match HIDE_URLS.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let spans = tracer.map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_filter(Targets::new().with_target("drift_retention", LevelFilter::INFO))
    });
    let registry = tracing_subscriber::registry().with(spans);
    let terminal = io::stderr().is_terminal();
    // A line that cannot be written (for instance to a full disk) is dropped. The library would report it with
    // `eprintln!`, which would panic. A second call (in tests) keeps the subscriber of the first call.
    let _ = if terminal {
        registry
            .with(
                fmt::layer()
                    .with_writer(|| StderrLine)
                    .with_ansi(false) // a line must not contain escape sequences, not even ours
                    .log_internal_errors(false)
                    .with_target(false)
                    .with_filter(filter),
            )
            .try_init()
    } else {
        registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(|| StderrLine)
                    .log_internal_errors(false)
                    .with_filter(filter),
            )
            .try_init()
    };
    if let Some(why) = refused {
        tracing::warn!("RUST_LOG {why}; the default is used in its place: {default}");
    }
}

/// Writes each log event to stderr as one line. It escapes control characters, because events contain text from other
/// people: names and Postgres's messages.
struct StderrLine;

impl Write for StderrLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text::on_one_line(text.trim_end_matches('\n'));
        io::stderr().write_all(format!("{text}\n").as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "RUST_LOG is the variable of every Rust program and not a setting of ours"
)]
fn rust_log() -> Option<String> {
    let asked = std::env::var_os("RUST_LOG")?;
    Some(asked.to_string_lossy().into_owned())
}

/// Parses the filter, or returns why it must be a mistake. The filter takes a misspelled level for a module's name,
/// which would then silence everything.
fn parse_filter(asked: &str) -> Result<EnvFilter, String> {
    if asked.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    let filter = EnvFilter::try_new(asked).map_err(|error| format!("cannot be read ({error})"))?;
    // Directives about spans are not checked.
    if asked.contains('[') || asked.split(',').any(is_level_or_known_crate) {
        Ok(filter)
    } else {
        Err(format!(
            "is {asked:?}, which is neither a level nor names anything that writes log lines; write for example info, or \
             drift_retention=debug"
        ))
    }
}

/// Whether a directive is a level for everything or names a crate that logs.
fn is_level_or_known_crate(directive: &str) -> bool {
    let directive = directive.trim();
    let target = directive
        .split_once('=')
        .map_or(directive, |(target, _)| target);
    (!directive.is_empty() && directive.parse::<LevelFilter>().is_ok())
        || LOGGING_CRATES
            .iter()
            .any(|speaker| target.starts_with(speaker))
}

/// The message of one error. Postgres's message ends with a line number of Postgres's source, which is removed. A
/// message that may contain a row's data is withheld; Postgres's own log has it.
fn message_of(error: &(dyn Error + 'static)) -> String {
    let database_error = match error.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(error)) => error.try_downcast_ref::<PgDatabaseError>(),
        _ => error.downcast_ref::<PgDatabaseError>(),
    };
    if let Some(withheld) = database_error.and_then(postgres::withheld) {
        return withheld;
    }
    let text = error.to_string();
    let is_of_database = database_error.is_some()
        || error.is::<sqlx::Error>()
        || error.is::<Box<dyn sqlx::error::DatabaseError>>()
        || error.is::<sqlx::migrate::MigrateError>();
    match text.rsplit_once(" at line ") {
        Some((says, line)) if is_of_database && line.bytes().all(|b| b.is_ascii_digit()) => {
            says.to_owned()
        }
        _ => text,
    }
}

/// An error and its causes on one line, for the place that handles it.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = message_of(error);
    let mut source = source_of(error);
    while let Some(cause) = source {
        let cause_text = message_of(cause);
        // Some libraries repeat their source in their own message.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = source_of(cause);
    }
    text
}

/// The cause of an error. sqlx's database error reports itself as its cause, which is skipped.
fn source_of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(_)) => None,
        _ => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_that_would_silence_everything_by_mistake_is_refused() {
        for meant in [
            "info",
            "WARN",
            "off",
            "drift_retention",
            "drift_retention::worker=debug",
            "sqlx::query=trace",
            "info,nobody=debug",
            "[purge]=debug",
        ] {
            assert!(parse_filter(meant).is_ok(), "{meant}");
        }
        for mistaken in [
            "",
            " ",
            "inof",
            "drift-retention=debug",
            "sqlx=wran",
            "debg,trce",
            ",",
        ] {
            assert!(parse_filter(mistaken).is_err(), "{mistaken}");
        }
    }
}

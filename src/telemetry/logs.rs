//! Log lines: for people on a terminal, JSON otherwise. `RUST_LOG` chooses what is said; where it would choose nothing by
//! mistake, the default holds and says so. No line steers a terminal, or looks like two.

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

/// Who writes log lines: this program, and the libraries below it.
const SPEAKERS: [&str; 13] = [
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

/// Says to which URL it connects, password included.
const TELLS_URLS: &str = "hyper_util::client::legacy::pool=off";

/// Starts logging to stderr, and sending our spans to `tracer` if there is one. `default_level` holds where `RUST_LOG`
/// says nothing; it does not choose what is traced.
pub fn init(default_level: &str, tracer: Option<SdkTracer>) {
    // apalis and sqlx tell of every wake-up and notice at `info`: that is noise at our default. A service passes on what
    // Postgres warns of; a command ends in the middle of it all, and a warning of a ROLLBACK too many would stand among
    // its output.
    let default = match default_level {
        "info" => "info,apalis_core=warn,apalis_postgres=warn,sqlx=warn",
        "warn" => "warn,sqlx::postgres::notice=off",
        quieter => quieter,
    };
    let (filter, refused) = match rust_log().map(|asked| chosen(&asked)) {
        None => (EnvFilter::new(default), None),
        Some(Ok(filter)) => (filter, None),
        // Commands are quieter than a warning: this one is let through.
        Some(Err(why)) => {
            let default = format!("{default},{}=warn", module_path!());
            (EnvFilter::new(default), Some(why))
        }
    };
    let filter = match TELLS_URLS.parse() {
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
    // A line that cannot be written, to a full disk for instance, is lost. To report that, the library would use `eprintln!`,
    // which panics then.
    // A second call (a test's) keeps the first one's subscriber.
    let _ = if terminal {
        registry
            .with(
                fmt::layer()
                    .with_writer(|| Line)
                    .with_ansi(false) // a line has no escape sequence, not even ours
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
                    .with_writer(|| Line)
                    .log_internal_errors(false)
                    .with_filter(filter),
            )
            .try_init()
    };
    if let Some(why) = refused {
        tracing::warn!("RUST_LOG {why}; the default is used in its place: {default}");
    }
}

/// Where a line of the log goes, whole: to stderr, on one line. The words of others stand in it: names, and what Postgres says.
struct Line;

impl Write for Line {
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
    reason = "the variable that every Rust program reads, not a setting of ours"
)]
fn rust_log() -> Option<String> {
    let asked = std::env::var_os("RUST_LOG")?;
    Some(asked.to_string_lossy().into_owned())
}

/// The filter that was asked for, or why it cannot be meant. A misspelled level is the name of a module to the filter, from
/// which then nothing ever comes.
fn chosen(asked: &str) -> Result<EnvFilter, String> {
    if asked.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    let filter = EnvFilter::try_new(asked).map_err(|error| format!("cannot be read ({error})"))?;
    // Of spans it may say what it likes.
    if asked.contains('[') || asked.split(',').any(names_somebody) {
        Ok(filter)
    } else {
        Err(format!(
            "is {asked:?}, which is neither a level nor names anything that writes log lines; write for example info, or \
             drift_retention=debug"
        ))
    }
}

/// Whether a part of a filter is a level for all, or names one who speaks.
fn names_somebody(directive: &str) -> bool {
    let directive = directive.trim();
    let target = directive
        .split_once('=')
        .map_or(directive, |(target, _)| target);
    (!directive.is_empty() && directive.parse::<LevelFilter>().is_ok())
        || SPEAKERS.iter().any(|speaker| target.starts_with(speaker))
}

/// What one error says. What Postgres says ends with a line number, which is one of Postgres's own source: it tells nobody
/// anything. What may hold a row's data is left to Postgres's own log.
fn text_of(error: &(dyn Error + 'static)) -> String {
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

/// An error and its causes in one line, for where it is handled.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = text_of(error);
    let mut source = source_of(error);
    while let Some(cause) = source {
        let cause_text = text_of(cause);
        // Some libraries repeat their source in their own message.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = source_of(cause);
    }
    text
}

/// The cause of an error. Postgres's own error has none but itself once more.
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
            assert!(chosen(meant).is_ok(), "{meant}");
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
            assert!(chosen(mistaken).is_err(), "{mistaken}");
        }
    }
}

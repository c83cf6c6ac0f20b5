//! Decides which Postgres error messages may be shown outside Postgres's own log. A message may contain a row's data:
//! the text that a trigger of the main app raises, or a value that could not be converted.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

/// The Postgres function that executes `RAISE`. Its message comes from the main app, whatever its code.
const RAISE_FUNCTION: &str = "exec_stmt_raise";
/// Errors of our own functions contain counts and tables but no data.
const OWN_FUNCTION_PREFIX: &str = "PL/pgSQL function retention.";
/// Error classes whose messages contain names but no values: connections, transactions, constraints, rights, resources,
/// and the server's state.
const CLASSES_WITHOUT_VALUES: [&str; 18] = [
    "08", "0A", "23", "25", "26", "28", "2B", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57",
    "58", "DR",
];

/// The text that replaces a message that may contain data. `None` if the message may be shown.
#[must_use]
pub fn withheld(error: &PgDatabaseError) -> Option<String> {
    let context = error.r#where().unwrap_or_default();
    let is_raised =
        error.routine() == Some(RAISE_FUNCTION) && !context.starts_with(OWN_FUNCTION_PREFIX);
    let code = error.code();
    if !is_raised
        && CLASSES_WITHOUT_VALUES
            .iter()
            .any(|class| code.starts_with(class))
    {
        return None;
    }
    let places = [
        ("in function", function_of(context)),
        ("table", error.table()),
        ("constraint", error.constraint()),
    ];
    let places = places
        .iter()
        .filter_map(|(what, name)| Some(format!(", {what} {}", (*name)?)));
    let places: String = places.collect();
    Some(format!(
        "Postgres refused it (SQLSTATE {code}{places}); Postgres's server log has the message"
    ))
}

/// Postgres's message, or its replacement if the message may contain a row's data.
#[must_use]
pub fn words_of(error: &dyn DatabaseError) -> String {
    error
        .try_downcast_ref::<PgDatabaseError>()
        .and_then(withheld)
        .unwrap_or_else(|| error.message().to_owned())
}

/// The innermost function in the error's context.
fn function_of(context: &str) -> Option<&str> {
    let line = context
        .lines()
        .find_map(|line| line.strip_prefix("PL/pgSQL function "))?;
    Some(
        line.split_once(" line ")
            .map_or(line, |(function, _)| function),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_is_named_without_what_it_was_called_with() {
        let context = "PL/pgSQL function public.keep() line 3 at RAISE\nSQL statement \"DELETE FROM x WHERE y = 'secret'\"";
        assert_eq!(function_of(context), Some("public.keep()"));
        assert_eq!(function_of("unnamed portal parameter $1 = 'secret'"), None);
    }
}

//! What an error of Postgres may say outside Postgres's own log. Its words can hold a row's data: what a trigger of the main
//! app's raises, a value that could not be converted.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

/// The function of Postgres that carries out `RAISE`: its words are the main app's, whatever code they go by.
const RAISE: &str = "exec_stmt_raise";
/// Our own functions' errors name counts and tables, and no data.
const OURS: &str = "PL/pgSQL function retention.";
/// Classes of errors whose words hold names and no values: connections, transactions, constraints, rights, resources,
/// the server's state.
const NAMES_ONLY: [&str; 18] = [
    "08", "0A", "23", "25", "26", "28", "2B", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57",
    "58", "DR",
];

/// What to say in place of an error whose own words may hold data; none: they do not.
#[must_use]
pub fn withheld(error: &PgDatabaseError) -> Option<String> {
    let context = error.r#where().unwrap_or_default();
    let is_raised = error.routine() == Some(RAISE) && !context.starts_with(OURS);
    let code = error.code();
    if !is_raised && NAMES_ONLY.iter().any(|class| code.starts_with(class)) {
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
        "Postgres refused it (SQLSTATE {code}{places}); Postgres's server log has the words"
    ))
}

/// What Postgres says, without what may hold a row's data.
#[must_use]
pub fn words_of(error: &dyn DatabaseError) -> String {
    error
        .try_downcast_ref::<PgDatabaseError>()
        .and_then(withheld)
        .unwrap_or_else(|| error.message().to_owned())
}

/// The innermost function that the error came from.
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

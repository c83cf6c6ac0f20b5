//! The result of a check of the mapping, object by object.

use std::fmt;

use serde::Serialize;

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether the mapping can be used.
    pub ok: bool,
    /// Every object of the mapping.
    pub objects: Vec<Object>,
}

/// One object of the mapping.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Object {
    /// The object's name, with its schema.
    pub name: String,
    /// The tables behind it.
    pub maps_to: Option<String>,
    /// The type of its key.
    pub key_type: Option<String>,
    /// The table's column that decides whether a row has expired.
    pub clock: Option<String>,
    /// The estimated number of rows. `None` if Postgres has no estimate.
    pub rows: Option<i64>,
    /// The problems of this object.
    pub problems: Vec<Problem>,
}

/// A refusal or a warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether it must be fixed before anything is purged.
    pub severity: Severity,
    /// The problem.
    pub what: String,
    /// The remedy: a statement or a sentence.
    pub remedy: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is purged until the problem is fixed.
    Refuse,
    /// The problem does not prevent a purge.
    Warn,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refused",
            Self::Warn => "warning",
        })
    }
}

impl Object {
    /// An object without any findings.
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: format!("main_app.{name}"),
            ..Self::default()
        }
    }

    /// Adds a problem that must be fixed before anything is purged.
    pub(super) fn refuse(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Refuse, what.into(), remedy.into());
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warn, what.into(), remedy.into());
    }

    fn add(&mut self, severity: Severity, what: String, remedy: String) {
        let problem = Problem {
            severity,
            what,
            remedy,
        };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Whether the object has a refusal.
    pub(super) fn is_refused(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Refuse)
    }
}

impl Report {
    /// A report on these objects.
    pub(super) fn of(objects: Vec<Object>) -> Self {
        Self {
            ok: !objects.iter().any(Object::is_refused),
            objects,
        }
    }

    /// The refusals, each with its object's name.
    pub fn refusals(&self) -> impl Iterator<Item = String> {
        self.problems(Severity::Refuse)
    }

    /// The warnings, each with its object's name.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.problems(Severity::Warn)
    }

    fn problems(&self, severity: Severity) -> impl Iterator<Item = String> {
        self.objects.iter().flat_map(move |object| {
            let problems = object.problems.iter();
            problems
                .filter(move |problem| problem.severity == severity)
                .map(|problem| format!("{}: {}", object.name, problem.what))
        })
    }
}

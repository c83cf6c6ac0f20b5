//! What a check of the mapping found, object by object.

use std::fmt;

use serde::Serialize;

/// What was found.
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
    /// Its name, with the schema.
    pub name: String,
    /// The tables behind it.
    pub maps_to: Option<String>,
    /// The type of its key.
    pub key_type: Option<String>,
    /// The table's column that decides whether a row goes.
    pub clock: Option<String>,
    /// Rows, as Postgres estimates them; none: it does not know.
    pub rows: Option<i64>,
    /// What is wrong, or worth knowing.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether it must be mended before anything is purged.
    pub severity: Severity,
    /// What it is.
    pub what: String,
    /// What mends it: a statement, or a sentence.
    pub remedy: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is purged while it lasts.
    Refuse,
    /// It is worth knowing.
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
    /// An object of which nothing is known yet.
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: format!("main_app.{name}"),
            ..Self::default()
        }
    }

    /// Something that must be mended first.
    pub(super) fn refuse(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Refuse, what.into(), remedy.into());
    }

    /// Something worth knowing.
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

    /// Whether something must be mended first.
    pub(super) fn is_refused(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Refuse)
    }
}

impl Report {
    /// Of these objects.
    pub(super) fn of(objects: Vec<Object>) -> Self {
        Self {
            ok: !objects.iter().any(Object::is_refused),
            objects,
        }
    }

    /// What must be mended first, each with its object's name.
    pub fn refusals(&self) -> impl Iterator<Item = String> {
        self.problems(Severity::Refuse)
    }

    /// What is worth knowing, each with its object's name.
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

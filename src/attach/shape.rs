//! The required form of the mapping: the names, columns and types of schema `main_app`.

/// The required type of a view's column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The location of a row: the table's own `ctid`.
    Place,
    /// The key of a drift check: the type of the domain `check_key`.
    CheckKey,
    /// A UUID.
    Uuid,
    /// A text.
    Text,
    /// A time with time zone.
    Time,
    /// An integer.
    Int,
    /// A boolean.
    Bool,
    /// A JSON document.
    Json,
}

impl Kind {
    /// Whether a column may have this type, as `format_type` writes it.
    pub(super) fn accepts(self, type_name: &str, check_key: Option<&str>) -> bool {
        match self {
            Self::Place => type_name == "tid",
            Self::CheckKey => {
                let is_same = |key| without_length(key) == without_length(type_name);
                type_name == "main_app.check_key" || check_key.is_some_and(is_same)
            }
            Self::Uuid => type_name == "uuid",
            Self::Text => matches!(without_length(type_name), "text" | "character varying"),
            Self::Time => type_name == "timestamp with time zone",
            Self::Int => type_name == "integer",
            Self::Bool => type_name == "boolean",
            Self::Json => type_name == "jsonb",
        }
    }

    /// The type to cast to.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Place => "tid",
            Self::CheckKey => "main_app.check_key",
            Self::Uuid => "uuid",
            Self::Text => "text",
            Self::Time => "timestamptz",
            Self::Int => "integer",
            Self::Bool => "boolean",
            Self::Json => "jsonb",
        }
    }
}

/// `character varying(20)` is `character varying`.
fn without_length(type_name: &str) -> &str {
    type_name.split('(').next().unwrap_or(type_name)
}

/// A view of the mapping.
#[derive(Debug)]
pub(super) struct View {
    /// Its name in schema `main_app`.
    pub(super) name: &'static str,
    /// Its columns.
    pub(super) columns: &'static [(&'static str, Kind)],
    /// Columns that must be plain columns of the table, because rows are found by them.
    pub(super) plain: &'static [&'static str],
    /// The timestamp that decides whether a row has expired.
    pub(super) clock: Option<&'static str>,
    /// The purge's writes through this view. `None` if the view is only read and may be any SQL.
    pub(super) purge: Option<Purge>,
    /// The columns by which the purge finds rows. Each list must be the beginning of an index.
    pub(super) indexes: &'static [&'static [&'static str]],
}

/// The purge's writes through a purge view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purge {
    /// Rows are locked and deleted.
    Delete,
    /// Rows are locked and stamped.
    Stamp,
}

use Kind::{Bool, CheckKey, Int, Json, Place, Text, Time, Uuid};

/// Every view of the mapping.
pub(super) const VIEWS: [View; 7] = [
    View {
        name: "organizations",
        columns: &[
            ("id", Uuid),
            ("name", Text),
            ("plan", Text),
            ("created_at", Time),
        ],
        plain: &[],
        clock: None,
        purge: None,
        indexes: &[],
    },
    View {
        name: "environments",
        columns: &[
            ("id", Uuid),
            ("org_id", Uuid),
            ("name", Text),
            ("created_at", Time),
        ],
        plain: &[],
        clock: None,
        purge: None,
        indexes: &[],
    },
    View {
        name: "drift_checks",
        columns: &[
            ("ctid", Place),
            ("id", CheckKey),
            ("org_id", Uuid),
            ("env_id", Uuid),
            ("checked_at", Time),
            ("status", Text),
            ("modified_count", Int),
            ("not_in_git_count", Int),
            ("unknown_count", Int),
            ("summary_json", Json),
        ],
        plain: &["ctid", "id", "org_id", "env_id"],
        clock: Some("checked_at"),
        purge: Some(Purge::Delete),
        indexes: &[&["org_id", "checked_at"], &["env_id", "checked_at"]],
    },
    View {
        name: "workflow_drift_flags",
        columns: &[
            ("check_id", CheckKey),
            ("workflow_id", Text),
            ("workflow_name", Text),
            ("flag", Text),
        ],
        plain: &["check_id"],
        clock: None,
        purge: None,
        indexes: &[&["check_id"]],
    },
    View {
        name: "incidents",
        columns: &[
            ("ctid", Place),
            ("id", Uuid),
            ("org_id", Uuid),
            ("env_id", Uuid),
            ("title", Text),
            ("severity", Text),
            ("status", Text),
            ("owner", Text),
            ("detected_at", Time),
            ("acknowledged_at", Time),
            ("stabilized_at", Time),
            ("reconciled_at", Time),
            ("closed_at", Time),
            ("is_deleted", Bool),
            ("deleted_at", Time),
            ("payload_purged_at", Time),
            ("created_at", Time),
            ("updated_at", Time),
        ],
        plain: &["ctid", "id", "org_id", "payload_purged_at"],
        clock: Some("closed_at"),
        purge: Some(Purge::Stamp),
        indexes: &[&["org_id", "closed_at"]],
    },
    View {
        name: "incident_payloads",
        columns: &[
            ("incident_id", Uuid),
            ("payload_json", Json),
            ("created_at", Time),
        ],
        plain: &[],
        clock: None,
        purge: None,
        indexes: &[],
    },
    View {
        name: "approvals",
        columns: &[
            ("ctid", Place),
            ("id", Uuid),
            ("org_id", Uuid),
            ("incident_id", Uuid),
            ("action", Text),
            ("status", Text),
            ("requested_by", Text),
            ("decided_by", Text),
            ("notes", Text),
            ("created_at", Time),
            ("decided_at", Time),
        ],
        plain: &["ctid", "id", "org_id", "incident_id"],
        clock: Some("created_at"),
        purge: Some(Purge::Delete),
        indexes: &[&["org_id", "created_at"], &["incident_id"]],
    },
];

/// Statements that Postgres must accept on the view. They are explained, never run.
impl View {
    /// A statement that reads every column.
    pub(super) fn select(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|(name, _)| *name).collect();
        format!("SELECT {} FROM main_app.{}", columns.join(", "), self.name)
    }

    /// All other statements through the view.
    pub(super) fn statements(&self) -> Vec<String> {
        let name = self.name;
        let here = "ctid = '(0,0)'::tid";
        let lock = format!("SELECT FROM main_app.{name} WHERE {here} FOR UPDATE");
        let change = match self.purge {
            None => return Vec::new(),
            Some(Purge::Delete) => format!("DELETE FROM main_app.{name} WHERE {here}"),
            Some(Purge::Stamp) => {
                format!("UPDATE main_app.{name} SET payload_purged_at = now() WHERE {here}")
            }
        };
        vec![lock, change]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_may_have_a_length_and_a_key_must_be_the_domains_type() {
        assert!(Kind::Text.accepts("character varying(20)", None));
        assert!(!Kind::Text.accepts("incident_status", None));
        assert!(Kind::CheckKey.accepts("uuid", Some("uuid")));
        assert!(!Kind::CheckKey.accepts("uuid", Some("bigint")));
        assert!(Kind::CheckKey.accepts("main_app.check_key", Some("bigint")));
        let varchar = Some("character varying(20)");
        assert!(Kind::CheckKey.accepts("character varying(20)", varchar));
        assert!(!Kind::Time.accepts("timestamp without time zone", None));
    }
}

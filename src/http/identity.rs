//! The caller and the caller's rights. A resource of another organization is reported as missing, not as forbidden.

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{ApiState, Problem, auth::Token};
use crate::{ids::OrgId, runs::Run, text::is_control};

/// The longest subject, in characters.
const MAX_SUBJECT_CHARS: usize = 200;

/// The rights of a token's bearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Reads the data of its organization.
    Viewer,
    /// Reads the data of its organization and requests purges.
    Admin,
    /// May do everything, for every organization.
    Operator,
}

impl Role {
    /// The role's name in tokens and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
            Self::Operator => "operator",
        }
    }

    /// The role with this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Viewer, Self::Admin, Self::Operator];
        all.into_iter().find(|role| role.name() == name)
    }
}

/// Why claims do not make an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// `sub` is empty, too long, or contains control characters.
    #[error(
        "sub must be a name of at most {MAX_SUBJECT_CHARS} characters, without control characters"
    )]
    Subject,
    /// An operator acts for every organization.
    #[error("an operator belongs to no organization: leave org_id (--org) out")]
    OperatorWithOrg,
    /// Everybody else acts for one.
    #[error("a viewer or admin belongs to an organization: name it by org_id (--org)")]
    NoOrg,
}

/// The bearer of a valid token.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `sub`: the name in the records.
    pub subject: String,
    /// `role`.
    pub role: Role,
    /// `org_id`: the organization. Operators have none.
    pub org: Option<OrgId>,
}

impl Identity {
    /// An identity with this name and role.
    ///
    /// # Errors
    /// When the name cannot be stored in records, or the role does not fit the organization.
    pub fn new(subject: String, role: Role, org: Option<OrgId>) -> Result<Self, BadIdentity> {
        if subject.trim().is_empty()
            || subject.contains(is_control)
            || subject.chars().count() > MAX_SUBJECT_CHARS
        {
            return Err(BadIdentity::Subject);
        }
        match (role, org) {
            (Role::Operator, Some(_)) => Err(BadIdentity::OperatorWithOrg),
            (Role::Viewer | Role::Admin, None) => Err(BadIdentity::NoOrg),
            (role, org) => Ok(Self { subject, role, org }),
        }
    }

    /// Allows members of the organization and operators to read its data.
    pub(super) fn may_read(&self, org: OrgId) -> Result<(), Problem> {
        if self.role == Role::Operator || self.org == Some(org) {
            return Ok(());
        }
        Err(Problem::not_found())
    }

    /// Allows admins of the organization and operators to request a purge.
    pub(super) fn may_purge(&self, org: OrgId) -> Result<(), Problem> {
        self.may_read(org)?;
        if self.role == Role::Viewer {
            return Err(Problem::forbidden(
                "a purge needs the role admin or operator",
            ));
        }
        Ok(())
    }

    /// The run without the fields that this identity may not see.
    pub(super) fn visible_run(&self, run: Run) -> Run {
        if self.role == Role::Operator {
            run
        } else {
            run.for_tenants()
        }
    }

    /// Allows operators to act on the runs of all organizations.
    pub(super) fn may_operate(&self) -> Result<(), Problem> {
        if self.role == Role::Operator {
            return Ok(());
        }
        Err(Problem::forbidden("this needs the role operator"))
    }
}

impl FromRequestParts<ApiState> for Identity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let token = Token::from_request_parts(parts, state).await?;
        Ok(token.identity)
    }
}

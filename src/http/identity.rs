//! Who calls, and what they may do. A thing of another organization is not forbidden but not there.

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{ApiState, Problem, auth::Token};
use crate::{ids::OrgId, runs::Run, text::is_control};

/// The longest subject that is kept in records.
const MAX_SUBJECT: usize = 200;

/// What a token's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Reads its organization's things.
    Viewer,
    /// Reads them, and asks for purges.
    Admin,
    /// Everything, of every organization.
    Operator,
}

impl Role {
    /// Its name in tokens and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
            Self::Operator => "operator",
        }
    }

    /// The role of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [Self::Viewer, Self::Admin, Self::Operator];
        all.into_iter().find(|role| role.name() == name)
    }
}

/// Who cannot be anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// `sub` is empty, too long, or could steer a terminal.
    #[error("sub must be a name of at most {MAX_SUBJECT} characters, without control characters")]
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
    /// `sub`: who, as it stands in the records.
    pub subject: String,
    /// `role`.
    pub role: Role,
    /// `org_id`: whose; operators have none.
    pub org: Option<OrgId>,
}

impl Identity {
    /// Somebody of this name, with this role.
    ///
    /// # Errors
    /// When the name cannot be kept in records, or role and organization do not go together.
    pub fn new(subject: String, role: Role, org: Option<OrgId>) -> Result<Self, BadIdentity> {
        if subject.trim().is_empty()
            || subject.contains(is_control)
            || subject.chars().count() > MAX_SUBJECT
        {
            return Err(BadIdentity::Subject);
        }
        match (role, org) {
            (Role::Operator, Some(_)) => Err(BadIdentity::OperatorWithOrg),
            (Role::Viewer | Role::Admin, None) => Err(BadIdentity::NoOrg),
            (role, org) => Ok(Self { subject, role, org }),
        }
    }

    /// Reading an organization's things: its own people, and operators.
    pub(super) fn may_read(&self, org: OrgId) -> Result<(), Problem> {
        if self.role == Role::Operator || self.org == Some(org) {
            return Ok(());
        }
        Err(Problem::not_found())
    }

    /// Asking for a purge: admins of the organization, and operators.
    pub(super) fn may_purge(&self, org: OrgId) -> Result<(), Problem> {
        self.may_read(org)?;
        if self.role == Role::Viewer {
            return Err(Problem::forbidden(
                "a purge needs the role admin or operator",
            ));
        }
        Ok(())
    }

    /// A run as this person may see it.
    pub(super) fn shown(&self, run: Run) -> Run {
        if self.role == Role::Operator {
            run
        } else {
            run.for_tenants()
        }
    }

    /// Acting on all organizations' runs.
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

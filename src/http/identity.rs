//! Who calls, and what they may do. A thing of another organization is not forbidden but not there.

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::{Deserialize, Serialize};

use super::{ApiState, Problem};
use crate::{ids::OrgId, queue::Run};

/// What a token's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
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
        let identity = state.verifier.identify(&parts.headers).await?;
        state.limits.request(&identity)?;
        Ok(identity)
    }
}

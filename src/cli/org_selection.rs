//! `--org ID | --all`: the selection of organizations that several commands share.

use anyhow::Result;

use crate::{drift::organizations, ids::OrgId, postgres::Database};

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct OrgSelection {
    /// One organization
    #[arg(long, value_name = "ID")]
    pub(super) org: Option<OrgId>,
    /// Every organization
    #[arg(long)]
    all: bool,
}

impl OrgSelection {
    /// The organizations, in order.
    pub(super) async fn ids(&self, database: &Database) -> Result<Vec<OrgId>> {
        Ok(match self.org {
            Some(org) => vec![org],
            None => organizations::ids(database).await?,
        })
    }
}

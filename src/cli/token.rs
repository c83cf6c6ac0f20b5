//! `token`: signs a token for development, with a secret that must be set.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};

use super::{Settings, output::say};
use crate::{
    config::Config,
    http::{Identity, Role, mint},
    ids::OrgId,
};

#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    /// Who: the name that stands in the records
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// What the bearer may do
    #[arg(long, value_enum)]
    role: Role,
    /// Whose things; a viewer and an admin have one, an operator has none
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// How long it is valid
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Print a link that signs in to the console, once
    #[arg(long)]
    link: bool,
}

pub(super) fn run(args: TokenArgs, settings: &Settings) -> Result<ExitCode> {
    let config = settings.load()?;
    if args.role == Role::Operator && args.org.is_some() {
        bail!("an operator belongs to no organization: leave --org out");
    }
    if args.role != Role::Operator && args.org.is_none() {
        bail!("a viewer or admin belongs to an organization: pass --org ID");
    }
    let identity = Identity {
        subject: args.sub,
        role: args.role,
        org: args.org,
    };
    if args.link {
        say!("{}", signin_link(&config, &identity, args.ttl)?)?;
    } else {
        say!("{}", mint(&config.auth, &identity, args.ttl)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A link that signs `identity` in to the console of the service at `http.listen`. It works once.
pub(super) fn signin_link(config: &Config, identity: &Identity, ttl: Duration) -> Result<String> {
    let address = config.http.own_address();
    let token = mint(&config.auth, identity, ttl)?;
    Ok(format!("http://{address}/signin?token={token}"))
}

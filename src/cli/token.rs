//! `token`: signs a token or a sign-in link for development, with a secret that must be set.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use super::{Settings, output::say};
use crate::{
    config::Config,
    http::{Identity, Role, mint, mint_link},
    ids::OrgId,
};

/// The longest lifetime of a token.
const MAX_LIFETIME: Duration = Duration::from_hours(36_500 * 24);

#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    /// The bearer's name, as the records show it
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// The bearer's role
    #[arg(long, value_enum)]
    role: Role,
    /// The bearer's organization; required for a viewer and an admin, not allowed for an operator
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// How long the token is valid, or the session of the link
    #[arg(long, default_value = "1h", value_parser = parse_lifetime)]
    ttl: Duration,
    /// Print a link that signs in to the console once, within ten minutes
    #[arg(long)]
    link: bool,
}

pub(super) fn run(args: TokenArgs, settings: &Settings) -> Result<ExitCode> {
    let config = settings.load()?;
    let identity = Identity::new(args.sub, args.role, args.org)?;
    if args.link {
        say!("{}", signin_link(&config, &identity, args.ttl)?)?;
    } else {
        say!("{}", mint(&config.auth, &identity, args.ttl)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses a duration that chrono can add to the present time.
fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if length > MAX_LIFETIME {
        return Err("it must be at most 36500d".to_owned());
    }
    Ok(length)
}

/// A link that signs `identity` in to the console of the service at `http.listen`, for a session of this length.
pub(super) fn signin_link(
    config: &Config,
    identity: &Identity,
    session: Duration,
) -> Result<String> {
    let address = config.http.own_address();
    let token = mint_link(&config.auth, identity, session)?;
    Ok(format!("http://{address}/signin?token={token}"))
}

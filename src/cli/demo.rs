//! `demo`
use std::process::ExitCode;
use anyhow::Result;
use super::Settings;
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {}
pub(super) async fn run(_: DemoArgs, _: &Settings) -> Result<ExitCode> { Ok(ExitCode::SUCCESS) }

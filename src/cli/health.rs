//! `health`: asks the service at `http.listen` whether it is ready. Container health checks use it, so an image needs no curl.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Settings, output::say};

/// Longer than the longest `/readyz` answer, which says what is wrong.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

pub(super) async fn run(settings: &Settings) -> Result<ExitCode> {
    let address = settings.load()?.http.own_address();
    let url = format!("http://{address}/readyz");
    // Never use a proxy for a request to this machine.
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .build()?;
    let answer = client
        .get(&url)
        .send()
        .await
        .with_context(|| format!("no answer from {address} (`http.listen`)"))?;
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    if !status.is_success() {
        bail!("not ready: {}", reason(&body).unwrap_or(status.to_string()));
    }
    say!("ready")?;
    Ok(ExitCode::SUCCESS)
}

/// The parts of the `/readyz` answer that are not `ok`, on one line.
fn reason(body: &str) -> Option<String> {
    let parts: Value = serde_json::from_str(body).ok()?;
    let wrong: Vec<String> = parts
        .as_object()?
        .iter()
        .filter_map(|(part, found)| Some((part, found.as_str()?)))
        .filter(|(_, found)| *found != "ok")
        .map(|(part, found)| format!("{part}: {}", found.replace('\n', " ")))
        .collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

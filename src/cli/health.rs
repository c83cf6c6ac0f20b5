//! `health`: asks the service at `http.listen` whether it is ready. For the health checks of containers: an image needs
//! no curl for them.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Settings, output::say};

/// Longer than `/readyz` takes at most, which then says itself what is wrong.
const TIMEOUT: Duration = Duration::from_secs(8);

pub(super) async fn run(settings: &Settings) -> Result<ExitCode> {
    let address = settings.load()?.http.own_address();
    let url = format!("http://{address}/readyz");
    // A proxy is for the way out, never for the way to ourselves.
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?;
    let answer = client
        .get(&url)
        .send()
        .await
        .with_context(|| format!("nothing answers at {address}, which is `http.listen`"))?;
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    if !status.is_success() {
        bail!("not ready: {}", reason(&body).unwrap_or(status.to_string()));
    }
    say!("ready")?;
    Ok(ExitCode::SUCCESS)
}

/// What `/readyz` found wrong: its parts that are not `ok`, on one line.
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

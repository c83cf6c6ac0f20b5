//! Stopping: the first SIGTERM or SIGINT lets the process finish in order, the second ends it at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first signal cancels.
pub(super) fn on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = stop.clone();
    tokio::spawn(async move {
        let mut next =
            async || tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () };
        next().await;
        tracing::info!("stopping; a second signal ends it at once");
        token.cancel();
        next().await;
        end_at_once();
    });
    Ok(stop)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a second signal asks for exactly this"
)]
fn end_at_once() {
    std::process::exit(130);
}

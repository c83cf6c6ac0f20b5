//! Stop signals: the first SIGTERM, SIGINT or SIGHUP lets the process finish its work, the second ends it at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signals that stop the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal has closed. `None` if the process was started to outlive its terminal.
    hang_up: Option<Signal>,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let hang_up = (!ignores_hang_up()).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: hang_up.transpose()?,
        })
    }

    async fn next(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
            _ = hang_up => (),
        }
    }
}

/// Whether SIGHUP was ignored when the process started, as with `nohup`. Then it stays ignored. Only Linux reports
/// this; elsewhere SIGHUP stops the process.
fn ignores_hang_up() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_hang_up_ignored(&status))
}

/// `SigIgn` is a hexadecimal bit mask. SIGHUP is signal 1, the lowest bit.
fn is_hang_up_ignored(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// A token that the first signal cancels.
///
/// # Errors
/// When the process cannot listen for signals.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut signals = Signals::listen()?;
    let token = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping; a second signal ends it at once");
        token.cancel();
        signals.next().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hang_up_is_ignored_when_its_bit_is_set() {
        assert!(is_hang_up_ignored("Name:\tx\nSigIgn:\t0000000000001001\n"));
        assert!(!is_hang_up_ignored("SigIgn:\t0000000000001000\n"));
        assert!(!is_hang_up_ignored("Name:\tx\n"));
    }
}

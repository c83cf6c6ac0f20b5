//! A panic in one attempt ends that attempt and nothing else.

use tokio_util::task::AbortOnDropHandle;

use crate::purge::PurgeError;

/// Runs `attempt` in a task of its own, where a panic is an error like any other.
pub(super) async fn isolate_panics<T: Send + 'static>(
    attempt: impl Future<Output = Result<T, PurgeError>> + Send + 'static,
) -> Result<T, PurgeError> {
    match AbortOnDropHandle::new(tokio::spawn(attempt)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(PurgeError::Panic(panic_message(error))),
    }
}

fn panic_message(error: tokio::task::JoinError) -> String {
    if !error.is_panic() {
        return "the attempt was aborted".into();
    }
    let panic = error.into_panic();
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_what_the_panic_said() {
        let error = isolate_panics::<()>(async { panic!("index out of bounds") })
            .await
            .unwrap_err();
        assert_eq!(error.kind(), "panic");
        assert!(!error.is_permanent());
        assert_eq!(error.to_string(), "the purge panicked: index out of bounds");
    }
}

//! How long a failed attempt waits for the next: exponential, with jitter, capped.

use std::time::Duration;

use rand::RngExt;

/// The waits between attempts.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The longest first wait.
    pub base: Duration,
    /// The longest wait of all.
    pub max: Duration,
}

impl Backoff {
    /// The wait after attempt number `attempt` (from 1): half of it fixed, half random, so that no two
    /// organizations that failed together come back together, and yet each wait is no shorter than the last.
    #[must_use]
    pub fn wait(&self, attempt: i32) -> Duration {
        let ceiling = self.ceiling(attempt);
        ceiling.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    fn ceiling(&self, attempt: i32) -> Duration {
        let doublings = u32::try_from(attempt.saturating_sub(1))
            .unwrap_or(0)
            .min(30);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_up_to_the_cap_and_never_pass_it(base_ms in 1_u64..60_000, attempt in 1_i32..100) {
            let backoff = Backoff { base: Duration::from_millis(base_ms), max: Duration::from_hours(1) };
            let (wait, next) = (backoff.wait(attempt), backoff.wait(attempt + 1));
            prop_assert!(wait <= backoff.max);
            prop_assert!(wait >= backoff.ceiling(attempt) / 2);
            if backoff.ceiling(attempt + 1) < backoff.max {
                prop_assert!(next >= wait);
            }
        }
    }

    #[test]
    fn the_first_wait_is_at_most_the_base() {
        let backoff = Backoff {
            base: Duration::from_secs(10),
            max: Duration::from_hours(1),
        };
        assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&backoff.wait(1)));
        assert_eq!(backoff.ceiling(40), backoff.max);
    }
}

//! Waiting for a condition, with a deadline and the last reason why it did not hold.
//!
//! Nothing in the tests sleeps in the hope that something has happened meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Looks at `condition` until it is `Ok`, for at most `within`. `what` completes "waited 5 s for ...".
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        // A condition that itself hangs must not outlive the deadline by more than a little.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
        let why = match tokio::time::timeout(left, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => format!("{why:#}"),
            Err(_) => "the look at it did not return".into(),
        };
        if Instant::now() >= deadline {
            bail!("waited {:.1} s for {what}, in vain: {why}", within.as_secs_f64());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The same for conditions that need no runtime.
pub fn until_blocking<T>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(why) if Instant::now() >= deadline => {
                bail!("waited {:.1} s for {what}, in vain: {why:#}", within.as_secs_f64())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_never_holds_ends_with_its_reason() {
        let why = until::<()>("rain", Duration::from_millis(30), async || bail!("the sky is clear")).await;
        let why = why.unwrap_err().to_string();
        assert!(why.contains("rain") && why.contains("the sky is clear"), "{why}");
        let hung = until::<()>("a hang", Duration::ZERO, async || std::future::pending().await).await;
        assert!(hung.is_err());
    }
}

//! Signals by name, and how a container is asked to stop.

use std::time::Duration;

use super::container::Container;
use super::error::RuntimeError;
use crate::image::signal;

/// A signal by number or by name.
pub fn parse(text: &str) -> Result<i32, RuntimeError> {
    let bad = || RuntimeError::usage(format!("invalid signal: {}", text.chars().take(40).collect::<String>()));
    signal::number(text).ok_or_else(bad)
}

/// The signal that asks a container to stop.
pub fn stop_signal(container: &Container) -> i32 {
    container.config.stop_signal.as_deref().and_then(|text| parse(text).ok()).unwrap_or(15)
}

/// How long it then has; `None` for as long as it takes, which docker says with a negative number.
pub fn stop_timeout(container: &Container) -> Option<Duration> {
    u64::try_from(container.config.stop_timeout.unwrap_or(10)).ok().map(Duration::from_secs)
}

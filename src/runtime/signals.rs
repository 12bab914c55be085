//! Signals by name, and how a container is asked to stop.

use std::time::Duration;

use super::container::Container;
use super::error::RuntimeError;

/// Linux's names and numbers (signal(7)), for x86-64 and arm64.
const NAMES: [(&str, i32); 35] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", 34),
];

/// A signal by number, or by name with or without `SIG`, `RTMIN+n` and `RTMAX-n` too.
pub fn parse(text: &str) -> Result<i32, RuntimeError> {
    let bad = || RuntimeError::usage(format!("invalid signal: {}", text.chars().take(40).collect::<String>()));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let real_time = match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-"), name) {
        (Some(n), _, _) => n.parse::<i32>().ok().filter(|n| (0..=30).contains(n)).map(|n| 34 + n),
        (_, Some(n), _) => n.parse::<i32>().ok().filter(|n| (0..=30).contains(n)).map(|n| 64 - n),
        (_, _, "RTMAX") => Some(64),
        _ => None,
    };
    real_time.ok_or_else(bad)
}

/// The signal that asks a container to stop.
pub fn stop_signal(container: &Container) -> i32 {
    container.config.stop_signal.as_deref().and_then(|text| parse(text).ok()).unwrap_or(15)
}

/// How long it then has.
pub fn stop_timeout(container: &Container) -> Duration {
    Duration::from_secs(container.config.stop_timeout.unwrap_or(10))
}

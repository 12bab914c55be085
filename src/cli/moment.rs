//! Moments as docker takes them for `--since` and `--until`: a length of time before now, seconds since 1970 with or
//! without a fraction, or a date with or without a time and a zone.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};

use super::container::flags::values::duration;

/// Parses one.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    let bad =
        || format!("{text:?} is no time: give a length as 10m, seconds since 1970, or a date as 2024-01-31T12:00:00");
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    if let Some((seconds, fraction)) = seconds(text) {
        return Timestamp::new(seconds, fraction).map_err(|_| bad());
    }
    if let Ok(length) = duration(text.strip_prefix('-').unwrap_or(text)) {
        let length = SignedDuration::from_nanos(length);
        let then = if text.starts_with('-') { Timestamp::now() + length } else { Timestamp::now() - length };
        return Ok(then);
    }
    let local =
        text.parse::<civil::DateTime>().or_else(|_| text.parse::<civil::Date>().map(|date| date.at(0, 0, 0, 0)));
    local.and_then(|local| TimeZone::UTC.to_timestamp(local)).map_err(|_| bad())
}

/// `1700000000` or `1700000000.123456789`.
fn seconds(text: &str) -> Option<(i64, i32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    Some((whole.parse().ok()?, format!("{fraction:0<9}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("1700000000", Some("2023-11-14T22:13:20Z")),
            ("1700000000.5", Some("2023-11-14T22:13:20.5Z")),
            ("2023-11-14T22:13:20Z", Some("2023-11-14T22:13:20Z")),
            ("2023-11-14T22:13:20+01:00", Some("2023-11-14T21:13:20Z")),
            ("2023-11-14T22:13:20", Some("2023-11-14T22:13:20Z")),
            ("2023-11-14", Some("2023-11-14T00:00:00Z")),
            ("", None),
            ("yesterday", None),
        ] {
            assert_eq!(parse(text).ok().map(|t| t.to_string()).as_deref(), expected, "{text}");
        }
        let before = Timestamp::now();
        let hour = before.duration_since(parse("1h").unwrap()).as_secs();
        assert!((3598..=3600).contains(&hour), "{hour}");
    }
}

//! Sizes and times as docker writes them (docker/go-units: `size.go`, `duration.go`).

use jiff::Timestamp;

/// A size with decimal units and so many significant digits: `4.26MB`.
pub fn size(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), UNITS[unit])
}

/// A size with binary units and four significant digits, as docker writes memory: `1.945MiB`.
pub fn binary(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{}{}", significant(value, 4), UNITS[unit])
}

/// A number below 1024 with so many significant digits, and no zeros at its end.
fn significant(value: f64, digits: usize) -> String {
    let before = 1 + [10.0, 100.0, 1000.0].iter().filter(|power| value >= **power).count();
    let text = format!("{value:.*}", digits.saturating_sub(before));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// How long ago: `3 weeks ago`; `N/A` when it is not known.
pub fn ago(then: Option<Timestamp>) -> String {
    match then {
        Some(then) => format!("{} ago", duration(Timestamp::now().duration_since(then).as_secs())),
        None => "N/A".into(),
    }
}

/// A length of time in whole units.
pub fn duration(seconds: i64) -> String {
    let hours = (seconds as f64 / 3600.0 + 0.5) as i64;
    match (seconds, seconds / 60, hours) {
        (..1, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, minutes @ ..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// A time as docker's lists have it: `2024-01-18 22:31:19 +0000 UTC`.
pub fn time(then: Option<Timestamp>) -> String {
    match then {
        Some(then) => then.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        None => "N/A".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_docker_writes_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_261_550, "4.26MB"),
            (42_600_000, "42.6MB"),
            (142_345_678, "142MB"),
            (1_090_000_000, "1.09GB"),
            (2_000_000_000, "2GB"),
        ] {
            assert_eq!(size(bytes, 3), text);
        }
        assert_eq!(size(1_234_567, 4), "1.235MB");
        for (bytes, text) in [(0, "0B"), (1023, "1023B"), (2_039_808, "1.945MiB"), (8 << 30, "8GiB")] {
            assert_eq!(binary(bytes), text);
        }
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3000, "50 minutes"),
            (3600, "About an hour"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (15 * 86400, "2 weeks"),
            (70 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}

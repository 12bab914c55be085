//! Values on the command line.

use crate::image::Reference;
use crate::image::reference::ReferenceError;

/// A name to give to an image; `latest` when it has no tag.
pub fn image_name(text: &str) -> Result<Reference, ReferenceError> {
    text.parse().map(Reference::or_latest)
}

/// A size: a number with an optional unit, `128MiB`, `2G`. Units are powers of 1024, as docker has them in limits.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("{text:?} is not a size such as 128MiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a size such as 128MiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// A zstd window, as a power of two.
pub fn window(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    let log = bytes.max(1).next_power_of_two().trailing_zeros();
    if (10..=31).contains(&log) { Ok(log) } else { Err("a window is 1KiB to 2GiB".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_and_nonsense_is_refused() {
        assert_eq!((size("128MiB"), size("2g"), size("7")), (Ok(128 << 20), Ok(2 << 30), Ok(7)));
        assert_eq!((window("2GiB"), window("128M"), window("100M")), (Ok(31), Ok(27), Ok(27)));
        for bad in ["", "x", "1x", "-1", "99999999999T", "1.5G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(window("4GiB").is_err());
    }
}

//! Names as docker makes them: an adjective and somebody who did good work.

use super::super::error::RuntimeError;

const LEFT: [&str; 40] = [
    "amber", "ample", "brave", "brisk", "calm", "candid", "clever", "crisp", "dapper", "deft", "eager", "early",
    "fair", "fond", "frank", "gentle", "glad", "handy", "hardy", "honest", "jolly", "keen", "kind", "lively", "lucid",
    "merry", "modest", "neat", "nimble", "patient", "plain", "quick", "quiet", "ready", "sharp", "steady", "sunny",
    "tidy", "warm", "witty",
];
const RIGHT: [&str; 40] = [
    "abel",
    "ampere",
    "archimedes",
    "bell",
    "boole",
    "brunel",
    "carnot",
    "celsius",
    "curie",
    "darwin",
    "eiffel",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "franklin",
    "fulton",
    "galileo",
    "gauss",
    "halley",
    "hertz",
    "hooke",
    "hopper",
    "huygens",
    "joule",
    "kelvin",
    "kepler",
    "lovelace",
    "mendel",
    "newton",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "ritchie",
    "shannon",
    "turing",
    "volta",
    "watt",
    "wren",
];

/// A made-up name from four random bytes; `attempt` adds a digit once plain names run into each other.
pub fn invent(random: [u8; 4], attempt: u32) -> String {
    let pick = |list: &[&'static str], at: u16| list.get(usize::from(at) % list.len().max(1)).copied().unwrap_or("a");
    let [a, b, c, d] = random;
    let name = format!("{}_{}", pick(&LEFT, u16::from_le_bytes([a, b])), pick(&RIGHT, u16::from_le_bytes([c, d])));
    if attempt == 0 { name } else { format!("{name}{}", attempt % 10) }
}

/// Checks a name against docker's pattern `[a-zA-Z0-9][a-zA-Z0-9_.-]+`; a leading slash is dropped.
pub fn check(name: &str) -> Result<&str, RuntimeError> {
    let name = name.strip_prefix('/').unwrap_or(name);
    let good = name.len() >= 2
        && name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good {
        Ok(name)
    } else {
        let shown: String = name.chars().take(128).collect();
        Err(RuntimeError::usage(format!(
            "invalid container name {shown:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed, up to 128 characters"
        )))
    }
}

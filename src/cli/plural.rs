//! Counts as people say them.

use std::fmt::Display;

/// `1 volume`, `2 volumes`.
pub fn counted(number: impl Display, thing: &str) -> String {
    let number = number.to_string();
    let ending = if number == "1" { "" } else { "s" };
    format!("{number} {thing}{ending}")
}

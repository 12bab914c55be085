//! Filters as docker has them: `KIND=VALUE`, those of one kind alternatives, labels and different kinds together.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::moment;
use crate::runtime::RuntimeError;

/// A filter that is none.
pub fn bad(filter: &str) -> RuntimeError {
    RuntimeError::usage(format!("invalid filter {filter:?}"))
}

/// A filter as an option's value: `KIND=VALUE`.
pub fn pair(text: &str) -> Result<String, String> {
    match text.contains('=') {
        true => Ok(text.to_owned()),
        false => Err("it has to be KIND=VALUE".to_owned()),
    }
}

/// Whether a thing fits `filters`; of one of them, by its kind and value, `one` says it, or nothing of a kind it does not
/// know.
pub fn fits(filters: &[String], one: impl Fn(&str, &str) -> Option<bool>) -> Result<bool, RuntimeError> {
    let mut kinds: BTreeMap<&str, bool> = BTreeMap::new();
    for filter in filters {
        let (kind, value) = filter.split_once('=').ok_or_else(|| bad(filter))?;
        let fits = one(kind, value).ok_or_else(|| bad(filter))?;
        let alternatives = !kind.starts_with("label");
        let known = kinds.entry(kind).or_insert(!alternatives);
        *known = if alternatives { *known || fits } else { *known && fits };
    }
    Ok(kinds.into_values().all(|fits| fits))
}

/// Whether there is a label `KEY` or `KEY=VALUE`.
pub fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

/// What docker takes for a truth value in a filter.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// What may be pruned.
pub enum PruneFilter {
    /// Made before then.
    Until(Timestamp),
    /// With, or without, such a label.
    Label {
        /// `KEY` or `KEY=VALUE`.
        label: String,
        /// With.
        wanted: bool,
    },
}

impl PruneFilter {
    /// `until=TIME`, `label=KEY[=VALUE]`, `label!=KEY[=VALUE]`.
    pub fn parse(text: &str) -> Result<Self, RuntimeError> {
        let label = |label: &str, wanted| Self::Label { label: label.to_owned(), wanted };
        match text.split_once('=') {
            Some(("label!", rest)) => Ok(label(rest, false)),
            Some(("label", rest)) => Ok(label(rest, true)),
            Some(("until", time)) => moment::parse(time).map(Self::Until).map_err(RuntimeError::Usage),
            _ => Err(bad(text)),
        }
    }

    /// Whether it fits what was made then and has these labels.
    pub fn fits(&self, created: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Until(until) => created.parse::<Timestamp>().is_ok_and(|made| made < *until),
            Self::Label { label, wanted } => has_label(labels, label) == *wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_kind_all_of_the_labels_and_every_kind_must_fit() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        let one = |kind: &str, value: &str| match kind {
            "name" => Some(value == "x"),
            "dangling" => truth(value),
            "label" => Some(has_label(&labels, value)),
            "label!" => Some(!has_label(&labels, value)),
            _ => None,
        };
        for (filters, expected) in [
            ("", Some(true)),
            ("name=x name=y", Some(true)),
            ("name=y", Some(false)),
            ("label=a label=b", Some(true)),
            ("label=a label=c", Some(false)),
            ("label=a=1 label!=a=2 name=y name=x", Some(true)),
            ("label!=a", Some(false)),
            ("name=x dangling=0", Some(false)),
            ("dangling=maybe", None),
            ("nope=1", None),
            ("name", None),
        ] {
            let filters: Vec<String> = filters.split_whitespace().map(str::to_owned).collect();
            assert_eq!(fits(&filters, one).ok(), expected, "{filters:?}");
        }
    }
}

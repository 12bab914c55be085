//! Patterns as Go's `path.Match` has them, which docker uses for names: `*` and `?` stop at a slash, `[a-z]` and
//! `[^a-z]` are classes, a backslash takes the next character as it is.

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern {0:?}")]
pub struct PatternError(pub String);

impl crate::base::Fault for PatternError {
    fn class(&self) -> crate::base::Class {
        crate::base::Class::Usage
    }
}

/// Whether all of `text` is what `pattern` means.
pub fn matches(pattern: &str, text: &str) -> Result<bool, PatternError> {
    let items = parse(pattern).ok_or_else(|| PatternError(pattern.to_owned()))?;
    let text: Vec<char> = text.chars().collect();
    // The star that was passed last, and where it may go on: enough to try again, for stars do not nest.
    let (mut item, mut at, mut star) = (0, 0, None);
    loop {
        match items.get(item) {
            Some(Item::Star) => {
                star = Some((item, at));
                item += 1;
                continue;
            }
            Some(one) if at < text.len() && one.takes(text[at]) => {
                item += 1;
                at += 1;
                continue;
            }
            None if at == text.len() => return Ok(true),
            _ => {}
        }
        match star {
            Some((star_item, star_at)) if star_at < text.len() && text[star_at] != '/' => {
                star = Some((star_item, star_at + 1));
                item = star_item + 1;
                at = star_at + 1;
            }
            _ => return Ok(false),
        }
    }
}

enum Item {
    Star,
    Any,
    One(char),
    Class(bool, Vec<(char, char)>),
}

impl Item {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => c != '/',
            Self::One(one) => *one == c,
            Self::Class(negated, ranges) => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

fn parse(pattern: &str) -> Option<Vec<Item>> {
    let mut items = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        items.push(match c {
            '*' => Item::Star,
            '?' => Item::Any,
            '\\' => Item::One(chars.next()?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let low = match chars.next()? {
                        ']' if !ranges.is_empty() => break,
                        ']' | '-' => return None,
                        '\\' => chars.next()?,
                        low => low,
                    };
                    let high = if chars.next_if_eq(&'-').is_some() {
                        match chars.next()? {
                            '\\' => chars.next()?,
                            ']' => return None,
                            high => high,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                Item::Class(negated, ranges)
            }
            c => Item::One(c),
        });
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, text, expected) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("*box*", "busybox", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("busy*:*", "busybox:latest", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a*b*c", "aXbYbZc", true),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text), Ok(expected), "{pattern} {text}");
        }
        for bad in ["[", "[]", "[a", "a\\", "[a-]", "[-a]"] {
            assert!(matches(bad, "a").is_err(), "{bad}");
        }
    }
}

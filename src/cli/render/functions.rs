//! The functions of templates: Go's own, and docker's (docker/cli `templates/templates.go`).

use std::cmp::Ordering;
use std::sync::Arc;

use super::data::{Data, Kind};
use super::printf::{bounded, print, printf, show, sprint};

/// The most items of a list that a template may make.
const MOST: usize = 1 << 20;

/// Whether in the headings of a table the function gives back what it gets, as docker has it.
pub fn keeps_headings(name: &str) -> bool {
    matches!(name, "json" | "split" | "join" | "title" | "lower" | "upper" | "truncate")
}

/// Calls a function; `and` and `or` are not among them, as they do not look at all their arguments.
pub fn apply(name: &str, arguments: &[Data]) -> Result<Data, String> {
    let wrong = || format!("wrong arguments for {name}");
    let text = |at: usize| match arguments.get(at) {
        Some(Data::Text(text)) => Ok(&**text),
        _ => Err(wrong()),
    };
    let number = |at: usize| match arguments.get(at) {
        Some(Data::Number(number)) => number.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong),
        _ => Err(wrong()),
    };
    let first = || arguments.first().ok_or_else(wrong);
    let two = || match arguments {
        [a, b] => Ok((a, b)),
        _ => Err(wrong()),
    };
    let made = match name {
        "json" => Data::text(first()?.json().to_string()),
        "join" => join(first()?, text(1)?).ok_or_else(wrong)??,
        "split" => split(text(0)?, text(1)?)?,
        "upper" => Data::text(text(0)?.to_uppercase()),
        "lower" => Data::text(text(0)?.to_lowercase()),
        "title" => title(text(0)?),
        "truncate" => Data::text(text(0)?.chars().take(number(1)?).collect::<String>()),
        "pad" if text(0)?.is_empty() => Data::text(""),
        "pad" => {
            bounded(number(1)?.saturating_add(number(2)?))?;
            Data::text(format!("{}{}{}", " ".repeat(number(1)?), text(0)?, " ".repeat(number(2)?)))
        }
        "len" => Data::Number(
            match first()? {
                Data::Text(text) => text.len(),
                Data::List(items) => items.len(),
                Data::Map(fields, _) | Data::Struct(fields) => fields.len(),
                Data::Nil(Kind::List | Kind::Map) => 0,
                other => return Err(format!("len of {}", print(other))),
            }
            .into(),
        ),
        "slice" => slice(first()?, number(1).unwrap_or(0), if arguments.len() > 2 { Some(number(2)?) } else { None })?,
        "index" => {
            let mut value = first()?.clone();
            for key in &arguments[1..] {
                value = index(&value, key)?;
            }
            value
        }
        "print" => Data::text(sprint(arguments)?),
        "println" => {
            let mut line = String::new();
            for (at, value) in arguments.iter().enumerate() {
                line.push_str(if at > 0 { " " } else { "" });
                line.push_str(&show(value));
                bounded(line.len())?;
            }
            Data::text(line + "\n")
        }
        "printf" => Data::text(printf(text(0)?, &arguments[1..])?),
        "html" => Data::text(html(&sprint(arguments)?)),
        "js" => Data::text(js(&sprint(arguments)?)),
        "urlquery" => Data::text(urlquery(&sprint(arguments)?)),
        "not" => Data::Bool(!first()?.truth()),
        "eq" => {
            let (first, rest) = arguments.split_first().filter(|(_, rest)| !rest.is_empty()).ok_or_else(wrong)?;
            Data::Bool(rest.iter().any(|other| same(first, other)))
        }
        "ne" => two().map(|(a, b)| Data::Bool(!same(a, b)))?,
        "lt" | "le" | "gt" | "ge" => {
            let (a, b) = two()?;
            let order = compare(a, b).ok_or("incompatible types for comparison")?;
            Data::Bool(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            })
        }
        _ => return Err(format!("function {name:?} not defined")),
    };
    if let Data::Text(text) = &made {
        bounded(text.len())?;
    }
    Ok(made)
}

/// A whole number; a duration is one of nanoseconds.
fn whole(value: &Data) -> Option<i64> {
    match value {
        Data::Number(number) => number.as_i64(),
        Data::Duration(nanoseconds) => Some(*nanoseconds),
        _ => None,
    }
}

/// Whether two values are the same; all nulls are.
fn same(a: &Data, b: &Data) -> bool {
    let null = |value: &Data| matches!(value, Data::Nothing | Data::Nil(_));
    a == b || null(a) && null(b) || whole(a).is_some_and(|a| whole(b) == Some(a))
}

fn compare(a: &Data, b: &Data) -> Option<Ordering> {
    match (a, b) {
        (Data::Text(a), Data::Text(b)) => Some(a.cmp(b)),
        (Data::Number(x), Data::Number(y)) if whole(a).is_none() || whole(b).is_none() => {
            x.as_f64()?.partial_cmp(&y.as_f64()?)
        }
        _ => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

/// The items with a separator between them; `None` if it is no list.
fn join(list: &Data, separator: &str) -> Option<Result<Data, String>> {
    let items = match list {
        Data::List(items) => items.as_slice(),
        Data::Nil(Kind::List) => &[],
        _ => return None,
    };
    let mut out = String::new();
    for (at, item) in items.iter().enumerate() {
        out.push_str(if at > 0 { separator } else { "" });
        out.push_str(&show(item));
        if let Err(error) = bounded(out.len()) {
            return Some(Err(error));
        }
    }
    Some(Ok(Data::text(out)))
}

fn split(text: &str, separator: &str) -> Result<Data, String> {
    let mut items: Vec<Data> = if separator.is_empty() {
        text.chars().take(MOST + 1).map(|c| Data::text(c.to_string())).collect()
    } else {
        text.split(separator).take(MOST + 1).map(Data::text).collect()
    };
    if items.len() > MOST {
        return Err("split: too many items".into());
    }
    items.shrink_to_fit();
    Ok(Data::List(Arc::new(items)))
}

/// Each word with a capital, as Go's `strings.Title`.
fn title(text: &str) -> Data {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || !c.is_ascii() && !c.is_whitespace();
    }
    Data::text(out)
}

fn slice(value: &Data, from: usize, to: Option<usize>) -> Result<Data, String> {
    let range = "slice: index out of range";
    match value {
        Data::Text(text) => text.get(from..to.unwrap_or(text.len())).map(Data::text).ok_or_else(|| range.into()),
        Data::List(items) => {
            let items = items.get(from..to.unwrap_or(items.len())).ok_or(range)?;
            Ok(Data::List(Arc::new(items.to_vec())))
        }
        Data::Nil(Kind::List) if from == 0 && to.unwrap_or(0) == 0 => Ok(value.clone()),
        Data::Nil(Kind::List) => Err(range.into()),
        other => Err(format!("can't slice {}", print(other))),
    }
}

fn index(value: &Data, key: &Data) -> Result<Data, String> {
    let range = || "index: index out of range".to_owned();
    match (value, key) {
        (Data::List(items), Data::Number(at)) => {
            let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
            at.and_then(|at| items.get(at)).cloned().ok_or_else(range)
        }
        (Data::Nil(Kind::List), Data::Number(_)) => Err(range()),
        // The zero value, as of Go's maps.
        (Data::Map(fields, kind), Data::Text(key)) => Ok(fields.get(&**key).cloned().unwrap_or_else(|| kind.zero())),
        (Data::Nil(Kind::Map), Data::Text(_)) => Ok(Data::text("")),
        // Docker looks into the raw document after all.
        (Data::Struct(fields), Data::Text(key)) => Ok(fields.get(&**key).cloned().unwrap_or(Data::Nothing)),
        (Data::Nothing, _) => Err("index of untyped nil".into()),
        (value, _) => Err(format!("can't index {}", print(value))),
    }
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c < ' ' || !c.is_ascii() && !super::printf::is_printed(c) => {
                out.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

/// Escapes a text for the query of a URL, as Go's `url.QueryEscape`.
pub fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::printf::LONGEST;
    use super::*;

    #[test]
    fn escapes_are_those_of_go() {
        let apply = |name: &str, text: &str| show(&apply(name, &[Data::text(text)]).unwrap());
        for (name, text, expected) in [
            ("html", "<a href=\"x\">'&'</a>", "&lt;a href=&#34;x&#34;&gt;&#39;&amp;&#39;&lt;/a&gt;"),
            ("js", "a='\\\"\n<é>", "a\\u003D\\'\\\\\\\"\\u000A\\u003Cé\\u003E"),
            ("urlquery", "a b/é~&", "a+b%2F%C3%A9~%26"),
            ("title", "one two-three four_five", "One Two-Three Four_five"),
        ] {
            assert_eq!(apply(name, text), expected, "{name}");
        }
    }

    #[test]
    fn what_functions_make_is_bounded() {
        let long = Data::text("x".repeat(LONGEST));
        assert!(apply("print", &[long.clone(), Data::text("x")]).is_err());
        assert!(apply("html", &[Data::text("<".repeat(LONGEST / 2))]).is_err());
        assert!(apply("split", &[long, Data::text("")]).is_err());
        assert!(apply("pad", &[Data::text("x"), Data::Number(usize::MAX.into()), Data::Number(1.into())]).is_err());
        let items = Data::List(Arc::new(vec![Data::text(""); 100]));
        assert!(apply("join", &[items, Data::text("x".repeat(LONGEST / 2))]).is_err());
    }
}

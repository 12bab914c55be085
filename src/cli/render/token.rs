//! Templates: from text to tokens, as Go's text/template reads them.

use super::data::Data;

/// Text, or what stands between `{{` and `}}`.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// The tokens of an action.
    Action(Vec<Token>),
}

/// A token of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A keyword or the name of a function.
    Word(String),
    /// `.Name`; without a name it is the dot.
    Field(String),
    /// `$name`; without a name it is the whole data.
    Variable(String),
    /// A constant.
    Constant(Data),
    /// One of `|(),` or a space.
    Sign(char),
    /// `:=`, which declares, or `=`, which does not.
    Assign {
        /// Whether it is the former.
        declares: bool,
    },
}

/// What Go's lexer takes for space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Splits at `{{` and `}}`; `{{-` and `-}}` take the space beside them.
///
/// With `escapes`, `\t` and `\n` outside of actions are a tab and a line break: docker's lists replace them before they
/// parse, its `inspect` does not.
pub fn pieces(mut text: &str, escapes: bool) -> Result<Vec<Piece>, String> {
    let plain = |text: &str| if escapes { text.replace("\\t", "\t").replace("\\n", "\n") } else { text.to_owned() };
    let mut pieces = Vec::new();
    let mut trim_after = false;
    loop {
        let open = text.find("{{");
        let before = plain(open.map_or(text, |open| &text[..open]));
        let before = if trim_after { before.trim_start_matches(is_space) } else { &before };
        let Some(open) = open else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        let rest = &text[open + 2..];
        let inner = rest.strip_prefix('-').filter(|inner| inner.starts_with(is_space));
        let before = if inner.is_some() { before.trim_end_matches(is_space) } else { before };
        pieces.push(Piece::Text(before.to_owned()));
        let rest = inner.unwrap_or(rest);
        if let Some(comment) = rest.trim_start_matches(is_space).strip_prefix("/*") {
            let end = comment.find("*/").ok_or("unclosed comment")?;
            let after = comment[end + 2..].trim_start_matches(is_space);
            (text, trim_after) = match after.strip_prefix("-}}") {
                Some(after) => (after, true),
                None => (after.strip_prefix("}}").ok_or("a comment must be all of an action")?, false),
            };
            continue;
        }
        let (tokens, after, trim) = tokens(rest)?;
        pieces.push(Piece::Action(tokens));
        (text, trim_after) = (after, trim);
    }
}

/// The tokens up to `}}`, what follows it, and whether space there is to be taken.
fn tokens(text: &str) -> Result<(Vec<Token>, &str, bool), String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let rest = |at: usize| text.get(at..).unwrap_or_default();
    let word =
        |at: usize| -> usize { rest(at).find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest(at).len()) };
    loop {
        let here = rest(at);
        let Some(first) = here.chars().next() else { return Err("unclosed action".into()) };
        if here.starts_with("}}") {
            return Ok((tokens, rest(at + 2), false));
        }
        if here.starts_with("-}}") {
            return Ok((tokens, rest(at + 3), true));
        }
        let begin = at;
        at += first.len_utf8();
        match first {
            c if is_space(c) => tokens.push(Token::Sign(' ')),
            '|' | '(' | ')' | ',' => tokens.push(Token::Sign(first)),
            ':' if rest(at).starts_with('=') => {
                at += 1;
                tokens.push(Token::Assign { declares: true });
            }
            '=' => tokens.push(Token::Assign { declares: false }),
            '.' => {
                let length = word(at);
                tokens.push(Token::Field(rest(at)[..length].to_owned()));
                at += length;
            }
            '$' => {
                let length = word(at);
                tokens.push(Token::Variable(rest(at)[..length].to_owned()));
                at += length;
            }
            '"' => {
                let (string, length) = quoted(rest(at), '"')?;
                tokens.push(Token::Constant(Data::text(string)));
                at += length;
            }
            '\'' => {
                let (string, length) = quoted(rest(at), '\'')?;
                let mut chars = string.chars();
                let (Some(c), None) = (chars.next(), chars.next()) else { return Err("malformed character".into()) };
                tokens.push(Token::Constant(Data::Number(u32::from(c).into())));
                at += length;
            }
            '`' => {
                let end = rest(at).find('`').ok_or("unterminated raw quoted string")?;
                tokens.push(Token::Constant(Data::text(&rest(at)[..end])));
                at += end + 1;
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => {
                at += rest(at).find(|c: char| !(c.is_alphanumeric() || c == '.' || c == '_')).unwrap_or(rest(at).len());
                tokens.push(Token::Constant(Data::Number(number(&text[begin..at])?)));
            }
            c if c.is_alphabetic() || c == '_' => {
                at += word(at);
                tokens.push(match &text[begin..at] {
                    "true" => Token::Constant(Data::Bool(true)),
                    "false" => Token::Constant(Data::Bool(false)),
                    "nil" => Token::Constant(Data::Nothing),
                    name => Token::Word(name.to_owned()),
                });
            }
            other => return Err(format!("unexpected {other:?} in action")),
        }
    }
}

fn number(text: &str) -> Result<serde_json::Number, String> {
    let bad = || format!("bad number syntax: {text:?}");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let radix = |prefix: [&str; 2]| prefix.iter().find_map(|prefix| digits.strip_prefix(*prefix));
    let whole = if let Some(hex) = radix(["0x", "0X"]) {
        i64::from_str_radix(hex, 16).ok()
    } else if let Some(octal) = radix(["0o", "0O"]) {
        i64::from_str_radix(octal, 8).ok()
    } else if let Some(binary) = radix(["0b", "0B"]) {
        i64::from_str_radix(binary, 2).ok()
    } else {
        digits.parse().ok()
    };
    if let Some(whole) = whole.filter(|_| digits.starts_with(|c: char| c.is_ascii_digit())) {
        return Ok(if negative { -whole } else { whole }.into());
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(bad());
    }
    let float = digits.parse::<f64>().map_err(|_| bad())?;
    serde_json::Number::from_f64(if negative { -float } else { float }).ok_or_else(bad)
}

/// What stands before the closing quote, as Go unquotes it, and how many bytes of `text` that was with the quote.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let open = || "unterminated quoted string".to_owned();
    let invalid = || "invalid syntax in a quoted string".to_owned();
    // Bytes: `\x` and octal escapes stand for bytes, several of which can be one character.
    let mut out: Vec<u8> = Vec::new();
    let mut chars = text.char_indices();
    let mut buffer = [0; 4];
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((String::from_utf8_lossy(&out).into_owned(), at + 1));
        }
        if c == '\n' {
            return Err(open());
        }
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let (at, c) = chars.next().ok_or_else(open)?;
        let mut code = |from: usize, length: usize, radix: u32| {
            let digits = text.get(from..from + length).filter(|digits| digits.chars().all(|c| c.is_digit(radix)));
            let code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok()).ok_or_else(invalid)?;
            while chars.clone().next().is_some_and(|(at, _)| at < from + length) {
                chars.next();
            }
            Ok::<u32, String>(code)
        };
        match c {
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            '\\' => out.push(b'\\'),
            c if c == quote => out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes()),
            'x' => out.push(u8::try_from(code(at + 1, 2, 16)?).map_err(|_| invalid())?),
            '0'..='7' => out.push(u8::try_from(code(at, 3, 8)?).map_err(|_| invalid())?),
            'u' | 'U' => {
                let code = code(at + 1, if c == 'u' { 4 } else { 8 }, 16)?;
                let c = char::from_u32(code).ok_or_else(invalid)?;
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
            _ => return Err(invalid()),
        }
    }
    Err(open())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_unquoted_as_go_does() {
        for (text, expected) in [
            (r#"a\tb\n""#, Ok("a\tb\n")),
            (r#"\x41\101\u00e9\U0001F600""#, Ok("AAé😀")),
            (r#"\xc3\xa9""#, Ok("é")),
            ("tab\there\"", Ok("tab\there")),
            (r#"\"\\""#, Ok("\"\\")),
            (r#"\'""#, Err(())),
            (r#"\x4""#, Err(())),
            (r#"\ud800""#, Err(())),
            (r#"\x+1""#, Err(())),
            (r#"\400""#, Err(())),
            (r#"\xé1""#, Err(())),
            ("a\nb\"", Err(())),
            ("open\\", Err(())),
        ] {
            let found = quoted(text, '"');
            assert_eq!(found.as_ref().map(|(string, _)| string.as_str()).map_err(|_| ()), expected, "{text}");
            assert!(found.map_or(true, |(_, length)| length == text.len()), "{text}");
        }
    }

    #[test]
    fn numbers_are_those_of_go() {
        for (text, expected) in [("12", "12"), ("-3", "-3"), ("+3", "3"), ("0x1f", "31"), ("1.5", "1.5"), ("0b11", "3")]
        {
            assert_eq!(number(text).unwrap().to_string(), expected, "{text}");
        }
        for text in ["-", "+", "1x", "--1", "0x", "-inf", "99999999999999999999x"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}

//! How Go's fmt prints values: plainly, and by the verbs of `printf`.

use serde_json::Number;

use super::data::{Data, Kind};
use crate::runtime::duration_text;

/// The widest field, as in Go.
const WIDEST: usize = 1_000_000;

/// The longest text that a template may make, in bytes, so that a hostile one does not take the memory.
pub const LONGEST: usize = 16 << 20;

/// Refuses lengths above [`LONGEST`].
pub fn bounded(length: usize) -> Result<(), String> {
    if length > LONGEST { Err("what the template makes is too long".into()) } else { Ok(()) }
}

/// A value as `%v` prints it.
pub fn show(value: &Data) -> String {
    Verb::default().value(value, 'v')
}

/// A value as an action prints it: what there is none of is told.
pub fn print(value: &Data) -> String {
    if *value == Data::Nothing { "<no value>".to_owned() } else { show(value) }
}

/// Values as `print` prints them: with a space between two that are no strings.
pub fn sprint(values: &[Data]) -> Result<String, String> {
    let mut out = String::new();
    let mut previous = true;
    for (at, value) in values.iter().enumerate() {
        let text = matches!(value, Data::Text(_));
        if at > 0 && !text && !previous {
            out.push(' ');
        }
        previous = text;
        out.push_str(&show(value));
        bounded(out.len())?;
    }
    Ok(out)
}

/// A string in double quotes, as Go's `strconv.Quote` has it.
pub fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c < ' ' || c == '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_printed(c) => out.push(c),
            c if u32::from(c) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out + "\""
}

/// Whether a character shows, as near as Rust's tables are to Go's.
pub fn is_printed(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\') || c.escape_debug().eq([c])
}

/// `printf`: a format and its operands. Wrong operands are told in the text, as in Go.
pub fn printf(format: &str, operands: &[Data]) -> Result<String, String> {
    let mut out = String::new();
    let mut used = 0;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        bounded(out.len())?;
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| "+-# 0".contains(*c)) {
            match flag {
                '+' => verb.plus = true,
                '-' => verb.left = true,
                '#' => verb.sharp = true,
                ' ' => verb.space = true,
                _ => verb.zero = true,
            }
        }
        let mut number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String, of: &str| {
            if chars.next_if_eq(&'*').is_some() {
                let given = operands.get(used);
                used += 1;
                let whole = match given {
                    Some(Data::Number(number)) => number.as_i64().filter(|n| n.unsigned_abs() <= WIDEST as u64),
                    _ => None,
                };
                if whole.is_none() {
                    out.push_str(&format!("%!(BAD{of})"));
                }
                return whole;
            }
            let mut whole = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                chars.next();
                whole = Some((whole.unwrap_or(0i64) * 10 + i64::from(digit)).min(WIDEST as i64 + 1));
            }
            if whole.is_some_and(|whole| whole > WIDEST as i64) {
                out.push_str(&format!("%!(BAD{of})"));
                return None;
            }
            whole
        };
        if let Some(width) = number(&mut chars, &mut out, "WIDTH") {
            verb.left |= width < 0;
            verb.width = usize::try_from(width.unsigned_abs()).unwrap_or(0);
        }
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(usize::try_from(number(&mut chars, &mut out, "PREC").unwrap_or(0)).unwrap_or(0));
        }
        let Some(letter) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if letter == '%' {
            out.push('%');
            continue;
        }
        match operands.get(used) {
            None => out.push_str(&format!("%!{letter}(MISSING)")),
            Some(value) => out.push_str(&verb.value(value, letter)),
        }
        used += 1;
    }
    if used < operands.len() {
        let extra: Vec<String> = operands[used..].iter().map(typed).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    bounded(out.len())?;
    Ok(out)
}

/// A value with its type, as Go tells it of an operand that does not fit.
fn typed(value: &Data) -> String {
    let name = match value {
        Data::Nothing | Data::Nil(Kind::Pointer) => return "<nil>".into(),
        Data::Bool(_) => "bool",
        Data::Number(number) if number.is_f64() => "float64",
        Data::Number(_) => "int",
        Data::Duration(_) => "time.Duration",
        Data::Text(_) => "string",
        Data::List(_) | Data::Nil(_) => "[]string",
        Data::Map(..) => "map[string]string",
        Data::Struct(_) => "struct",
    };
    format!("{name}={}", show(value))
}

/// A verb's flags, width and precision.
#[derive(Debug, Clone, Copy, Default)]
struct Verb {
    plus: bool,
    left: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Verb {
    /// One operand; of lists, maps and structs each item.
    fn value(&self, value: &Data, letter: char) -> String {
        let bad = || format!("%!{letter}({})", typed(value));
        if letter == 'T' {
            return self.pad(typed(value).split('=').next().unwrap_or_default().to_owned(), false);
        }
        match value {
            Data::Nothing | Data::Nil(Kind::Pointer) if letter == 'v' => self.pad("<nil>".into(), false),
            Data::Nothing | Data::Nil(Kind::Pointer) => bad(),
            Data::Nil(Kind::Map) => "map[]".into(),
            Data::Nil(_) => "[]".into(),
            Data::Bool(truth) if matches!(letter, 't' | 'v') => self.pad(truth.to_string(), false),
            Data::Bool(_) => bad(),
            Data::Number(number) => self.number(number, letter).unwrap_or_else(bad),
            Data::Duration(nanoseconds) if matches!(letter, 'v' | 's' | 'q' | 'x' | 'X') => {
                self.text(&duration_text(*nanoseconds), letter).unwrap_or_else(bad)
            }
            Data::Duration(nanoseconds) => self.number(&(*nanoseconds).into(), letter).unwrap_or_else(bad),
            Data::Text(text) => self.text(text, letter).unwrap_or_else(bad),
            Data::List(items) => {
                let items: Vec<String> = items.iter().map(|item| self.value(item, letter)).collect();
                format!("[{}]", items.join(" "))
            }
            Data::Map(fields, _) => {
                let entry = |(key, value): (&String, &Data)| {
                    format!("{}:{}", self.value(&Data::text(key.as_str()), letter), self.value(value, letter))
                };
                format!("map[{}]", fields.iter().map(entry).collect::<Vec<_>>().join(" "))
            }
            Data::Struct(fields) => {
                let field = |(name, value): (&String, &Data)| {
                    let shown = self.value(value, letter);
                    if self.plus && letter == 'v' { format!("{name}:{shown}") } else { shown }
                };
                format!("{{{}}}", Data::ordered(fields).into_iter().map(field).collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn text(&self, text: &str, letter: char) -> Option<String> {
        let cut: String = match self.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text.to_owned(),
        };
        // Of `x` the precision counts bytes.
        let bytes = text.as_bytes().get(..self.precision.unwrap_or(text.len())).unwrap_or(text.as_bytes());
        Some(self.pad(
            match letter {
                'v' if self.sharp => quote(text),
                's' | 'v' => cut,
                'q' if self.sharp && !cut.contains(['`', '\x7f']) && !cut.contains(|c| c < ' ' && c != '\t') => {
                    format!("`{cut}`")
                }
                'q' => quote(&cut),
                'x' => hex::encode(bytes),
                'X' => hex::encode_upper(bytes),
                _ => return None,
            },
            false,
        ))
    }

    fn number(&self, number: &Number, letter: char) -> Option<String> {
        let Some(whole) = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from)) else {
            return self.float(number.as_f64()?, letter);
        };
        let size = whole.unsigned_abs();
        let (prefix, digits) = match letter {
            'd' | 'v' => ("", size.to_string()),
            'x' => ("0x", format!("{size:x}")),
            'X' => ("0X", format!("{size:X}")),
            'o' => ("0", format!("{size:o}")),
            'O' => return Some(self.signed(whole < 0, format!("0o{size:o}"))),
            'b' => ("0b", format!("{size:b}")),
            'c' | 'q' | 'U' => {
                let c = u32::try_from(whole).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
                return Some(self.pad(
                    match letter {
                        'c' => c.to_string(),
                        'q' if c == '\'' => "'\\''".into(),
                        'q' if c == '"' => "'\"'".into(),
                        'q' => format!("'{}'", quote(&c.to_string()).trim_matches('"')),
                        _ => format!("U+{size:04X}"),
                    },
                    false,
                ));
            }
            _ => return None,
        };
        let digits = match self.precision {
            // Go: precision 0 and value 0 print nothing.
            Some(0) if size == 0 => return Some(self.pad(String::new(), false)),
            Some(least) => "0".repeat(least.saturating_sub(digits.len())) + &digits,
            None => digits,
        };
        Some(self.signed(whole < 0, if self.sharp { format!("{prefix}{digits}") } else { digits }))
    }

    fn float(&self, value: f64, letter: char) -> Option<String> {
        let size = value.abs();
        let digits = match (letter, self.precision) {
            ('f' | 'F', precision) => format!("{size:.*}", precision.unwrap_or(6)),
            ('e' | 'E', precision) => {
                let text = format!("{size:.*e}", precision.unwrap_or(6));
                let (digits, exponent) = text.split_once('e')?;
                let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
                format!("{digits}{}{sign}{exponent:0>2}", letter)
            }
            ('g' | 'G' | 'v', None) => size.to_string(),
            _ => return None,
        };
        Some(self.signed(value < 0.0, digits))
    }

    /// A number without its sign, with it.
    fn signed(&self, negative: bool, digits: String) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        if self.zero && !self.left && self.precision.is_none() {
            let zeros = self.width.saturating_sub(sign.len() + digits.chars().count());
            return format!("{sign}{}{digits}", "0".repeat(zeros));
        }
        self.pad(format!("{sign}{digits}"), true)
    }

    /// As wide as asked for; numbers have had their zeros.
    fn pad(&self, text: String, number: bool) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        match (missing, self.left) {
            (0, _) => text,
            (_, true) => text + &" ".repeat(missing),
            (_, false) if self.zero && !number => "0".repeat(missing) + &text,
            (_, false) => " ".repeat(missing) + &text,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verbs_print_as_in_go() {
        let item =
            Data::of(&json!({"text": "héllo", "n": 42, "minus": -7, "f": 1.5, "yes": true, "list": ["a", "b\n"]}));
        let Data::Struct(fields) = item else { panic!() };
        for (format, names, expected) in [
            ("%s|%v|%d%%", &["text", "n", "n"][..], "héllo|42|42%"),
            ("[%.2s][%-7s][%7s]", &["text", "text", "text"], "[hé][héllo  ][  héllo]"),
            (
                "[%05d][%-5d][%+d][% d][%5d][%05d]",
                &["n", "n", "n", "n", "n", "minus"],
                "[00042][42   ][+42][ 42][   42][-0007]",
            ),
            ("%x %X %#x %o %b %c %U %q", &["n"; 8], "2a 2A 0x2a 52 101010 * U+002A '*'"),
            ("%.4d|%8.4d", &["n", "n"], "0042|    0042"),
            ("%x %.2x", &["text", "text"], "68c3a96c6c6f 68c3"),
            ("%t %5t %v", &["yes", "yes", "yes"], "true  true true"),
            ("%q %q %#q", &["text", "list", "text"], "\"héllo\" [\"a\" \"b\\n\"] `héllo`"),
            ("%.1f %f %e %v", &["f"; 4], "1.5 1.500000 1.500000e+00 1.5"),
            ("%*d|%*d|", &["minus", "n", "text", "n"], "42     |%!(BADWIDTH)42|"),
            ("%d", &["text"], "%!d(string=héllo)"),
            ("%s %d", &["n"], "%!s(int=42) %!d(MISSING)"),
            ("%z", &["n"], "%!z(int=42)"),
            ("x", &["n", "text"], "x%!(EXTRA int=42, string=héllo)"),
            ("%", &[], "%!(NOVERB)"),
            ("%9999999d", &["n"], "%!(BADWIDTH)42"),
        ] {
            let operands: Vec<Data> = names.iter().map(|name| fields[*name].clone()).collect();
            assert_eq!(printf(format, &operands).unwrap(), expected, "{format}");
        }
        let operands = vec![Data::Duration(90_000_000_000); 5];
        assert_eq!(printf("%d %v %8s %q %T", &operands).unwrap(), "90000000000 1m30s    1m30s \"1m30s\" time.Duration");
        assert!(printf(&"%999999d".repeat(100), &vec![fields["n"].clone(); 100]).is_err());
    }
}

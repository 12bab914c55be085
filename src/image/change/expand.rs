//! Variables in the words of an instruction, as a Dockerfile has them: `$V`, `${V}`, `${V:-x}`, `${V:+x}`, `${V:?x}` and the same
//! without the colon (buildkit `frontend/dockerfile/shell/lex.go`). Its patterns, `${V#x}`, `${V%x}` and `${V/x/y}`, are refused.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

/// What all values put in for variables may come to: `ENV A=$A$A` doubles, and an environment may not be much larger.
pub const MOST_BYTES: usize = 1 << 20;
/// How deep `${A:-${B:-…}}` may go.
const MOST_DEEP: usize = 32;

/// The variables of an environment, and how many bytes of them may still be put in.
#[derive(Debug)]
pub struct Variables<'a> {
    values: HashMap<&'a str, &'a str>,
    left: &'a mut usize,
}

impl<'a> Variables<'a> {
    /// Those of `NAME=VALUE` lines; the last of a name counts.
    pub fn of(env: &'a [String], left: &'a mut usize) -> Self {
        Self { values: env.iter().filter_map(|line| line.split_once('=')).collect(), left }
    }

    /// A word with its variables put in and its quotes taken away. Nothing is put in between single quotes and behind `\`.
    pub fn expand(&mut self, word: &str) -> Result<String, String> {
        let mut lexer = Lexer { chars: word.chars().peekable(), variables: self, deep: 0 };
        lexer.until(None)
    }

    fn put_in(&mut self, value: &str) -> Result<String, String> {
        *self.left = self.left.checked_sub(value.len()).ok_or("its variables come to more than 1 MiB")?;
        Ok(value.to_owned())
    }
}

struct Lexer<'a, 'b> {
    chars: Peekable<Chars<'a>>,
    variables: &'a mut Variables<'b>,
    deep: usize,
}

impl Lexer<'_, '_> {
    /// All up to the character that stops it, which is taken as well, or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.chars.peek().copied() {
            if c == '$' {
                out += &self.dollar()?;
                continue;
            }
            self.chars.next();
            match c {
                c if Some(c) == stop => return Ok(out),
                '\'' => self.single(&mut out)?,
                '"' => self.double(&mut out)?,
                '\\' => out.extend(self.chars.next()),
                c => out.push(c),
            }
        }
        match stop {
            None => Ok(out),
            Some(stop) => Err(format!("{stop:?} is missing")),
        }
    }

    fn single(&mut self, out: &mut String) -> Result<(), String> {
        for c in self.chars.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            out.push(c);
        }
        Err("a quote is not closed".into())
    }

    fn double(&mut self, out: &mut String) -> Result<(), String> {
        while let Some(c) = self.chars.peek().copied() {
            if c == '$' {
                out.push_str(&self.dollar()?);
                continue;
            }
            self.chars.next();
            match c {
                '"' => return Ok(()),
                '\\' => match self.chars.next_if(|next| matches!(next, '"' | '$' | '\\')) {
                    Some(escaped) => out.push(escaped),
                    None => out.push('\\'),
                },
                c => out.push(c),
            }
        }
        Err("a quote is not closed".into())
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.chars.next();
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            return if name.is_empty() { Ok("$".into()) } else { self.value(&name) };
        }
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution: ${ and the name of a variable are expected".into());
        }
        let colon = self.chars.next_if_eq(&':').is_some();
        let how = match self.chars.next() {
            Some('}') if !colon => return self.value(&name),
            Some(how @ ('-' | '+' | '?')) => how,
            Some(other) => {
                return Err(format!("modifier {other:?} of ${{{name}}} is not supported: there are :-, :+ and :?"));
            }
            None => return Err("'}' is missing".into()),
        };
        self.deep += 1;
        if self.deep > MOST_DEEP {
            return Err(format!("variables in variables go deeper than {MOST_DEEP}"));
        }
        let word = self.until(Some('}'))?;
        self.deep -= 1;
        let value = self.variables.values.get(name.as_str()).copied();
        let given = value.is_some_and(|value| !colon || !value.is_empty());
        match how {
            '-' if !given => Ok(word),
            '+' if given => Ok(word),
            '+' => Ok(String::new()),
            '?' if !given => {
                let why = if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                Err(format!("{name}: {}", if word.is_empty() { why } else { &word }))
            }
            _ => self.value(&name),
        }
    }

    /// A name; a number; or one of the shell's own, which are never set here.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(own) = self.chars.next_if(|c| "@*#?-$!".contains(*c)) {
            return own.into();
        }
        let number = self.chars.peek().is_some_and(char::is_ascii_digit);
        let belongs = |c: &char| if number { c.is_ascii_digit() } else { c.is_alphanumeric() || *c == '_' };
        while let Some(c) = self.chars.next_if(belongs) {
            name.push(c);
        }
        name
    }

    fn value(&mut self, name: &str) -> Result<String, String> {
        let value = self.variables.values.get(name).copied().unwrap_or_default();
        self.variables.put_in(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_as_a_dockerfile_has_them() {
        let env = ["PATH=/bin", "E=", "A=a b", "A=c d", "N_1=n"].map(String::from);
        for (word, expected) in [
            ("/x:$PATH", Some("/x:/bin")),
            ("${PATH}x$N_1-$N", Some("/binxn-")),
            (r"\$PATH '$PATH' \'", Some("$PATH $PATH '")),
            (r#""$A" "\$A\x\\" '"'"#, Some(r#"c d $A\x\ ""#)),
            ("$", Some("$")),
            ("a$/b", Some("a$/b")),
            ("$1x$$$?", Some("x")),
            ("${E:-x}${E-y}${U-z}${U:-'}'}", Some("xz}")),
            ("${E:+x}${E+y}${A:+$PATH}${U:+z}", Some("y/bin")),
            ("${U:-${V:-${PATH}}}", Some("/bin")),
            ("${A:?no}${E?no}", Some("c d")),
            ("${E:?no}", None),
            ("${U?}", None),
            ("${", None),
            ("${}", None),
            ("${A", None),
            ("${A:-x", None),
            ("${A:}", None),
            ("${A#c}", None),
            ("'a", None),
            ("\"a", None),
        ] {
            let mut left = MOST_BYTES;
            assert_eq!(Variables::of(&env, &mut left).expand(word).ok().as_deref(), expected, "{word}");
        }
    }

    #[test]
    fn what_variables_come_to_is_bounded() {
        let env = [format!("A={}", "x".repeat(MOST_BYTES / 2))];
        let mut left = MOST_BYTES;
        let mut variables = Variables::of(&env, &mut left);
        assert!(variables.expand("$A$A${A:+}").is_ok());
        assert!(variables.expand("$A").is_err());
        let deep = format!("{}x{}", "${U:-".repeat(10_000), "}".repeat(10_000));
        assert!(variables.expand(&deep).is_err());
    }
}

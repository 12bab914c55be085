//! Allowed-signers and revocation files, as ssh-keygen(1) describes them.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use ssh_key::{HashAlg, PublicKey};

use super::error::SealError;

/// Who may sign.
#[derive(Debug, Clone, Default)]
pub struct AllowedSigners {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    principals: Vec<String>,
    namespaces: Option<Vec<String>>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
    key: PublicKey,
}

/// Whose signature is no longer worth anything.
#[derive(Debug, Clone, Default)]
pub struct RevokedKeys {
    keys: Vec<PublicKey>,
    fingerprints: Vec<String>,
}

impl AllowedSigners {
    /// Reads the content of an allowed-signers file; `path` is for messages. A line with `cert-authority` is refused:
    /// ferry knows no certificates, and passing over it could drop a restriction someone relies on.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SealError> {
        let mut entries = Vec::new();
        for (number, line) in lines(text) {
            let entry = Entry::parse(line);
            entries.push(entry.map_err(|reason| file(path, format!("line {number}: {reason}")))?);
        }
        Ok(Self { entries })
    }

    /// The principals that `key` signs for in `namespace` at the time `now`, or why there are none.
    pub fn principals(&self, key: &PublicKey, namespace: &str, now: Timestamp) -> Result<Vec<String>, String> {
        let mut principals: Vec<String> = Vec::new();
        let mut reason = "the key is not among the allowed signers".to_owned();
        for entry in self.entries.iter().filter(|entry| entry.key.key_data() == key.key_data()) {
            if entry.namespaces.as_ref().is_some_and(|list| !matches_list(list, namespace)) {
                reason = format!("the key is not allowed for the namespace {namespace}");
            } else if entry.after.is_some_and(|after| now < after) {
                reason = "the key is not valid yet".into();
            } else if entry.before.is_some_and(|before| now >= before) {
                reason = "the key is no longer valid".into();
            } else {
                principals.extend(entry.principals.iter().cloned());
            }
        }
        if principals.is_empty() { Err(reason) } else { Ok(principals) }
    }
}

impl RevokedKeys {
    /// Reads the content of a revocation file: public keys or `SHA256:` fingerprints, one a line. A binary key
    /// revocation list is refused, not ignored.
    pub fn parse(path: &Path, content: &[u8]) -> Result<Self, SealError> {
        if content.starts_with(b"SSHKRL\n\0") {
            let reason = "it is a binary key revocation list: ferry reads a list of public keys, one a line";
            return Err(file(path, reason.into()));
        }
        let text = std::str::from_utf8(content).map_err(|_| file(path, "it is not text".into()))?;
        let mut revoked = Self::default();
        for (number, line) in lines(text) {
            if line.starts_with("SHA256:") {
                revoked.fingerprints.push(line.split_whitespace().next().unwrap_or(line).to_owned());
                continue;
            }
            let key = PublicKey::from_openssh(line);
            revoked.keys.push(key.map_err(|error| file(path, format!("line {number}: {error}")))?);
        }
        Ok(revoked)
    }

    /// Whether `key` is among them.
    pub fn contains(&self, key: &PublicKey) -> bool {
        let fingerprint = || key.fingerprint(HashAlg::Sha256).to_string();
        self.keys.iter().any(|revoked| revoked.key_data() == key.key_data())
            || !self.fingerprints.is_empty() && self.fingerprints.contains(&fingerprint())
    }
}

fn file(path: &Path, reason: String) -> SealError {
    SealError::File { path: PathBuf::from(path), reason }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().zip(1..).map(|(line, number)| (number, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

impl Entry {
    fn parse(line: &str) -> Result<Self, String> {
        let (principals, rest) = word(line).ok_or("it is too short")?;
        let principals: Vec<String> =
            unquote(principals).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if principals.is_empty() {
            return Err("it names no principal".into());
        }
        let mut entry_options = Options::default();
        let rest = rest.trim_start();
        // The key begins with its kind; anything else in front of it are options.
        let key = if rest.starts_with("ssh-") || rest.starts_with("ecdsa-") || rest.starts_with("sk-") {
            rest
        } else {
            let (options, key) = word(rest).ok_or("it has no key")?;
            entry_options = Options::parse(options)?;
            key.trim_start()
        };
        let key = PublicKey::from_openssh(key).map_err(|error| format!("the key is malformed: {error}"))?;
        let Options { namespaces, after, before } = entry_options;
        Ok(Self { principals, namespaces, after, before, key })
    }
}

#[derive(Default)]
struct Options {
    namespaces: Option<Vec<String>>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Options {
    fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for option in split_outside_quotes(text, ',') {
            let (name, value) = option.split_once('=').map_or((option, ""), |(name, value)| (name, unquote(value)));
            match name.to_ascii_lowercase().as_str() {
                "namespaces" => options.namespaces = Some(value.split(',').map(str::to_owned).collect()),
                "valid-after" => options.after = Some(timestamp(value)?),
                "valid-before" => options.before = Some(timestamp(value)?),
                "cert-authority" => return Err("cert-authority is not supported: name the keys themselves".into()),
                _ => return Err(format!("unknown option {name:?}")),
            }
        }
        Ok(options)
    }
}

/// `YYYYMMDD[HHMM[SS]][Z]`. Without a Z OpenSSH takes local time; ferry takes UTC, since hosts of two sites must agree.
fn timestamp(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("{text:?} is no time: expected YYYYMMDD[HHMM[SS]][Z]");
    let digits = text.strip_suffix('Z').unwrap_or(text);
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = |from: usize, to: usize| digits.get(from..to).map_or(Ok(0), str::parse::<i16>).unwrap_or(0);
    let date = Date::new(number(0, 4), number(4, 6) as i8, number(6, 8) as i8).map_err(|_| wrong())?;
    let time = Time::new(number(8, 10) as i8, number(10, 12) as i8, number(12, 14) as i8, 0).map_err(|_| wrong())?;
    TimeZone::UTC.to_timestamp(DateTime::from_parts(date, time)).map_err(|_| wrong())
}

/// The first word, which may have quoted parts with blanks in them, and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return Some((&text[..at], &text[at..])),
            _ => {}
        }
    }
    None
}

fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// Whether a list of patterns matches, as ssh_config(5) has pattern lists: one with `!` in front excludes.
fn matches_list(list: &[String], text: &str) -> bool {
    let excluded = |pattern: &String| pattern.strip_prefix('!').is_some_and(|pattern| glob(pattern, text));
    !list.iter().any(excluded) && list.iter().any(|pattern| glob(pattern, text))
}

/// `*` stands for any characters, `?` for one.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what followed the last star turns out wrong: linear in each star, never exponential.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::super::sign::NAMESPACE;
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn entries_hold_for_their_namespace_and_their_time_only() {
        let key = PublicKey::from_openssh(KEY).unwrap();
        let now: Timestamp = "2026-06-15T12:00:00Z".parse().unwrap();
        for (line, expected) in [
            (format!("a@x {KEY} comment"), Ok(vec!["a@x"])),
            (format!("a@x,b@y {KEY}"), Ok(vec!["a@x", "b@y"])),
            (format!("a@x namespaces=\"file,ferry-*\" {KEY}"), Ok(vec!["a@x"])),
            (format!("a@x namespaces=\"file\" {KEY}"), Err("namespace")),
            (format!("a@x namespaces=\"!ferry-bundle,*\" {KEY}"), Err("namespace")),
            (format!("a@x valid-after=\"20260615\",valid-before=\"202606151201Z\" {KEY}"), Ok(vec!["a@x"])),
            (format!("a@x valid-after=\"202606151201\" {KEY}"), Err("not valid yet")),
            (format!("a@x valid-before=20260615120000Z {KEY}"), Err("no longer valid")),
            ("# nobody".into(), Err("not among")),
        ] {
            let signers = AllowedSigners::parse(Path::new("f"), &line).unwrap();
            match (signers.principals(&key, NAMESPACE, now), expected) {
                (Ok(principals), Ok(expected)) => assert_eq!(principals, expected, "{line}"),
                (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{line}: {reason}"),
                (got, _) => panic!("{line}: {got:?}"),
            }
        }
        for line in ["a", "a b", "a ssh-ed25519 AAAA", "a cert-authority ssh-ed25519 AAAA", "a what=1 ssh-ed25519 AAAA"]
        {
            let error = AllowedSigners::parse(Path::new("f"), &format!("\n{line}\n")).unwrap_err();
            assert!(error.to_string().starts_with("f: line 2: "), "{line}: {error}");
        }
        for time in ["2026", "20261301", "20260230", "202606152460", "+2026061"] {
            assert!(AllowedSigners::parse(Path::new("f"), &format!("a valid-after={time} {KEY}")).is_err(), "{time}");
        }
    }

    #[test]
    fn patterns_match_as_a_whole() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("r.example.com/*", "r.example.com/app:1", true),
            ("r.example.com/*", "r.example.community/app:1", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}

//! Image references as docker writes them: `[DOMAIN/]PATH[:TAG][@DIGEST]` (grammar: distribution/reference).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";

/// A normalised reference: the domain is always there, `library/` where docker puts it.
///
/// [`fmt::Display`] gives the familiar form (`nginx:1.22`), [`Reference::full`] the full one
/// (`docker.io/library/nginx:1.22`). A reference may lack both tag and digest: it then names a repository; commands
/// that take images read it as `:latest` ([`Reference::or_latest`]).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: {text:?}: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl crate::base::Fault for ReferenceError {
    fn class(&self) -> crate::base::Class {
        crate::base::Class::Usage
    }
}

impl Reference {
    /// The registry's host, with its port.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path in its registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest digest a reference is pinned to.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The repository in docker's short form: `nginx`, `linuxea/httpd`, `ghcr.io/a/b`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The repository in full: `docker.io/library/nginx`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The whole reference in full, as `io.containerd.image.name` has it.
    pub fn full(&self) -> String {
        format!("{}{}", self.full_name(), self.suffix())
    }

    /// The same repository, with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag).map_err(|reason| ReferenceError { text: tag.chars().take(300).collect(), reason })?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository, pinned to a manifest digest and without tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// What a reference says, one claim each: `name:tag@digest` gives an image a tag and says which manifest it has.
    pub fn claims(&self) -> Vec<Self> {
        match (&self.tag, self.digest) {
            (Some(_), Some(digest)) => vec![Self { digest: None, ..self.clone() }, self.with_digest(digest)],
            _ => vec![self.clone()],
        }
    }

    /// The same reference; with the tag `latest` when it has neither tag nor digest.
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    fn suffix(&self) -> String {
        let mut suffix = String::new();
        if let Some(tag) = &self.tag {
            suffix = format!(":{tag}");
        }
        if let Some(digest) = &self.digest {
            suffix.push_str(&format!("@{digest}"));
        }
        suffix
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError { text: text.chars().take(300).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.len() > 1024 {
        return Err("longer than 1024 bytes");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| "the part after @ is not a sha256 digest")?)),
        None => (text, None),
    };
    let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[after_slash..].find(':') {
        Some(colon) => (&rest[..after_slash + colon], Some(&rest[after_slash + colon + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    // Docker's rule: the first component is a domain when it has a dot or a colon, is localhost, or has an upper case
    // letter.
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    check_domain(domain)?;
    let path =
        if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("{OFFICIAL}{path}") } else { path.to_owned() };
    path.split('/').try_for_each(check_component)?;
    if domain.len() + path.len() > 255 {
        return Err("the repository name is longer than 255 bytes");
    }
    if digest.is_none() && tag.is_none() && name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("64 hex digits are an image ID, not a name");
    }
    Ok(Reference { domain: domain.to_owned(), path, tag: tag.map(Into::into), digest })
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match tag.as_bytes() {
        [first, rest @ ..]
            if rest.len() < 128 && word(*first) && rest.iter().all(|b| word(*b) || b".-".contains(b)) =>
        {
            Ok(())
        }
        _ => Err("a tag is 1 to 128 letters, digits, _, . and -, and begins with none of . and -"),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let reason = "the part before the first / is not a host name";
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return Err(reason);
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().map(|_| ()).map_err(|_| reason);
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.split('.').all(label) { Ok(()) } else { Err(reason) }
}

fn check_component(component: &str) -> Result<(), &'static str> {
    let reason = "a repository path is lower case letters and digits, joined by ., _, __ or -";
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return Err(reason) };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return Err(reason);
    }
    let mut separators = bytes.split(|b| alphanumeric(*b)).filter(|separator| !separator.is_empty());
    let allowed = |s: &[u8]| matches!(s, b"." | b"_" | b"__") || s.iter().all(|b| *b == b'-');
    if separators.all(allowed) { Ok(()) } else { Err(reason) }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.familiar_name(), self.suffix())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written_as_docker_does() {
        let hex = "a".repeat(64);
        for (text, full, familiar) in [
            ("nginx", "docker.io/library/nginx", "nginx"),
            ("nginx:1.22", "docker.io/library/nginx:1.22", "nginx:1.22"),
            ("docker.io/library/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
            ("index.docker.io/nginx", "docker.io/library/nginx", "nginx"),
            ("linuxea/httpd:v1", "docker.io/linuxea/httpd:v1", "linuxea/httpd:v1"),
            ("localhost/a", "localhost/a", "localhost/a"),
            ("host:5000/a/b:t", "host:5000/a/b:t", "host:5000/a/b:t"),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            ("a__b/c-_d", "", ""),
            ("a__b/c--d", "docker.io/a__b/c--d", "a__b/c--d"),
            ("Upper", "", ""),
            ("a:", "", ""),
            ("a/", "", ""),
            ("", "", ""),
            ("a@sha256:12", "", ""),
            ("../a", "", ""),
            (&hex, "", ""),
            (
                &format!("a:t@sha256:{hex}"),
                &format!("docker.io/library/a:t@sha256:{hex}"),
                &format!("a:t@sha256:{hex}"),
            ),
        ] {
            match text.parse::<Reference>() {
                Ok(reference) => {
                    assert_eq!((reference.full().as_str(), reference.to_string().as_str()), (full, familiar));
                    assert_eq!(reference.full().parse(), Ok(reference.clone()), "{text}");
                }
                Err(_) => assert_eq!(full, "", "{text} is refused"),
            }
        }
    }
}

//! What the user's ssh configuration says about a host, as `ssh -G` prints it, which knows `Match`, `Include` and all
//! that a parser of our own would get wrong. Without an ssh on the host, ssh's defaults count.

use std::path::{Path, PathBuf};

/// A destination as users write it: `[USER@]HOST[:PORT]`, `[USER@][IPv6][:PORT]` or `ssh://…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The login name, when given.
    pub user: Option<String>,
    /// The host or its alias in the configuration.
    pub host: String,
    /// The port, when given.
    pub port: Option<u16>,
}

/// A text that is not a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host: expected [USER@]HOST[:PORT]")]
pub struct DestinationError(String);

impl crate::base::Fault for DestinationError {
    fn class(&self) -> crate::base::Class {
        crate::base::Class::Usage
    }
}

impl std::str::FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let fail = || DestinationError(text.chars().take(300).collect());
        let rest = text.strip_prefix("ssh://").map_or(text, |rest| rest.trim_end_matches('/'));
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (host, port) = if let Some(v6) = rest.strip_prefix('[') {
            let (host, after) = v6.split_once(']').ok_or_else(fail)?;
            let port = match after {
                "" => None,
                after => Some(after.strip_prefix(':').ok_or_else(fail)?),
            };
            (host, port)
        } else {
            match rest.split_once(':') {
                // Two colons without brackets: an IPv6 address, which has no room for a port.
                Some((_, after)) if after.contains(':') => (rest, None),
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = port.map(|port| port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(fail)).transpose()?;
        // A leading dash would be an option to an ssh command; control characters and blanks are in no name.
        let bad = |word: &str| {
            word.is_empty() || word.starts_with('-') || word.contains(|c: char| c.is_control() || c == ' ')
        };
        if bad(host) || user.is_some_and(bad) {
            return Err(fail());
        }
        Ok(Self { user: user.map(Into::into), host: host.into(), port })
    }
}

impl Destination {
    /// Reads `ssh://[USER@]HOST[:PORT]/PATH`: the host and the path there. `/~/` is the far user's home.
    pub fn with_path(url: &str) -> Result<(Self, String), DestinationError> {
        let fail = || DestinationError(url.chars().take(300).collect());
        let rest = url.strip_prefix("ssh://").ok_or_else(fail)?;
        let (host, path) = rest.split_once('/').filter(|(_, path)| !path.is_empty()).ok_or_else(fail)?;
        let path = match path.strip_prefix("~/") {
            // Commands begin in the home directory.
            Some(relative) => format!("./{relative}"),
            None => format!("/{path}"),
        };
        if path.contains('\0') {
            return Err(fail());
        }
        Ok((host.parse()?, path))
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => write!(f, "{}", self.host),
        }
    }
}

/// What counts for a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// The name or address to connect to.
    pub hostname: String,
    /// The port.
    pub port: u16,
    /// The login name.
    pub user: String,
    /// Private keys to try, in order.
    pub identity_files: Vec<PathBuf>,
    /// The agent's socket; `None` for no agent.
    pub identity_agent: Option<PathBuf>,
    /// Files with known host keys, the user's first.
    pub known_hosts: Vec<PathBuf>,
    /// The name to look the host's key up by.
    pub host_key_alias: Option<String>,
    /// Why the system's own ssh must be used: an option the built-in client does not know.
    pub needs_system_ssh: Option<&'static str>,
    /// What becomes of a host key that is not known: taken, refused, or the user is asked. A changed one is refused.
    pub unknown_keys: UnknownKeys,
    /// Whether nobody may be asked for anything.
    pub batch: bool,
    /// Whether ssh would also log in by GSSAPI. Debian's ssh says so for every host, so it is a reason to use the
    /// system's ssh only when the built-in client's login has failed.
    pub gssapi: bool,
}

/// `StrictHostKeyChecking`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownKeys {
    /// The user says.
    #[default]
    Ask,
    /// They are taken, and remembered.
    Take,
    /// They are refused.
    Refuse,
}

/// What the environment says where the configuration is silent; the command line knows it, a library does not.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// The user's name on this host.
    pub user: String,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// `SSH_AUTH_SOCK`.
    pub agent: Option<PathBuf>,
}

impl HostConfig {
    /// What ssh does without a configuration.
    pub fn plain(destination: &Destination, defaults: &Defaults) -> Self {
        let in_ssh = |name: &str| defaults.home.as_ref().map(|home| home.join(".ssh").join(name));
        let mut known_hosts: Vec<PathBuf> = ["known_hosts", "known_hosts2"].into_iter().filter_map(in_ssh).collect();
        known_hosts.push("/etc/ssh/ssh_known_hosts".into());
        Self {
            hostname: destination.host.clone(),
            port: destination.port.unwrap_or(22),
            user: destination.user.clone().unwrap_or_else(|| defaults.user.clone()),
            identity_files: ["id_rsa", "id_ecdsa", "id_ed25519"].into_iter().filter_map(in_ssh).collect(),
            identity_agent: defaults.agent.clone(),
            known_hosts,
            host_key_alias: None,
            needs_system_ssh: None,
            unknown_keys: UnknownKeys::Ask,
            batch: false,
            gssapi: false,
        }
    }

    /// Reads what `ssh -G` printed: one lower-case keyword and its value a line.
    pub fn from_ssh_g(text: &str, destination: &Destination, defaults: &Defaults) -> Self {
        let mut config = Self::plain(destination, defaults);
        let (mut identities, mut known) = (Vec::new(), Vec::new());
        let path = |text: &str| expand(text, defaults.home.as_deref());
        for line in text.lines() {
            let Some((key, value)) = line.split_once(' ') else { continue };
            let set = value != "none" && !value.is_empty();
            match key {
                "hostname" => config.hostname = value.to_owned(),
                "port" => config.port = value.parse().unwrap_or(config.port),
                "user" => config.user = value.to_owned(),
                "identityfile" if set => identities.push(path(value)),
                "userknownhostsfile" | "globalknownhostsfile" if set => {
                    known.extend(super::command::split_words(value).unwrap_or_default().iter().map(|f| path(f)));
                }
                "identityagent" => {
                    config.identity_agent = match value {
                        "none" => None,
                        "SSH_AUTH_SOCK" => defaults.agent.clone(),
                        value => Some(path(value)),
                    }
                }
                "hostkeyalias" if set => config.host_key_alias = Some(value.to_owned()),
                "proxyjump" if set => config.needs_system_ssh = Some("ProxyJump"),
                "proxycommand" if set => config.needs_system_ssh = Some("ProxyCommand"),
                "certificatefile" if set => config.needs_system_ssh = Some("CertificateFile"),
                "stricthostkeychecking" => {
                    config.unknown_keys = match value {
                        "yes" | "true" => UnknownKeys::Refuse,
                        "accept-new" | "no" | "off" | "false" => UnknownKeys::Take,
                        _ => UnknownKeys::Ask,
                    }
                }
                "batchmode" => config.batch = value == "yes",
                "gssapiauthentication" => config.gssapi = value == "yes",
                "pkcs11provider" if set => config.needs_system_ssh = Some("PKCS11Provider"),
                _ => {}
            }
        }
        if !identities.is_empty() {
            // libssh2 speaks neither hardware-backed nor certified keys.
            if identities.iter().any(|file| file.to_string_lossy().ends_with("_sk") && file.exists()) {
                config.needs_system_ssh = Some("a hardware key");
            }
            let certified = |file: &PathBuf| PathBuf::from(format!("{}-cert.pub", file.display())).exists();
            if identities.iter().any(certified) {
                config.needs_system_ssh = Some("a certificate");
            }
            config.identity_files = identities;
        }
        if !known.is_empty() {
            // The user's files come first: that is where a new key is written.
            known.sort_by_key(|file| file.starts_with("/etc"));
            config.known_hosts = known;
        }
        config
    }
}

fn expand(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_ssh_reads_them() {
        for (text, expected) in [
            ("h", Some((None, "h", None))),
            ("u@h:22", Some((Some("u"), "h", Some(22)))),
            ("u@dom@h", Some((Some("u@dom"), "h", None))),
            ("ssh://u@h:2222/", Some((Some("u"), "h", Some(2222)))),
            ("[::1]:22", Some((None, "::1", Some(22)))),
            ("fe80::1", Some((None, "fe80::1", None))),
            ("-oProxyCommand=id", None),
            ("-l@h", None),
            ("h:0", None),
            ("h:99999", None),
            ("", None),
            ("u@", None),
            ("a b", None),
        ] {
            let read = text.parse::<Destination>().ok();
            assert_eq!(read.as_ref().map(|d| (d.user.as_deref(), d.host.as_str(), d.port)), expected, "{text}");
        }
    }

    #[test]
    fn a_remote_path_is_absolute_or_at_home() {
        let read = |text: &str| Destination::with_path(text).ok().map(|(host, path)| (host.to_string(), path));
        for (text, expected) in [
            ("ssh://h/a b/it's.ferry", Some(("h", "/a b/it's.ferry"))),
            ("ssh://u@h:22/~/x", Some(("u@h:22", "./x"))),
            ("ssh://h", None),
            ("ssh://h/", None),
            ("ssh:///x", None),
            ("h/x", None),
        ] {
            assert_eq!(read(text), expected.map(|(host, path)| (host.to_owned(), path.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_the_built_in_client_cannot_do_is_left_to_ssh() {
        let destination: Destination = "alias".parse().unwrap();
        let text = "hostname 10.0.0.1\nport 2222\nuser op\nidentityfile ~/.ssh/k\nuserknownhostsfile ~/a ~/b\n\
                    globalknownhostsfile /etc/ssh/ssh_known_hosts\nproxyjump none\n";
        let defaults = Defaults { home: Some("/home/op".into()), ..Defaults::default() };
        let config = HostConfig::from_ssh_g(text, &destination, &defaults);
        assert_eq!((config.hostname.as_str(), config.port, config.user.as_str()), ("10.0.0.1", 2222, "op"));
        assert_eq!(config.identity_files, [PathBuf::from("/home/op/.ssh/k")]);
        assert_eq!(config.known_hosts.len(), 3);
        assert_eq!(config.needs_system_ssh, None);
        for (line, expected) in [
            ("stricthostkeychecking true", UnknownKeys::Refuse),
            ("stricthostkeychecking accept-new", UnknownKeys::Take),
            ("stricthostkeychecking ask", UnknownKeys::Ask),
        ] {
            assert_eq!(HostConfig::from_ssh_g(line, &destination, &defaults).unknown_keys, expected, "{line}");
        }
        let config = HostConfig::from_ssh_g("proxyjump bastion\n", &destination, &defaults);
        assert_eq!(config.needs_system_ssh, Some("ProxyJump"));
    }
}

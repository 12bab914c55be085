//! A host on which commands can be run, however it is reached.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::base::{Class, Fault};

/// Why a far host cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No connection, or it broke.
    #[error("{host}: {action}: {source}")]
    Io {
        /// The host as the user wrote it.
        host: String,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The ssh protocol failed.
    #[error("{host}: {action}: {source}")]
    Ssh {
        /// The host as the user wrote it.
        host: String,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: ssh2::Error,
    },
    /// The host's key is not known, and nobody could be asked or the answer was no.
    #[error("{host}: host key {fingerprint} ({kind}) is not known")]
    UnknownHostKey {
        /// The host as the user wrote it.
        host: String,
        /// `SHA256:…` as ssh shows it.
        fingerprint: String,
        /// The key's type.
        kind: String,
    },
    /// The host's key is another than the one known.
    #[error("{host}: HOST KEY CHANGED: it shows {fingerprint} ({kind}), {} knows another", .file.display())]
    HostKeyChanged {
        /// The host as the user wrote it.
        host: String,
        /// `SHA256:…` as ssh shows it.
        fingerprint: String,
        /// The key's type.
        kind: String,
        /// Where the other key is.
        file: PathBuf,
    },
    /// The host's key is marked as revoked.
    #[error("{host}: host key {fingerprint} is revoked in {}", .file.display())]
    HostKeyRevoked {
        /// The host as the user wrote it.
        host: String,
        /// `SHA256:…` as ssh shows it.
        fingerprint: String,
        /// Where it is marked.
        file: PathBuf,
    },
    /// None of the ways to log in worked.
    #[error("{host}: login as {user} failed: tried {tried}; the server takes {offered}")]
    Login {
        /// The host as the user wrote it.
        host: String,
        /// The user name.
        user: String,
        /// What was tried.
        tried: String,
        /// What the server takes.
        offered: String,
    },
    /// There is no such file to read.
    #[error("{host}: {reason}")]
    NoFile {
        /// The host as the user wrote it.
        host: String,
        /// What is there instead, after the path.
        reason: String,
    },
    /// A far command ended with an error.
    #[error("{host}: {what} failed with exit code {code}{}{stderr}", if .stderr.is_empty() { "" } else { ": " })]
    Command {
        /// The host as the user wrote it.
        host: String,
        /// What was run, in a word.
        what: String,
        /// Its exit code; 255 from ssh itself.
        code: i32,
        /// The end of what it said.
        stderr: String,
    },
    /// The `ssh` command given cannot be started.
    #[error("cannot start {command:?}: {source}")]
    Spawn {
        /// The command.
        command: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Fault for RemoteError {
    fn class(&self) -> Class {
        match self {
            Self::HostKeyChanged { .. } | Self::HostKeyRevoked { .. } | Self::UnknownHostKey { .. } => Class::Refused,
            Self::Login { .. } => Class::Refused,
            Self::Spawn { .. } | Self::NoFile { .. } => Class::NotFound,
            _ => Class::Peer,
        }
    }
}

/// A host on which commands can be run, one after the other.
pub trait Remote: Send {
    /// The host as the user wrote it, for messages.
    fn host(&self) -> &str;

    /// Starts a command line in the far user's shell. The process before it must have ended.
    fn start(&mut self, command: &str) -> Result<Process, RemoteError>;
}

/// A command under way on a far host. Dropping it ends it.
pub struct Process {
    /// Its standard input; dropping it is the end of file.
    pub stdin: Option<Box<dyn Write + Send>>,
    /// Its standard output.
    pub stdout: Box<dyn Read + Send>,
    /// Waits for its end, which comes soon after its input and output are closed or is made; gives the exit code and the
    /// last 4 KiB of its standard error.
    pub(super) end: Box<dyn FnOnce() -> Result<(i32, String), RemoteError> + Send>,
}

impl Process {
    /// Closes its input and waits for its end: the exit code and the last of what it said on standard error.
    pub fn wait(mut self) -> Result<(i32, String), RemoteError> {
        self.stdin = None;
        drop(self.stdout);
        (self.end)()
    }
}

/// Runs a short command to its end; its output, at most `limit` bytes of it.
pub fn output(remote: &mut dyn Remote, what: &str, command: &str, limit: u64) -> Result<Vec<u8>, RemoteError> {
    let (out, code, stderr) = heard(remote, command, limit)?;
    if code != 0 {
        return Err(RemoteError::Command { host: remote.host().to_owned(), what: what.to_owned(), code, stderr });
    }
    Ok(out)
}

/// The same however it ends: with its exit code, and the end of what it said on standard error.
pub(super) fn heard(remote: &mut dyn Remote, command: &str, limit: u64) -> Result<(Vec<u8>, i32, String), RemoteError> {
    let host = remote.host().to_owned();
    let mut process = remote.start(command)?;
    process.stdin = None;
    let mut out = Vec::new();
    let read = (&mut process.stdout).take(limit + 1).read_to_end(&mut out);
    if out.len() as u64 > limit {
        let source = io::Error::other(format!("more than {limit} bytes came"));
        return Err(RemoteError::Io { host, action: "read its answer", source });
    }
    if let Err(source) = read {
        return Err(RemoteError::Io { host, action: "read its answer", source });
    }
    let (code, stderr) = process.wait()?;
    Ok((out, code, stderr))
}

/// Quotes a word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Keeps the end of what a command says, for the error message.
#[derive(Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    const KEPT: usize = 4096;

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let over = self.0.len().saturating_sub(Self::KEPT);
        self.0.drain(..over);
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().replace('\n', "; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_far_shell_unchanged() {
        for word in ["plain", "", "a b", "it's", "$HOME", "`id`", "new\nline", "żółć", "-rf", "*"] {
            let out = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output();
            assert_eq!(String::from_utf8(out.unwrap().stdout).unwrap(), word);
        }
    }
}

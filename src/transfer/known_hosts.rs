//! Host keys: which are known, which changed, which are revoked.
//!
//! libssh2 matches host names (plain, hashed, with ports); the files are read line by line here, because it knows
//! neither `@revoked` nor `@cert-authority` and stops at lines it cannot read.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ssh2::{CheckResult, KnownHostFileKind, Session};

/// What the files say of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is known for this host.
    Known,
    /// Nothing is known of this host, or no key of this type.
    Unknown,
    /// Another key of this host is known, from this file.
    Changed(PathBuf),
    /// It is marked as revoked, in this file.
    Revoked(PathBuf),
}

/// The lines of the known-hosts files that can concern any host.
pub struct KnownHosts {
    lines: Vec<(PathBuf, String)>,
    revoked: Vec<(PathBuf, Vec<u8>)>,
}

/// A known-hosts file over this size is not read: it is no such file.
const FILE_BYTES: u64 = 16 << 20;

impl KnownHosts {
    /// Reads the files that exist. Unreadable files are as absent ones: that makes a host unknown, never known.
    pub fn read(files: &[PathBuf]) -> Self {
        let (mut lines, mut revoked) = (Vec::new(), Vec::new());
        for file in files {
            if fs::metadata(file).map_or(true, |meta| meta.len() > FILE_BYTES) {
                continue;
            }
            let Ok(text) = fs::read_to_string(file) else { continue };
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
                if let Some(rest) = line.strip_prefix("@revoked") {
                    // Refused for every host: a key someone marked as stolen is nobody's.
                    let key = rest.split_whitespace().nth(2).and_then(|key| STANDARD.decode(key).ok());
                    revoked.extend(key.map(|key| (file.clone(), key)));
                } else if !line.starts_with('@') {
                    lines.push((file.clone(), line.to_owned()));
                }
            }
        }
        Self { lines, revoked }
    }

    /// The types of the keys known for a host, in libssh2's names and in the order of the files.
    pub fn key_types(&self, session: &Session, host: &str, port: u16) -> Result<Vec<String>, ssh2::Error> {
        let mut types = Vec::new();
        for (_, line) in &self.lines {
            let mut one = session.known_hosts()?;
            if one.read_str(line, KnownHostFileKind::OpenSSH).is_err() {
                continue;
            }
            let key = line.split_whitespace().find_map(|word| STANDARD.decode(word).ok().filter(|key| key.len() > 8));
            let Some(key) = key else { continue };
            if matches!(one.check_port(host, port, &key), CheckResult::Match) {
                types.extend(key_type(&key).filter(|kind| !types.contains(kind)));
            }
        }
        Ok(types)
    }

    /// Judges the key that a host has shown.
    pub fn check(&self, session: &Session, host: &str, port: u16, key: &[u8]) -> Result<Verdict, ssh2::Error> {
        if let Some((file, _)) = self.revoked.iter().find(|(_, revoked)| revoked == key) {
            return Ok(Verdict::Revoked(file.clone()));
        }
        let mut verdict = Verdict::Unknown;
        for (file, line) in &self.lines {
            let mut one = session.known_hosts()?;
            if one.read_str(line, KnownHostFileKind::OpenSSH).is_err() {
                continue;
            }
            match one.check_port(host, port, key) {
                CheckResult::Match => return Ok(Verdict::Known),
                CheckResult::Mismatch if verdict == Verdict::Unknown => verdict = Verdict::Changed(file.clone()),
                _ => {}
            }
        }
        Ok(verdict)
    }
}

/// Appends a key to a known-hosts file, making the file and its folder (mode 700) when they are not there.
pub fn remember(file: &Path, host: &str, port: u16, key: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(folder) = file.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let name = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
    let kind = key_type(key).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut out = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    // One write: two ferries that append at once do not mix their lines.
    out.write_all(format!("{name} {kind} {}\n", STANDARD.encode(key)).as_bytes())
}

/// The type that a public key's blob begins with (RFC 4253, 6.6).
pub fn key_type(blob: &[u8]) -> Option<String> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    let name = rest.get(..u32::from_be_bytes(*length) as usize)?;
    String::from_utf8(name.to_vec()).ok().filter(|name| name.bytes().all(|b| b.is_ascii_graphic()))
}

/// `SHA256:…` as ssh shows a key.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(crate::base::Digest::of(blob).as_bytes()))
}

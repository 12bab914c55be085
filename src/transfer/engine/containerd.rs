//! containerd and k3s, by `ctr`: its content store gives whole blobs, and an image may name blobs that are there already.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{Engine, EngineError, WriteArchive, ask, feed};
use crate::archive::write::Format;
use crate::base::BoxFault;
use crate::image::{DiffId, Image};
use crate::layer::compression::{self, DecodeLimits, MAGIC_BYTES};

/// What containerd calls the digest of a blob's tar.
const UNCOMPRESSED: &str = "containerd.io/uncompressed=";

/// Where k3s's containerd listens.
const K3S: &str = "/run/k3s/containerd/containerd.sock";

pub(super) struct Containerd {
    words: &'static [&'static str],
    /// The blob of each layer: the tar itself, or its compressed form.
    blobs: BTreeMap<DiffId, String>,
    readable: BTreeSet<DiffId>,
    /// Blobs by digest.
    digests: BTreeSet<String>,
}

impl Containerd {
    /// Asks the daemon; which one and which namespace, ctr's environment says.
    pub fn open(words: &'static [&'static str]) -> Result<Self, BoxFault> {
        let mut containerd =
            Self { words, blobs: BTreeMap::new(), readable: BTreeSet::new(), digests: BTreeSet::new() };
        let answer = ask(words[0], containerd.ctr().args(["content", "ls"]))?;
        for line in String::from_utf8_lossy(&answer).lines().skip(1) {
            let mut fields = line.split_whitespace();
            let Some(digest) = fields.next().filter(|digest| digest.starts_with("sha256:")) else { continue };
            containerd.digests.insert(digest.to_owned());
            let labels = fields.last().unwrap_or_default().split(',');
            let label = labels.filter_map(|label| label.strip_prefix(UNCOMPRESSED)).next();
            if let Some(diff_id) = label.and_then(|label| label.parse::<DiffId>().ok()) {
                containerd.blobs.entry(diff_id).or_insert_with(|| digest.to_owned());
            }
        }
        // A layer that came as a tar has the digest of its tar.
        for digest in &containerd.digests {
            if let Ok(diff_id) = digest.parse::<DiffId>() {
                containerd.blobs.entry(diff_id).or_insert_with(|| digest.clone());
            }
        }
        containerd.readable = containerd.blobs.keys().copied().collect();
        Ok(containerd)
    }

    /// k3s brings a ctr of its own; where sudo or ssh does not find it, any other does that is told where k3s has its
    /// socket and its images.
    pub fn of_k3s() -> Result<Self, BoxFault> {
        let own = Self::open(&["k3s", "ctr"]);
        if !std::path::Path::new(K3S).exists() {
            return own;
        }
        own.or_else(|fault| Self::open(&["ctr", "-a", K3S, "-n", "k8s.io"]).map_err(|_| fault))
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new(self.words[0]);
        command.args(&self.words[1..]);
        command
    }
}

/// Whether containerd is there for this user.
pub(super) fn answers() -> bool {
    // It waits ten seconds for a daemon that is not there.
    ask("ctr", Command::new("ctr").args(["--connect-timeout", "2s", "version"])).is_ok()
}

/// Whether k3s is.
pub(super) fn of_k3s_answers() -> bool {
    Containerd::of_k3s().is_ok()
}

impl Engine for Containerd {
    fn readable(&self) -> &BTreeSet<DiffId> {
        &self.readable
    }

    fn open(&self, layer: &DiffId) -> Result<Box<dyn Read + Send>, BoxFault> {
        let digest = self.blobs.get(layer).ok_or(EngineError::Gone(*layer))?;
        let absent = |source| EngineError::Absent { program: self.words[0], source };
        let mut command = self.ctr();
        command.args(["content", "get", digest]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(absent)?;
        let stdout = child.stdout.take();
        let mut blob = Output { child, stdout };
        let mut head = Vec::new();
        (&mut blob).take(MAGIC_BYTES as u64).read_to_end(&mut head).map_err(absent)?;
        let compression = compression::detect(&head);
        let whole = io::Cursor::new(head).chain(blob);
        Ok(compression.decoder(Box::new(whole), &DecodeLimits::default()).map_err(absent)?)
    }

    fn has_of(&self, layers: &[DiffId]) -> usize {
        layers.iter().take_while(|layer| self.digests.contains(&layer.to_string())).count()
    }

    fn format(&self) -> Format {
        Format::Oci
    }

    fn load(&self, _: &[Image], write: &mut WriteArchive<'_>) -> Result<(), BoxFault> {
        feed(self.words[0], self.ctr().args(["images", "import", "-"]), write)
    }
}

/// What a command prints; it is ended when nobody reads on.
struct Output {
    child: Child,
    stdout: Option<ChildStdout>,
}

impl Read for Output {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stdout.as_mut().map_or(Ok(0), |stdout| stdout.read(buf))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! dockerd: its client says which layers there are, and with root's rights its data-root gives their bytes.

use std::collections::{BTreeSet, HashSet};
use std::io::Read;
use std::process::Command;

use super::{Engine, EngineError, WriteArchive, ask, feed, listable};
use crate::archive::write::Format;
use crate::base::BoxFault;
use crate::image::{ChainId, DiffId, Image};
use crate::store::{self, Store};

pub(super) struct Docker {
    /// The chains of all images. Of a layer whose chain is here, docker opens no file.
    chains: HashSet<ChainId>,
    store: Option<Store>,
    readable: BTreeSet<DiffId>,
}

impl Docker {
    /// Asks the daemon; which one, DOCKER_HOST and docker's own configuration say.
    pub fn open() -> Result<Self, BoxFault> {
        let info = info()?;
        let (driver, root) = info.trim().split_once('\n').unwrap_or((info.trim(), ""));
        // What dockerd keeps in containerd's store it wants to see as a whole.
        let mut docker = Self { chains: HashSet::new(), store: None, readable: BTreeSet::new() };
        if driver != "overlay2" && driver != "fuse-overlayfs" && driver != "vfs" && driver != "btrfs" {
            return Ok(docker);
        }
        docker.chains = chains()?;
        if driver == "overlay2" && listable(&std::path::Path::new(root).join("overlay2")) {
            // What cannot be read is sent.
            if let Ok(store) = Store::open(root, store::Options::default())
                && let Ok(layers) = store.diff_ids()
            {
                (docker.store, docker.readable) = (Some(store), layers);
            }
        }
        Ok(docker)
    }
}

/// The driver and the data-root, a line each.
fn info() -> Result<String, EngineError> {
    // Newer clients answer `info` with nothing, and success, where there is no daemon.
    ask("docker", Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))?;
    let info = ask("docker", Command::new("docker").args(["info", "--format", "{{.Driver}}\n{{.DockerRootDir}}"]))?;
    Ok(String::from_utf8_lossy(&info).into_owned())
}

/// Whether there is a daemon for this user. podman under docker's name does not know the question.
pub(super) fn answers() -> bool {
    info().is_ok()
}

fn chains() -> Result<HashSet<ChainId>, BoxFault> {
    let ids = ask("docker", Command::new("docker").args(["image", "ls", "-aq", "--no-trunc"]))?;
    let ids: BTreeSet<String> = String::from_utf8_lossy(&ids).lines().map(str::to_owned).collect();
    let mut chains = HashSet::new();
    let ids: Vec<String> = ids.into_iter().collect();
    for some in ids.chunks(200) {
        let mut command = Command::new("docker");
        command.args(["image", "inspect", "--format", "{{json .RootFS.Layers}}"]).args(some);
        let answer = ask("docker", &mut command)?;
        for line in String::from_utf8_lossy(&answer).lines() {
            let layers: Option<Vec<String>> =
                serde_json::from_str(line).map_err(|_| EngineError::Answer { command: super::words(&command) })?;
            let layers = layers.unwrap_or_default();
            let layers: Result<Vec<DiffId>, _> = layers.iter().map(|layer| layer.parse()).collect();
            let layers = layers.map_err(|_| EngineError::Answer { command: super::words(&command) })?;
            chains.extend(ChainId::chain(layers));
        }
    }
    Ok(chains)
}

impl Engine for Docker {
    fn readable(&self) -> &BTreeSet<DiffId> {
        &self.readable
    }

    fn open(&self, layer: &DiffId) -> Result<Box<dyn Read + Send>, BoxFault> {
        let store = self.store.as_ref().ok_or(EngineError::Gone(*layer))?;
        Ok(store.open_tar(layer)?)
    }

    fn has_of(&self, layers: &[DiffId]) -> usize {
        ChainId::chain(layers.iter().copied()).iter().take_while(|chain| self.chains.contains(chain)).count()
    }

    fn format(&self) -> Format {
        Format::Docker
    }

    fn load(&self, _: &[Image], write: &mut WriteArchive<'_>) -> Result<(), BoxFault> {
        feed("docker", Command::new("docker").args(["load", "-q"]), write)
    }
}

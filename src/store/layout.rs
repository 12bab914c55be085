//! Where everything lies. Docker's part is as dockerd makes it (moby `layer/filestore.go`, `image/fs.go`,
//! `daemon/graphdriver/overlay2`, `distribution/metadata`); `ferry/` is ours.

use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::base::{AtPath, Digest, PathError};
use crate::image::{ChainId, DiffId, ImageId};

/// How the names of indexes begin among an image's manifests.
pub(super) const INDEX: &str = "index-";

/// The paths of a store.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of the store at `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path that a journal or a plan gives relative to the root.
    pub fn at(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Directories by cache ID.
    pub fn overlay(&self) -> PathBuf {
        self.root.join("overlay2")
    }

    /// One layer's directory.
    pub fn cache_dir(&self, id: &CacheId) -> PathBuf {
        self.overlay().join(id.as_str())
    }

    /// One layer's tree.
    pub fn diff_dir(&self, id: &CacheId) -> PathBuf {
        self.cache_dir(id).join("diff")
    }

    /// The short symbolic links.
    pub fn links(&self) -> PathBuf {
        self.overlay().join("l")
    }

    /// Docker's metadata of the overlay2 driver.
    pub fn image(&self) -> PathBuf {
        self.root.join("image/overlay2")
    }

    /// Layer metadata by chain ID.
    pub fn layerdb(&self) -> PathBuf {
        self.image().join("layerdb/sha256")
    }

    /// One layer's metadata.
    pub fn layer(&self, chain_id: &ChainId) -> PathBuf {
        self.layerdb().join(chain_id.0.hex())
    }

    /// Where dockerd prepares layer metadata.
    pub fn layerdb_tmp(&self) -> PathBuf {
        self.image().join("layerdb/tmp")
    }

    /// Writable layers by container.
    pub fn mounts(&self) -> PathBuf {
        self.image().join("layerdb/mounts")
    }

    /// Configs by image ID.
    pub fn configs(&self) -> PathBuf {
        self.image().join("imagedb/content/sha256")
    }

    /// One image's config.
    pub fn config(&self, id: &ImageId) -> PathBuf {
        self.configs().join(id.0.hex())
    }

    /// What dockerd notes beside a config.
    pub fn config_metadata(&self, id: &ImageId) -> PathBuf {
        self.image().join("imagedb/metadata/sha256").join(id.0.hex())
    }

    /// The names.
    pub fn repositories(&self) -> PathBuf {
        self.image().join("repositories.json")
    }

    /// The manifests that names came with.
    pub fn name_notes(&self) -> PathBuf {
        self.ferry().join("names.json")
    }

    /// The diff ID a registry blob unpacks to.
    pub fn diff_id_by_digest(&self, digest: &Digest) -> PathBuf {
        self.image().join("distribution/diffid-by-digest/sha256").join(digest.hex())
    }

    /// The registry blobs a layer is known by.
    pub fn v2_metadata(&self, diff_id: &DiffId) -> PathBuf {
        self.image().join("distribution/v2metadata-by-diffid/sha256").join(diff_id.0.hex())
    }

    /// All that Docker does not keep.
    pub fn ferry(&self) -> PathBuf {
        self.root.join("ferry")
    }

    /// The format version of `ferry/`.
    pub fn version(&self) -> PathBuf {
        self.ferry().join("version")
    }

    /// Held shared by whoever relies on layers staying, exclusively by whoever removes some.
    pub fn use_lock(&self) -> PathBuf {
        self.ferry().join("lock")
    }

    /// Held exclusively, for a short time, by whoever changes metadata.
    pub fn commit_lock(&self) -> PathBuf {
        self.ferry().join("commit.lock")
    }

    /// Streams from other hosts that have not arrived whole.
    pub fn transfers(&self) -> PathBuf {
        self.ferry().join("transfers")
    }

    /// Transactions under way.
    pub fn staging(&self) -> PathBuf {
        self.ferry().join("staging")
    }

    /// Compressed layers as they came.
    pub fn blobs(&self) -> PathBuf {
        self.ferry().join("blobs/sha256")
    }

    /// One compressed layer.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Content lists by chain ID.
    pub fn contents(&self) -> PathBuf {
        self.ferry().join("contents/sha256")
    }

    /// What is kept although no image needs it.
    pub fn pins(&self) -> PathBuf {
        self.ferry().join("pins")
    }

    /// What other sites were sent.
    pub fn sites(&self) -> PathBuf {
        self.ferry().join("sites")
    }

    /// One layer's content list.
    pub fn content_list(&self, chain_id: &ChainId) -> PathBuf {
        self.contents().join(chain_id.0.hex())
    }

    /// Manifests by image ID.
    pub fn manifests(&self) -> PathBuf {
        self.ferry().join("manifests/sha256")
    }

    /// One image's manifests, each under its own digest.
    pub fn image_manifests(&self, id: &ImageId) -> PathBuf {
        self.manifests().join(id.0.hex())
    }

    /// An index that leads to one of an image's manifests.
    pub fn image_index(&self, id: &ImageId, digest: &Digest) -> PathBuf {
        self.image_manifests(id).join(format!("{INDEX}{}", digest.hex()))
    }

    /// Which compressed blobs a layer is known by, by diff ID.
    pub fn originals(&self) -> PathBuf {
        self.ferry().join("originals/sha256")
    }

    /// One layer's list of compressed blobs.
    pub fn original_list(&self, diff_id: &DiffId) -> PathBuf {
        self.originals().join(diff_id.0.hex())
    }

    /// Docker's directories, with the modes dockerd gives them, and ours. Those that are there are left as they are.
    pub fn create(&self) -> Result<(), PathError> {
        for (path, mode) in [
            (self.root.clone(), 0o710),
            (self.overlay(), 0o710),
            (self.links(), 0o700),
            (self.root.join("image"), 0o700),
            (self.image(), 0o700),
            (self.image().join("layerdb"), 0o700),
            (self.layerdb(), 0o755),
            (self.mounts(), 0o755),
            (self.configs(), 0o700),
            (self.image().join("imagedb/metadata/sha256"), 0o700),
            (self.image().join("distribution/diffid-by-digest/sha256"), 0o755),
            (self.image().join("distribution/v2metadata-by-diffid/sha256"), 0o755),
            (self.ferry(), 0o700),
            (self.staging(), 0o700),
            (self.blobs(), 0o700),
            (self.contents(), 0o700),
            (self.manifests(), 0o700),
            (self.originals(), 0o700),
        ] {
            DirBuilder::new().recursive(true).mode(mode).create(&path).at("create", &path)?;
        }
        Ok(())
    }
}

/// The random name of a directory below `overlay2/`: 64 hex digits, and `-init` after them for a container's init layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheId(String);

impl CacheId {
    /// A new one.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(hex::encode(bytes)))
    }

    /// The name of the init layer that belongs to this writable layer.
    pub fn init(&self) -> Self {
        Self(format!("{}-init", self.0))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CacheId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_suffix("-init").unwrap_or(text);
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a cache ID is 64 lowercase hex digits")
        }
    }
}

impl fmt::Display for CacheId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The short name below `overlay2/l/`: 26 upper case letters and digits (base32, as dockerd makes them).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkName(String);

impl LinkName {
    /// A new one.
    pub fn random() -> io::Result<Self> {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let mut bytes = [0; 26];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes.iter().map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LinkName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() == 26 && text.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a layer link is 26 base32 digits")
        }
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layer_directories_cannot_lead_out_of_the_store() {
        let id = CacheId::random().unwrap();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(id.init().as_str().parse(), Ok(id.init()));
        let link = LinkName::random().unwrap();
        assert_eq!(link.as_str().parse(), Ok(link));
        for bad in ["", "..", "../x", "-init", &"G".repeat(64), &"a".repeat(63)] {
            assert!(bad.parse::<CacheId>().is_err() && bad.parse::<LinkName>().is_err(), "{bad}");
        }
    }
}

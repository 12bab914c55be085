//! What ties a layer to the compressed blobs a registry knows it by.
//!
//! `ferry/originals/sha256/<diff ID>` is a JSON list of descriptors, `ferry/blobs/sha256/` has the blobs. Docker's own
//! `distribution/{diffid-by-digest,v2metadata-by-diffid}` says the same to dockerd, which pushes without compressing
//! again what the registry has (moby `distribution/metadata/v2_metadata_service.go`).

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::files;
use super::layout::Layout;
use crate::base::Digest;
use crate::image::{Descriptor, DiffId};

/// Docker keeps no more entries of one layer.
const MAX_ENTRIES: usize = 50;
/// The most such a file may hold, in bytes.
const LIMIT: u64 = 1 << 20;

/// One entry of `v2metadata-by-diffid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct V2Metadata {
    /// The blob.
    pub digest: Digest,
    /// The repository it came from, in full.
    #[serde(default)]
    pub source_repository: String,
    /// Ties an entry to credentials; empty for none.
    #[serde(default, rename = "HMAC")]
    pub hmac: String,
}

/// The blobs a layer is known by, oldest first.
pub fn read(layout: &Layout, diff_id: &DiffId) -> Result<Vec<Descriptor>, StoreError> {
    let path = layout.original_list(diff_id);
    let Some(bytes) = files::read(&path, LIMIT)? else { return Ok(Vec::new()) };
    serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged { path, reason: error.to_string() })
}

/// The first blob of a layer that is there, and of these the one with `wanted`'s digest when it is among them.
pub fn present(layout: &Layout, diff_id: &DiffId, wanted: Option<&Digest>) -> Result<Option<Descriptor>, StoreError> {
    let mut there = read(layout, diff_id)?;
    there.retain(|original| layout.blob(&original.digest).metadata().is_ok_and(|m| m.len() == original.size));
    let at = wanted.and_then(|wanted| there.iter().position(|original| original.digest == *wanted)).unwrap_or(0);
    Ok((at < there.len()).then(|| there.swap_remove(at)))
}

/// A layer's list with one more blob: its new bytes, or `None` when the blob is in it.
pub fn with(list: &[Descriptor], more: &Descriptor) -> Option<Vec<u8>> {
    if list.iter().any(|original| original.digest == more.digest) {
        return None;
    }
    let mut list = list.to_vec();
    list.push(Descriptor::new(&more.media_type, more.digest, more.size));
    list.drain(..list.len().saturating_sub(MAX_ENTRIES));
    serde_json::to_vec(&list).ok()
}

/// Docker's file of a layer with one more blob from `repository`: its new bytes, or `None` when nothing changes. A
/// file that cannot be read is replaced, as dockerd does.
pub fn v2_metadata_with(layout: &Layout, diff_id: &DiffId, digest: Digest, repository: &str) -> Option<Vec<u8>> {
    let bytes = files::read(&layout.v2_metadata(diff_id), LIMIT).ok().flatten().unwrap_or_default();
    let mut entries: Vec<V2Metadata> = serde_json::from_slice(&bytes).unwrap_or_default();
    let entry = V2Metadata { digest, source_repository: repository.to_owned(), hmac: String::new() };
    if entries.contains(&entry) {
        return None;
    }
    entries.push(entry);
    entries.drain(..entries.len().saturating_sub(MAX_ENTRIES));
    serde_json::to_vec(&entries).ok()
}

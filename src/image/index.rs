//! Indexes: documents that name the manifests of one image for several platforms. A name may be pinned to an index's
//! digest; the document is what proves that.

use std::collections::HashSet;

use serde::Deserialize;

use super::manifest::{Descriptor, media_type};
use super::source::ImageSource;
use crate::base::{BoxFault, Digest, caps};

/// Documents and their descriptors.
pub type Documents = Vec<(Descriptor, Vec<u8>)>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// The documents that lead from the index of digest `from` to the manifest of digest `to`, the index first. `None` where
/// the source does not have them, or they lead elsewhere.
pub fn chain(source: &dyn ImageSource, from: &Digest, to: &Digest) -> Result<Option<Documents>, BoxFault> {
    search(source, from, to, &mut HashSet::new(), 0)
}

fn search(
    source: &dyn ImageSource,
    from: &Digest,
    to: &Digest,
    seen: &mut HashSet<Digest>,
    depth: usize,
) -> Result<Option<Documents>, BoxFault> {
    if depth > caps::INDEX_DEPTH || !seen.insert(*from) {
        return Ok(None);
    }
    let Some(raw) = source.index(from)? else { return Ok(None) };
    let Ok(fields) = serde_json::from_slice::<Fields>(&raw) else { return Ok(None) };
    let kind = fields.media_type.as_deref().unwrap_or(media_type::OCI_INDEX);
    let mut documents = vec![(Descriptor::of(kind, &raw), raw)];
    if fields.manifests.iter().any(|inner| inner.digest == *to) {
        return Ok(Some(documents));
    }
    let is_index = |inner: &&Descriptor| matches!(&*inner.media_type, media_type::OCI_INDEX | media_type::DOCKER_LIST);
    for inner in fields.manifests.iter().filter(is_index) {
        if let Some(rest) = search(source, &inner.digest, to, seen, depth + 1)? {
            documents.extend(rest);
            return Ok(Some(documents));
        }
    }
    Ok(None)
}

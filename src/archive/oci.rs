//! OCI layouts: `index.json` and the blobs it leads to. Of an image that is there for several platforms one is chosen;
//! platforms that an index only names, without their blobs, are as if they were not named.

use std::collections::HashSet;

use serde::Deserialize;

use super::catalog::{Found, FoundLayer, OpenOptions};
use super::container::{Container, blob_path};
use super::docs::{self, Capped};
use super::error::ArchiveError;
use crate::base::caps::{self, OverLimit};
use crate::base::{Ctx, Digest};
use crate::image::manifest::media_type;
use crate::image::{Descriptor, Layer, Manifest, Platform, Reference};

/// The document's name.
const INDEX: &str = "index.json";
/// The full name that containerd and docker give.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// OCI's own annotation: a tag, or a whole name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// How the media types of image layers begin.
const LAYERS: [&str; 2] = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
/// On attestations and signatures that belong to an image.
const SUBJECT: [&str; 2] = ["io.containerd.manifest.subject", "vnd.docker.reference.type"];
/// The repository under which docker's containerd store keeps images that lost their tag.
const DANGLING: &str = "moby-dangling";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    #[serde(default)]
    manifests: Capped<Descriptor, { caps::IMAGES }>,
}

/// The images of `index.json`, one for each name and platform choice; `None` when there is no such document.
pub fn read(container: &dyn Container, options: &OpenOptions, ctx: &Ctx) -> Result<Option<Vec<Found>>, ArchiveError> {
    let Some(entry) = container.find(INDEX)? else { return Ok(None) };
    let bytes = container.read(&entry, caps::ARCHIVE_INDEX_BYTES)?;
    let index: Index = docs::parse(container.origin(), INDEX, &bytes)?;
    let mut reader = Reader { container, documents: 0, through: Vec::new(), absent: None, artifacts: Vec::new() };
    let mut groups: Vec<Group> = Vec::new();
    for descriptor in &index.manifests.0 {
        let names = names(container, descriptor, ctx)?;
        let mut candidates = Vec::new();
        reader.gather(descriptor, 0, INDEX, &mut candidates)?;
        if candidates.is_empty() {
            continue;
        }
        match groups.iter_mut().find(|group| !names.is_empty() && group.names == names) {
            Some(group) => group.candidates.extend(candidates),
            None => groups.push(Group { names, candidates }),
        }
    }
    reader.tell_artifacts(ctx);
    if let (true, Some(absent)) = (groups.is_empty(), reader.absent) {
        return Err(absent);
    }
    let mut found: Vec<Found> = Vec::new();
    for group in groups {
        let names = group.names.clone();
        for candidate in group.choose(container, options, ctx)? {
            add(&mut found, candidate, names.clone());
        }
    }
    Ok(Some(found))
}

/// One image has several descriptors when it has several names.
fn add(found: &mut Vec<Found>, candidate: Found, names: Vec<Reference>) {
    let same = |other: &&mut Found| {
        other.config.id() == candidate.config.id()
            && other.manifest.as_ref().map(Manifest::digest) == candidate.manifest.as_ref().map(Manifest::digest)
    };
    match found.iter_mut().find(same) {
        Some(image) => {
            let new: Vec<Reference> = names.into_iter().filter(|name| !image.names.contains(name)).collect();
            image.names.extend(new);
            image.documents.extend(candidate.documents);
        }
        None => found.push(Found { names, ..candidate }),
    }
}

/// The names a descriptor of `index.json` gives: none, a tag, a digest, or a tag and a digest.
fn names(container: &dyn Container, descriptor: &Descriptor, ctx: &Ctx) -> Result<Vec<Reference>, ArchiveError> {
    let Some(annotations) = &descriptor.annotations else { return Ok(Vec::new()) };
    if let Some(full) = annotations.get(IMAGE_NAME) {
        if full.starts_with(DANGLING) {
            return Ok(Vec::new());
        }
        return docs::names(container, INDEX, full);
    }
    let Some(text) = annotations.get(REF_NAME) else { return Ok(Vec::new()) };
    // A bare word is a tag of nobody knows which repository.
    if text.contains(['/', ':', '@'])
        && let Ok(reference) = text.parse::<Reference>()
    {
        return Ok(reference.or_latest().claims());
    }
    ctx.warn(format!(
        "{}: {} is called {text:?}, which is a tag and no name; it is taken without a name",
        container.origin(),
        descriptor.digest
    ));
    Ok(Vec::new())
}

/// What one descriptor's names stand for: one image, or one a platform.
struct Group {
    names: Vec<Reference>,
    candidates: Vec<Found>,
}

impl Group {
    fn choose(
        mut self,
        container: &dyn Container,
        options: &OpenOptions,
        ctx: &Ctx,
    ) -> Result<Vec<Found>, ArchiveError> {
        let mut seen = HashSet::new();
        self.candidates.retain(|found| seen.insert(found.manifest.as_ref().map(Manifest::digest)));
        let present: Vec<Platform> = self.candidates.iter().map(|found| found.config.platform()).collect();
        let of = self.names.first().map(|name| format!(" of {name}")).unwrap_or_default();
        let origin = container.origin().to_owned();
        let host = Platform::host();
        let chosen = match &options.platform {
            Some(wanted) => match Platform::best(&present, wanted) {
                Some(chosen) => chosen,
                None => return Err(ArchiveError::Platform { origin, wanted: Box::new(wanted.clone()), of, present }),
            },
            None if present.len() == 1 => 0,
            None => match Platform::best(&present, &host) {
                Some(chosen) => {
                    let name = self.names.first().map_or("an image".to_owned(), ToString::to_string);
                    let others = present.iter().enumerate().filter(|(at, _)| *at != chosen);
                    let others: Vec<String> = others.map(|(_, platform)| platform.to_string()).collect();
                    // A name that is pinned to the index keeps its digest.
                    let pinned = self.names.iter().any(|name| name.digest().is_some());
                    let index = if pinned { "" } else { ", nor the index that names them all and its digest" };
                    ctx.warn(format!(
                        "{origin}: of {name} only {} is taken, not {}{index} (--platform chooses another)",
                        present[chosen],
                        others.join(", ")
                    ));
                    chosen
                }
                None => return Err(ArchiveError::AmbiguousPlatform { origin, of, present }),
            },
        };
        Ok(vec![self.candidates.swap_remove(chosen)])
    }
}

struct Reader<'a> {
    container: &'a dyn Container,
    documents: usize,
    /// The indexes that lead to where it is.
    through: Vec<Digest>,
    /// The media types of what is no image.
    artifacts: Vec<String>,
    /// What an index names and is not there: an error only when nothing else is.
    absent: Option<ArchiveError>,
}

impl Reader<'_> {
    /// Collects the image manifests below `descriptor`. What an index inside names and is not there is left out; what
    /// `index.json` itself names must be there.
    fn gather(
        &mut self,
        descriptor: &Descriptor,
        depth: usize,
        needed_by: &str,
        candidates: &mut Vec<Found>,
    ) -> Result<(), ArchiveError> {
        let annotated = |key: &&str| descriptor.annotations.as_ref().is_some_and(|all| all.contains_key(*key));
        if SUBJECT.iter().any(annotated) || descriptor.platform.as_ref().is_some_and(|p| p.os == "unknown") {
            return Ok(());
        }
        self.documents += 1;
        if depth > caps::INDEX_DEPTH || self.documents > caps::IMAGES {
            let (what, limit) = if depth > caps::INDEX_DEPTH {
                ("indexes inside indexes", caps::INDEX_DEPTH)
            } else {
                ("the manifests of all indexes", caps::IMAGES)
            };
            let source = OverLimit { what: what.into(), limit: limit as u64, unit: "documents" };
            return Err(ArchiveError::OverLimit { origin: self.container.origin().to_owned(), source });
        }
        match descriptor.media_type.as_str() {
            media_type::OCI_INDEX | media_type::DOCKER_LIST => {
                let Some(bytes) = self.document(descriptor, depth, needed_by)? else { return Ok(()) };
                let index: Index = docs::parse(self.container.origin(), &blob_path(&descriptor.digest), &bytes)?;
                let needed_by = format!("index {}", descriptor.digest);
                self.through.push(descriptor.digest);
                for inner in &index.manifests.0 {
                    self.gather(inner, depth + 1, &needed_by, candidates)?;
                }
                self.through.pop();
                Ok(())
            }
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => {
                let Some(bytes) = self.document(descriptor, depth, needed_by)? else { return Ok(()) };
                candidates.extend(self.image(bytes, descriptor, depth)?);
                Ok(())
            }
            other => {
                self.artifacts.push(other.to_owned());
                Ok(())
            }
        }
    }

    /// Says that there is more than images: a signature or a chart is nothing that a store keeps.
    fn tell_artifacts(&self, ctx: &Ctx) {
        let (origin, count) = (self.container.origin(), self.artifacts.len());
        match &self.artifacts[..] {
            [] => {}
            [one] => ctx.warn(format!("{origin}: 1 artifact that is no image is left out ({one})")),
            [first, ..] => {
                ctx.warn(format!("{origin}: {count} artifacts that are no images are left out (the first is {first})"));
            }
        }
    }

    /// Reads and proves a document; `None` when it is not there and need not be.
    fn document(
        &mut self,
        descriptor: &Descriptor,
        depth: usize,
        needed_by: &str,
    ) -> Result<Option<Vec<u8>>, ArchiveError> {
        let path = blob_path(&descriptor.digest);
        let entry = match docs::require(self.container, &path, needed_by) {
            Err(absent @ ArchiveError::Missing { .. }) if depth > 0 => {
                self.absent = Some(absent);
                return Ok(None);
            }
            found => found?,
        };
        let bytes = self.container.read(&entry, caps::MANIFEST_BYTES)?;
        docs::check_digest(self.container, &path, &bytes, descriptor.digest)?;
        self.check_size(&path, descriptor, bytes.len() as u64)?;
        Ok(Some(bytes))
    }

    fn check_size(&self, entry: &str, descriptor: &Descriptor, found: u64) -> Result<(), ArchiveError> {
        if descriptor.size == found {
            return Ok(());
        }
        let origin = self.container.origin().to_owned();
        Err(ArchiveError::Size { origin, entry: entry.to_owned(), expected: descriptor.size, found })
    }

    /// The image of a manifest; `None` when it is of another kind, or of a platform that is not there.
    fn image(&mut self, bytes: Vec<u8>, described: &Descriptor, depth: usize) -> Result<Option<Found>, ArchiveError> {
        let container = self.container;
        let origin = || container.origin().to_owned();
        let manifest = Manifest::parse(bytes, Some(&described.media_type))
            .map_err(|source| ArchiveError::Manifest { origin: origin(), source })?;
        if let Some(kind) = other_kind(&manifest) {
            self.artifacts.push(kind.to_owned());
            return Ok(None);
        }
        let needed_by = format!("manifest {}", manifest.digest());
        let mut entries = Vec::new();
        for descriptor in std::iter::once(manifest.config()).chain(manifest.layers()) {
            let path = blob_path(&descriptor.digest);
            let entry = match docs::require(container, &path, &needed_by) {
                Err(absent @ ArchiveError::Missing { .. }) if depth > 0 => {
                    self.absent = Some(absent);
                    return Ok(None);
                }
                found => found?,
            };
            self.check_size(&path, descriptor, entry.size)?;
            entries.push(entry);
        }
        let config_entry = entries.remove(0);
        let config = docs::config(container, &config_entry, Some(manifest.config().digest))?;
        let diff_ids = config.diff_ids();
        if diff_ids.len() != manifest.layers().len() {
            return Err(ArchiveError::LayerCount {
                origin: origin(),
                image: config.id(),
                expected: diff_ids.len(),
                found: manifest.layers().len(),
                entry: needed_by,
            });
        }
        let layers = diff_ids.iter().zip(manifest.layers()).zip(entries).map(|((diff_id, descriptor), entry)| {
            let plain = descriptor.digest == diff_id.0;
            let original = (!plain).then(|| descriptor.clone());
            FoundLayer { layer: Layer { diff_id: *diff_id, size: plain.then_some(entry.size), original }, entry }
        });
        let layers = layers.collect();
        let mut documents = self.through.clone();
        documents.push(manifest.digest());
        Ok(Some(Found { names: Vec::new(), config, manifest: Some(manifest), documents, layers }))
    }
}

/// The media type that shows a manifest to be no image's: its config's; or that of its layers, for signatures come with
/// an image's config (cosign's `simplesigning`).
fn other_kind(manifest: &Manifest) -> Option<&str> {
    let config = manifest.config().media_type.as_str();
    if !matches!(config, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
        return Some(config);
    }
    let is_layer = |layer: &Descriptor| LAYERS.iter().any(|start| layer.media_type.starts_with(start));
    let first = manifest.layers().first()?;
    (!manifest.layers().iter().any(is_layer)).then_some(first.media_type.as_str())
}

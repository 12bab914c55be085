//! The images of an archive, put together from all of its documents: a hybrid archive lists the same image in
//! `index.json`, with its manifest, and in `manifest.json`, and its names may be in either.

use std::collections::HashSet;
use std::path::PathBuf;

use super::container::Container;
use super::entries::Entry;
use super::error::ArchiveError;
use super::{docker, oci};
use crate::base::caps::{self, OverLimit};
use crate::base::{Ctx, Digest};
use crate::image::{ImageConfig, Layer, Manifest, Platform, Reference};

/// How an archive is read.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The platform to take of images that are there for several; without it this host's, or the only one.
    pub platform: Option<Platform>,
    /// The largest zstd window to accept, as a power of two; 128 MiB when absent.
    pub max_window: Option<u32>,
    /// Where an input that cannot be seeked is kept meanwhile, under no name.
    pub spool: PathBuf,
}

/// An image and where its layers are.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its names.
    pub names: Vec<Reference>,
    /// Its config.
    pub config: ImageConfig,
    /// Its manifest, of an OCI layout.
    pub manifest: Option<Manifest>,
    /// The digests of the documents that lead to it: its manifest's, and those of the indexes it was reached through.
    pub documents: Vec<Digest>,
    /// Its layers, base first.
    pub layers: Vec<FoundLayer>,
}

/// A layer and where it is.
#[derive(Debug, Clone)]
pub struct FoundLayer {
    /// As the source describes it.
    pub layer: Layer,
    /// The file with its bytes.
    pub entry: Entry,
}

/// Reads the documents of an archive.
pub fn read(container: &dyn Container, options: &OpenOptions, ctx: &Ctx) -> Result<Vec<Found>, ArchiveError> {
    let origin = || container.origin().to_owned();
    let from_oci = oci::read(container, options, ctx)?;
    let from_docker = docker::read(container)?;
    if from_oci.is_none() && from_docker.is_none() {
        return Err(something_else(container));
    }
    let mut found = from_oci.unwrap_or_default();
    merge(&mut found, pick_platform(container, options, from_docker.unwrap_or_default())?);
    if found.is_empty() {
        return Err(ArchiveError::NotAnArchive { origin: origin(), reason: "it lists no image".into() });
    }
    let names = found.iter().map(|image| image.names.len()).max().unwrap_or_default();
    for (what, number, limit) in
        [("the images of one archive", found.len(), caps::IMAGES), ("an image's names", names, caps::NAMES)]
    {
        if number > limit {
            let source = OverLimit { what: what.into(), limit: limit as u64, unit: "items" };
            return Err(ArchiveError::OverLimit { origin: origin(), source });
        }
    }
    drop_unproven(container.origin(), &mut found, ctx);
    last_one_has_the_name(&mut found);
    Ok(found)
}

/// A digest in a name is a claim about content: it counts where a document of this archive has that digest and leads
/// to the image.
fn drop_unproven(origin: &str, found: &mut [Found], ctx: &Ctx) {
    for Found { names, config, documents, .. } in found {
        names.retain(|name| {
            let proven = name.digest().is_none_or(|digest| documents.contains(&digest));
            if !proven {
                ctx.warn(format!(
                    "{origin}: the name {name} is left out: no manifest or index of that digest leads to image {}",
                    config.id().0.short()
                ));
            }
            proven
        });
    }
}

/// `manifest.json` knows nothing of platforms; their configs do.
fn pick_platform(
    container: &dyn Container,
    options: &OpenOptions,
    images: Vec<Found>,
) -> Result<Vec<Found>, ArchiveError> {
    let Some(wanted) = &options.platform else { return Ok(images) };
    let present: Vec<Platform> = images.iter().map(|image| image.config.platform()).collect();
    let chosen: Vec<Found> = images.into_iter().filter(|image| image.config.platform().satisfies(wanted)).collect();
    if chosen.is_empty() && !present.is_empty() && container.find("index.json")?.is_none() {
        let origin = container.origin().to_owned();
        return Err(ArchiveError::Platform { origin, wanted: Box::new(wanted.clone()), of: String::new(), present });
    }
    Ok(chosen)
}

/// Adds what `manifest.json` lists to what `index.json` lists. Where they differ about a name, as they do when the
/// former is about another platform, the index is right.
fn merge(found: &mut Vec<Found>, from_docker: Vec<Found>) {
    let taken: HashSet<Reference> = found.iter().flat_map(|image| image.names.iter().cloned()).collect();
    for mut image in from_docker {
        let had_names = !image.names.is_empty();
        match found.iter_mut().find(|other| other.config.id() == image.config.id()) {
            Some(other) => {
                let new: Vec<Reference> = image.names.into_iter().filter(|name| !taken.contains(name)).collect();
                other.names.extend(new);
            }
            None => {
                image.names.retain(|name| !taken.contains(name));
                if !image.names.is_empty() || !had_names {
                    found.push(image);
                }
            }
        }
    }
}

/// Docker gives a name that occurs twice to the image that comes last.
fn last_one_has_the_name(found: &mut [Found]) {
    let mut seen = HashSet::new();
    for image in found.iter_mut().rev() {
        let mut own = HashSet::new();
        image.names.retain(|name| own.insert(name.clone()));
        image.names.retain(|name| seen.insert(name.clone()));
    }
}

/// What a tar or a directory is that is no image archive.
fn something_else(container: &dyn Container) -> ArchiveError {
    let origin = container.origin().to_owned();
    let top = container.top();
    let has = |name: &str| top.iter().any(|entry| entry == name);
    if has("repositories") {
        return ArchiveError::Unsupported { origin, what: "the image format of Docker before 1.10".into() };
    }
    let rootfs = ["bin", "etc", "usr", "lib"].iter().filter(|name| has(name)).count() >= 2;
    let reason = if rootfs {
        "it has neither manifest.json nor index.json; it looks like a root file system"
    } else if top.is_empty() {
        "it is empty"
    } else {
        "it has neither manifest.json nor index.json"
    };
    ArchiveError::NotAnArchive { origin, reason: reason.into() }
}

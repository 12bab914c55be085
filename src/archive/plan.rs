//! What an archive will hold, decided before a byte of it is written: the documents, complete, and the blobs in order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Mutex;

use serde::Serialize;

use super::container::blob_path;
use super::error::ArchiveError;
use super::oci::{IMAGE_NAME, REF_NAME};
use super::write::{Format, WriteOptions};
use crate::base::read_at::{FileAt, Section};
use crate::base::verify::VerifyingReader;
use crate::base::{BoxFault, Ctx, Digest};
use crate::image::index::{self, Documents};
use crate::image::manifest::media_type;
use crate::image::{Descriptor, DiffId, Form, Image, ImageSource, Layer, Manifest, Reference};

/// A whole archive, but for the layers' bytes.
pub struct Plan {
    /// Paths and contents.
    pub documents: Vec<(String, Vec<u8>)>,
    /// The layers, each once, in the order of their first use.
    pub blobs: Vec<Blob>,
    /// Old and new digests of the manifests that had to change.
    pub changed: Vec<(Digest, Digest)>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// One layer's file in the archive.
pub struct Blob {
    /// Where.
    pub path: String,
    /// Of its bytes.
    pub digest: Digest,
    /// Of its bytes.
    pub size: u64,
    layer: Layer,
    form: Form,
    /// Its bytes, when they had to be counted first.
    measured: Option<File>,
}

impl Blob {
    /// For messages.
    pub fn describe(&self) -> String {
        format!("layer {}", self.layer.diff_id)
    }

    /// Whether it is a compressed blob as a registry has it.
    pub fn is_original(&self) -> bool {
        self.form == Form::Original
    }

    /// Opens its bytes.
    pub fn open<'a>(&'a self, source: &'a dyn ImageSource) -> Result<Box<dyn Read + Send + 'a>, BoxFault> {
        let Some(file) = &self.measured else { return source.open_layer(&self.layer, self.form) };
        let file = file.try_clone().and_then(FileAt::new).map_err(|source_error| ArchiveError::Source {
            origin: source.origin(),
            object: self.describe(),
            source: source_error,
        })?;
        Ok(Box::new(Section::new(file, 0, self.size)))
    }
}

/// Plans the archive of `images`.
pub fn plan(source: &dyn ImageSource, images: &[Image], options: &WriteOptions, ctx: &Ctx) -> Result<Plan, BoxFault> {
    let mut sizes = measure(source, images, options, ctx)?;
    let mut plan = Plan { documents: Vec::new(), blobs: Vec::new(), changed: Vec::new(), warnings: Vec::new() };
    let mut blobs_seen = HashSet::new();
    let mut small_seen = HashSet::new();
    let mut small: Vec<(String, Vec<u8>)> = Vec::new();
    let (mut described, mut listed) = (Vec::new(), Vec::new());
    for image in images {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let (form, descriptor) = describe(layer, options, &sizes);
            let path = match options.format {
                Format::Docker => format!("{}.tar", layer.diff_id.0.hex()),
                Format::Hybrid | Format::Oci => blob_path(&descriptor.digest),
            };
            if !options.omit.contains(&layer.diff_id) && blobs_seen.insert(descriptor.digest) {
                warn_of(layer, form, &mut plan.warnings);
                let (digest, size) = (descriptor.digest, descriptor.size);
                let measured = sizes.get_mut(&layer.diff_id).and_then(|size| size.file.take());
                let measured = if form == Form::Tar { measured } else { None };
                plan.blobs.push(Blob { path: path.clone(), digest, size, layer: layer.clone(), form, measured });
            }
            layers.push((path, descriptor));
        }
        let config = image.config.raw();
        let config_path = match options.format {
            Format::Docker => format!("{}.json", image.config.id().0.hex()),
            Format::Hybrid | Format::Oci => blob_path(&image.config.id().0),
        };
        let (paths, descriptors): (Vec<String>, Vec<Descriptor>) = layers.into_iter().unzip();
        if options.format != Format::Docker {
            let manifest = manifest(image, descriptors, &mut plan);
            let (entries, documents) = index_entries(source, &manifest, &image.names, &mut plan.warnings)?;
            described.extend(entries);
            for (descriptor, raw) in documents {
                if small_seen.insert(descriptor.digest) {
                    small.push((blob_path(&descriptor.digest), raw));
                }
            }
            if small_seen.insert(manifest.digest()) {
                small.push((blob_path(&manifest.digest()), manifest.raw().to_vec()));
            }
        }
        let listed_as = Listed { config: config_path.clone(), repo_tags: tags(&image.names), layers: paths };
        list(&mut listed, listed_as);
        if small_seen.insert(image.config.id().0) {
            small.push((config_path, config.to_vec()));
        }
    }
    if options.format != Format::Docker {
        plan.documents.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        let media_type = media_type::OCI_INDEX;
        let index = Index { schema_version: 2, media_type, manifests: described };
        // Structures with string keys always serialize.
        plan.documents.push(("index.json".into(), serde_json::to_vec(&index).unwrap_or_default()));
    }
    if options.format != Format::Oci {
        plan.documents.push(("manifest.json".into(), serde_json::to_vec(&listed).unwrap_or_default()));
    }
    plan.documents.extend(small);
    Ok(plan)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Docker takes only names with tags here, and null where there are none. They are full names: podman takes `nginx` for
/// `localhost/nginx` here, docker shows `docker.io/library/nginx` as `nginx`.
fn tags(names: &[Reference]) -> Option<Vec<String>> {
    let tags: Vec<String> = claims(names).iter().filter(|name| name.tag().is_some()).map(Reference::full).collect();
    (!tags.is_empty()).then_some(tags)
}

/// One image with several manifests is one item with all its tags where the layers' files are the same.
fn list(listed: &mut Vec<Listed>, item: Listed) {
    match listed.iter_mut().find(|other| other.config == item.config && other.layers == item.layers) {
        Some(other) => {
            let known = other.repo_tags.take().unwrap_or_default();
            let new = item.repo_tags.into_iter().flatten().filter(|tag| !known.contains(tag)).collect::<Vec<_>>();
            other.repo_tags = Some([known, new].concat()).filter(|tags| !tags.is_empty());
        }
        None => listed.push(item),
    }
}

/// Tags and digests apart, each once.
fn claims(names: &[Reference]) -> Vec<Reference> {
    let mut seen = HashSet::new();
    names.iter().flat_map(Reference::claims).filter(|name| seen.insert(name.clone())).collect()
}

/// One descriptor a name; one without a name for an image that has none. A digest in a name goes out where the archive
/// proves it: the manifest's own, or that of an index, whose documents go along then.
fn index_entries(
    source: &dyn ImageSource,
    manifest: &Manifest,
    names: &[Reference],
    warnings: &mut Vec<String>,
) -> Result<(Vec<Descriptor>, Documents), BoxFault> {
    let named = |name: &Reference, of: Descriptor| {
        let mut annotations = BTreeMap::from([(IMAGE_NAME.to_owned(), name.full())]);
        if let Some(tag) = name.tag() {
            annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        }
        Descriptor { annotations: Some(annotations), ..of }
    };
    let (mut entries, mut documents) = (Vec::new(), Vec::new());
    for name in claims(names) {
        let Some(digest) = name.digest().filter(|digest| *digest != manifest.digest()) else {
            entries.push(named(&name, manifest.descriptor()));
            continue;
        };
        let chain = index::chain(source, &digest, &manifest.digest())?.unwrap_or_default();
        match chain.first() {
            Some((first, _)) => entries.push(named(&name, first.clone())),
            None => warnings.push(format!(
                "the name {name} is left out: the manifest that is written is {}, and no index leads to it",
                manifest.digest()
            )),
        }
        documents.extend(chain);
    }
    if entries.is_empty() {
        entries.push(manifest.descriptor());
    }
    Ok((entries, documents))
}

/// In which form a layer goes out, and how a manifest describes it.
fn describe(layer: &Layer, options: &WriteOptions, sizes: &HashMap<DiffId, Measured>) -> (Form, Descriptor) {
    match original(layer, options) {
        Some(original) => (Form::Original, original.clone()),
        None => {
            let size = layer.size.or_else(|| sizes.get(&layer.diff_id).map(|measured| measured.size));
            (Form::Tar, Descriptor::new(media_type::OCI_LAYER, layer.diff_id.0, size.unwrap_or_default()))
        }
    }
}

/// The compressed blob that goes out, if one does.
fn original<'a>(layer: &'a Layer, options: &WriteOptions) -> Option<&'a Descriptor> {
    if options.no_originals || options.format == Format::Docker {
        return None;
    }
    // What a manifest names uncompressed is the tar itself.
    let blob = layer.original.as_ref().filter(|original| original.digest != layer.diff_id.0);
    blob.filter(|original| !(options.compat && is_zstd(original)))
}

fn is_zstd(original: &Descriptor) -> bool {
    original.media_type.ends_with("zstd")
}

fn warn_of(layer: &Layer, form: Form, warnings: &mut Vec<String>) {
    if form == Form::Original && layer.original.as_ref().is_some_and(is_zstd) {
        warnings.push(format!(
            "layer {} is compressed with zstd, which Docker before 23 cannot load",
            layer.diff_id.0.short()
        ));
    }
}

/// The manifest as it came, where every blob it names goes out as it names it; else one that is true.
fn manifest(image: &Image, layers: Vec<Descriptor>, plan: &mut Plan) -> Manifest {
    let same = |manifest: &&Manifest| {
        manifest.config().digest == image.config.id().0
            && manifest.layers().len() == layers.len()
            && manifest.layers().iter().zip(&layers).all(|(old, new)| old.digest == new.digest)
    };
    if let Some(manifest) = image.manifest.as_ref().filter(same) {
        return manifest.clone();
    }
    let config = Descriptor::of(media_type::OCI_CONFIG, image.config.raw());
    let layers = layers.into_iter().map(|layer| Descriptor { media_type: oci_name(layer.media_type), ..layer });
    let new = Manifest::build(config, layers.collect());
    if let Some(old) = &image.manifest {
        plan.changed.push((old.digest(), new.digest()));
    }
    new
}

/// OCI's name of a layer's media type.
fn oci_name(name: String) -> String {
    match name.as_str() {
        media_type::DOCKER_LAYER => media_type::OCI_LAYER.into(),
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP.into(),
        _ => name,
    }
}

/// A layer whose size the source did not know.
struct Measured {
    size: u64,
    file: Option<File>,
}

/// A tar's header states the size before the bytes: layers of unknown size are kept, proven, in files without names.
fn measure(
    source: &dyn ImageSource,
    images: &[Image],
    options: &WriteOptions,
    ctx: &Ctx,
) -> Result<HashMap<DiffId, Measured>, BoxFault> {
    let mut seen = HashSet::new();
    let unknown: Vec<(Layer, Form)> = images
        .iter()
        .flat_map(|image| &image.layers)
        .filter(|layer| layer.size.is_none() && original(layer, options).is_none())
        .filter(|layer| !options.omit.contains(&layer.diff_id) && seen.insert(layer.diff_id))
        .map(|layer| (layer.clone(), Form::Tar))
        .collect();
    let measured = Mutex::new(HashMap::new());
    if unknown.is_empty() {
        return Ok(HashMap::new());
    }
    source.visit_layers(&unknown, 2, ctx, &|layer, bytes| {
        let task = ctx.begin("Unpacking layer", layer.diff_id.0.short(), None);
        let fail = |error: io::Error| ArchiveError::Source {
            origin: source.origin(),
            object: format!("layer {}", layer.diff_id),
            source: error,
        };
        let mut file = tempfile::tempfile_in(&options.spool).map_err(fail)?;
        let size = io::copy(&mut VerifyingReader::new(bytes, layer.diff_id.0, None), &mut file).map_err(fail)?;
        file.rewind().map_err(fail)?;
        task.complete();
        let mut measured = measured.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        measured.insert(layer.diff_id, Measured { size, file: Some(file) });
        Ok(())
    })?;
    Ok(measured.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

//! `ferry save`: from the store into an archive.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::archive::ArchiveError;
use crate::archive::write::{ArchiveSink, WriteOptions, WriteReport};
use crate::base::durable::AtomicFile;
use crate::base::{BoxFault, Class, Ctx, Fault, PathError, lock};
use crate::image::{Image, ImageId, ImageSink, ImageSource, Platform, Reference};
use crate::layer::compression::{Compression, EncodeOptions};
use crate::store::{Store, StoredImage};

/// A list of images that cannot be saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// One name, two images.
    #[error("{name} is asked for as two images, {one} and {other}")]
    NameTwice {
        /// The name.
        name: Reference,
        /// An image.
        one: ImageId,
        /// Another.
        other: ImageId,
    },
    /// An image for another platform than wanted.
    #[error("{image} is for {found}, not for {wanted}")]
    Platform {
        /// As asked for.
        image: String,
        /// The image's.
        found: Platform,
        /// What was wanted.
        wanted: Platform,
    },
}

impl Fault for SelectError {
    fn class(&self) -> Class {
        match self {
            Self::NameTwice { .. } => Class::Conflict,
            Self::Platform { .. } => Class::NotFound,
        }
    }
}

/// How the archive is compressed as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    /// The method.
    pub compression: Compression,
    /// Its level and threads.
    pub options: EncodeOptions,
}

/// The images that `texts` mean and the names they go out with, as docker chooses them: a name stands for itself, a
/// repository for all its tags, an ID for the image without names.
pub fn select(
    store: &Store,
    texts: &[String],
    platform: Option<&Platform>,
    ctx: &Ctx,
) -> Result<Vec<(StoredImage, Vec<Reference>)>, BoxFault> {
    let mut selected: Vec<(StoredImage, Vec<Reference>)> = Vec::new();
    let mut owners: BTreeMap<Reference, ImageId> = BTreeMap::new();
    for text in texts {
        for (image, names) in meant(store, text, ctx)? {
            if let Some(wanted) = platform {
                let found = image.config.platform();
                if !found.satisfies(wanted) {
                    return Err(SelectError::Platform { image: text.clone(), found, wanted: wanted.clone() }.into());
                }
            }
            let id = image.id();
            for name in &names {
                let other = owners.insert(name.clone(), id).filter(|other| *other != id);
                if let Some(other) = other {
                    return Err(SelectError::NameTwice { name: name.clone(), one: other, other: id }.into());
                }
            }
            match selected.iter_mut().find(|(other, _)| other.id() == id) {
                Some((_, known)) => {
                    let new: Vec<Reference> = names.into_iter().filter(|name| !known.contains(name)).collect();
                    known.extend(new);
                }
                None => selected.push((image, names)),
            }
        }
    }
    Ok(selected)
}

fn meant(store: &Store, text: &str, ctx: &Ctx) -> Result<Vec<(StoredImage, Vec<Reference>)>, BoxFault> {
    let name = text.parse::<Reference>().ok();
    if let Some(repository) = name.as_ref().filter(|name| name.tag().is_none() && name.digest().is_none()) {
        let mut found = Vec::new();
        for image in store.images(ctx)? {
            let in_it = |name: &&Reference| name.full_name() == repository.full_name() && name.digest().is_none();
            let names: Vec<Reference> = image.names.iter().filter(in_it).cloned().collect();
            if !names.is_empty() {
                found.push((image, names));
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let image = store.resolve(text)?;
    let id = image.id();
    let by_id = id.to_string() == text || id.0.hex().starts_with(text.strip_prefix("sha256:").unwrap_or(text));
    let names = match name {
        Some(name) if image.names.contains(&name) => vec![name],
        Some(name) if !by_id && name.digest().is_some() => vec![name],
        _ => vec![],
    };
    Ok(vec![(image, names)])
}

/// Where the archive goes.
pub enum Output<'a> {
    /// A file, which gets its name when it is whole and takes the place of whatever has that name.
    File(&'a Path),
    /// Something open.
    Stream(&'a mut (dyn Write + Send)),
}

/// Writes images as one archive.
pub fn save(
    source: &dyn ImageSource,
    images: &[Image],
    output: Output<'_>,
    packing: Packing,
    options: WriteOptions,
    ctx: &Ctx,
) -> Result<WriteReport, BoxFault> {
    match output {
        Output::Stream(stream) => write(source, images, stream, packing, options, ctx),
        Output::File(path) => {
            let mut file = AtomicFile::create(path, 0o600)?;
            let give = |mut out: Box<dyn Write + Send + '_>| write(source, images, &mut *out, packing, options, ctx);
            let named = |source| PathError { action: "write", path: path.to_owned(), source }.into();
            let report = watched(&mut file, give, named)?;
            file.commit()?;
            Ok(report)
        }
    }
}

/// Has `give` write to `out`. When that fails because nothing can be written any more, that is the error, as `name` tells it:
/// whoever writes has words of his own for it, and does not know where to.
pub fn watched<'w, T>(
    out: impl Write + Send + 'w,
    give: impl FnOnce(Box<dyn Write + Send + 'w>) -> Result<T, BoxFault>,
    name: impl FnOnce(io::Error) -> BoxFault,
) -> Result<T, BoxFault> {
    let failed: Arc<Mutex<Option<io::Error>>> = Arc::default();
    let result = give(Box::new(Watched { out, failed: failed.clone() }));
    match (result, lock(&failed).take()) {
        (Err(_), Some(source)) => Err(name(source)),
        (result, _) => result,
    }
}

/// Keeps why it could not be written to.
struct Watched<W> {
    out: W,
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl<W> Watched<W> {
    fn watch<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                *lock(&self.failed) = Some(error);
            }
            kind.into()
        })
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.out.write(bytes);
        self.watch(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.watch(result)
    }
}

fn write(
    source: &dyn ImageSource,
    images: &[Image],
    out: &mut (dyn Write + Send),
    packing: Packing,
    options: WriteOptions,
    ctx: &Ctx,
) -> Result<WriteReport, BoxFault> {
    let fail = |source: io::Error| ArchiveError::Write { source };
    let encoder = packing.compression.encoder(io::BufWriter::with_capacity(1 << 20, out), packing.options);
    let mut sink = ArchiveSink::new(encoder.map_err(fail)?, options);
    let report = sink.take(source, images, ctx)?;
    sink.into_inner().finish().map_err(fail)?;
    Ok(report)
}

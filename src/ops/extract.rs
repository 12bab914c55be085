//! `ferry extract`: one image, layer or file out of a bundle; of the rest no frame is read.

use std::io::{self, Read, Write};

use super::tree_path::resolve;
use crate::base::verify::VerifyingReader;
use crate::base::{AtPath, BoxFault, Class, Ctx, Digest, Fault};
use crate::bundle::index::blob_of;
use crate::bundle::outline::Outlined;
use crate::bundle::tree::Tree;
use crate::bundle::{BundleError, BundleSource};
use crate::image::{DiffId, Form, Image, ImageSource, Layer, Reference};
use crate::layer::tar::{self, Entry, Handler, Kind, SparseMap};

/// What a bundle has not, or not like that.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// No such image.
    #[error("{origin} has no image {wanted}; it has {}", .there.join(", "))]
    NoImage {
        /// The bundle.
        origin: String,
        /// As asked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Several images that the beginning of an ID fits, or an ID that is that of several.
    #[error("{origin} has several images {wanted}: name one of {}", .found.join(", "))]
    Several {
        /// The bundle.
        origin: String,
        /// As asked for.
        wanted: String,
        /// Their names; the IDs of those without.
        found: Vec<String>,
    },
    /// Several images, and none named.
    #[error("{origin} holds {images} images: name one of {}", .there.join(", "))]
    Which {
        /// The bundle.
        origin: String,
        /// How many.
        images: usize,
        /// What there is.
        there: Vec<String>,
    },
    /// No such layer, or several.
    #[error("{origin} has {found} layers {wanted}")]
    Layer {
        /// The bundle.
        origin: String,
        /// As asked for.
        wanted: String,
        /// How many fit.
        found: usize,
    },
    /// No such file.
    #[error("{place} has no file {path}")]
    NoFile {
        /// The image or layer.
        place: String,
        /// As asked for.
        path: String,
    },
    /// Something without bytes.
    #[error("{path} is {what}, and not a file")]
    NotAFile {
        /// As asked for.
        path: String,
        /// "a directory".
        what: &'static str,
    },
}

impl Fault for ExtractError {
    fn class(&self) -> Class {
        match self {
            Self::NoImage { .. } | Self::Layer { found: 0, .. } | Self::NoFile { .. } => Class::NotFound,
            Self::Several { .. } | Self::Which { .. } | Self::Layer { .. } | Self::NotAFile { .. } => Class::Usage,
        }
    }
}

/// The image that `wanted` means: by a name, which then is its only one, by its ID or the beginning of it. Without
/// `wanted` the only image there is.
pub fn image(source: &BundleSource, wanted: Option<&str>) -> Result<Image, ExtractError> {
    let origin = || source.origin();
    let names = |image: &Image| match image.names.is_empty() {
        true => vec![image.config.id().to_string()],
        false => image.names.iter().map(ToString::to_string).collect(),
    };
    let there = || source.images().iter().flat_map(names).collect();
    let Some(wanted) = wanted else {
        let [image] = source.images() else {
            return Err(ExtractError::Which { origin: origin(), images: source.images().len(), there: there() });
        };
        return Ok(image.clone());
    };
    if let Ok(name) = wanted.parse::<Reference>()
        && let Some(image) = source.images().iter().find(|image| image.names.contains(&name))
    {
        return Ok(Image { names: vec![name], ..image.clone() });
    }
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let fits = |image: &&Image| !hex.is_empty() && image.config.id().0.hex().starts_with(hex);
    let found: Vec<&Image> = source.images().iter().filter(fits).collect();
    match found[..] {
        [image] => Ok(image.clone()),
        [] => Err(ExtractError::NoImage { origin: origin(), wanted: wanted.to_owned(), there: there() }),
        _ => {
            let found = found.into_iter().flat_map(names).collect();
            Err(ExtractError::Several { origin: origin(), wanted: wanted.to_owned(), found })
        }
    }
}

/// The layer that `wanted` means, and the form it is asked for in: by its diff ID, or by the digest that its registry
/// has for it, or by the beginning of either.
pub fn layer(source: &BundleSource, wanted: &str) -> Result<(Layer, Form), ExtractError> {
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let fits = |digest: &Digest| !hex.is_empty() && digest.hex().starts_with(hex);
    let mut found: Vec<(Layer, Form)> = Vec::new();
    for layer in source.images().iter().flat_map(|image| &image.layers) {
        let form = match &layer.original {
            _ if fits(&layer.diff_id.0) => Form::Tar,
            Some(original) if fits(&original.digest) => Form::Original,
            _ => continue,
        };
        // One tar has several blobs where images came by another compression of it.
        let same = |(other, as_form): &(Layer, Form)| {
            let one_blob = form == Form::Tar || blob_of(other) == blob_of(layer);
            other.diff_id == layer.diff_id && *as_form == form && one_blob
        };
        if !found.iter().any(same) {
            found.push((layer.clone(), form));
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        found => Err(ExtractError::Layer { origin: source.origin(), wanted: wanted.to_owned(), found }),
    }
}

/// A stream that ends when the user does: of one that is made of a few bytes no end may be in sight.
pub(super) struct Stoppable<'a, R> {
    pub inner: R,
    pub ctx: &'a Ctx,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.ctx.check()?;
        self.inner.read(buf)
    }
}

/// Writes a layer; fails when it has not the digest it should have, which is known when the last byte is written.
pub fn write_layer(
    source: &BundleSource,
    layer: &Layer,
    form: Form,
    out: &mut dyn Write,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let (digest, size) = match (form, &layer.original) {
        (Form::Original, Some(original)) => (original.digest, Some(original.size)),
        _ => (layer.diff_id.0, layer.size),
    };
    let inner = source.open_layer(layer, form)?;
    let mut reader = VerifyingReader::new(Stoppable { inner, ctx }, digest, size);
    io::copy(&mut reader, out).at("extract layer", digest.to_string())?;
    Ok(())
}

/// Finds a file in the file system that `layers` make, base first; symbolic links and other names are followed. `place`
/// is for messages.
pub fn find(source: &BundleSource, layers: &[DiffId], path: &str, place: &str) -> Result<(DiffId, Outlined), BoxFault> {
    let mut tree = Tree::of(source, layers.iter().copied())?;
    let absent = || ExtractError::NoFile { place: place.to_owned(), path: path.to_owned() };
    let real = resolve(&tree, path.as_bytes()).ok_or_else(absent)?;
    let (diff_id, file) = tree.files.remove(&real).ok_or_else(absent)?;
    let not = |what| ExtractError::NotAFile { path: path.to_owned(), what };
    match file.entry.kind {
        Kind::Regular => Ok((diff_id, file)),
        Kind::Directory => Err(not("a directory").into()),
        Kind::Fifo => Err(not("a named pipe").into()),
        Kind::CharDevice | Kind::BlockDevice => Err(not("a device").into()),
        // Links that lead anywhere were followed.
        _ => Err(absent().into()),
    }
}

/// Writes the bytes of a file that [`find`] found. Their ID is compared when they are all written.
pub fn write_file(
    source: &BundleSource,
    found: &(DiffId, Outlined),
    out: &mut dyn Write,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let (diff_id, file) = found;
    let Some(content) = file.content.filter(|_| file.entry.sparse.is_none()) else {
        // Sparse files, and those of a layer that is kept as its blob or in the base, are read out of the layer's tar.
        let mut tar = Stoppable { inner: source.open_tar(diff_id)?, ctx };
        let mut picker = Picker { ordinal: file.ordinal, next: 0, out, expand: None, ctx };
        return tar::scan(&mut tar, &mut picker);
    };
    let mut hasher = blake3::Hasher::new();
    let mut reader = Stoppable { inner: source.open_content(content), ctx };
    let mut buffer = vec![0; 1 << 20];
    let name = String::from_utf8_lossy(&file.entry.path);
    loop {
        let n = reader.read(&mut buffer).at("extract", name.as_ref())?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n]).at("write", name.as_ref())?;
    }
    let index = source.bundle().index();
    let kept = index.contents.id_length;
    if hasher.finalize().as_bytes()[..kept] != index.content_id(content).0[..kept] {
        return Err(BundleError::Damaged { place: format!("{name} of layer {diff_id}") }.into());
    }
    Ok(())
}

/// Writes the data of one entry of a tar, holes filled.
struct Picker<'a> {
    ordinal: u64,
    next: u64,
    out: &'a mut dyn Write,
    expand: Option<Expand>,
    ctx: &'a Ctx,
}

/// The holes of a file that are yet to come.
struct Expand {
    map: SparseMap,
    piece: usize,
    /// How much of the piece was written.
    done: u64,
    /// How much of the file was.
    at: u64,
}

impl Picker<'_> {
    fn zeros(&mut self, count: u64) -> Result<(), BoxFault> {
        let mut hole = Stoppable { inner: io::repeat(0).take(count), ctx: self.ctx };
        io::copy(&mut hole, &mut self.out).at("write", "the file")?;
        Ok(())
    }
}

impl Handler for Picker<'_> {
    fn raw(&mut self, _: &[u8]) -> Result<(), BoxFault> {
        Ok(())
    }

    fn entry(&mut self, entry: Entry, _: u64) -> Result<(), BoxFault> {
        if self.next == self.ordinal {
            let whole = SparseMap { pieces: vec![(0, entry.stored)], size: entry.stored };
            self.expand = Some(Expand { map: entry.sparse.unwrap_or(whole), piece: 0, done: 0, at: 0 });
        }
        self.next += 1;
        Ok(())
    }

    fn data(&mut self, mut bytes: &[u8]) -> Result<(), BoxFault> {
        let Some(mut expand) = self.expand.take() else { return Ok(()) };
        while let Some((offset, length)) = expand.map.pieces.get(expand.piece).copied() {
            if bytes.is_empty() {
                break;
            }
            self.zeros(offset.saturating_sub(expand.at))?;
            expand.at = expand.at.max(offset);
            let n = (length - expand.done).min(bytes.len() as u64);
            let (now, rest) = bytes.split_at(n as usize);
            self.out.write_all(now).at("write", "the file")?;
            (bytes, expand.at, expand.done) = (rest, expand.at + n, expand.done + n);
            if expand.done == length {
                (expand.piece, expand.done) = (expand.piece + 1, 0);
            }
        }
        self.expand = Some(expand);
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxFault> {
        match self.expand.take() {
            Some(expand) => self.zeros(expand.map.size - expand.at),
            None => Ok(()),
        }
    }
}

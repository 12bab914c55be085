//! An opened archive as a source of images.

use std::collections::HashMap;
use std::io::{self, Read};

use super::catalog::{self, Found, OpenOptions};
use super::container::{Container, blob_path, read_error};
use super::docs;
use super::entries::Entry;
use super::error::ArchiveError;
use crate::base::{BoxFault, Ctx, Digest, caps};
use crate::image::source::LayerVisitor;
use crate::image::{DiffId, Extent, Form, Image, ImageSource, Layer, SplitContent};
use crate::layer::compression::{self, Compression, DecodeLimits};

/// The images of one archive.
pub struct ArchiveSource {
    container: Box<dyn Container>,
    images: Vec<Image>,
    /// The same layer may be there in several forms.
    files: HashMap<(DiffId, Option<Digest>), Entry>,
    limits: DecodeLimits,
}

impl ArchiveSource {
    /// Reads the documents of `container`.
    pub fn new(
        container: Box<dyn Container>,
        options: &OpenOptions,
        limits: DecodeLimits,
        ctx: &Ctx,
    ) -> Result<Self, ArchiveError> {
        let mut files = HashMap::new();
        let mut images = Vec::new();
        for Found { names, config, manifest, layers, .. } in catalog::read(&*container, options, ctx)? {
            let mut described = Vec::new();
            for found in layers {
                files.insert(key(&found.layer), found.entry);
                described.push(found.layer);
            }
            images.push(Image { names, config, manifest, layers: described });
        }
        Ok(Self { container, images, files, limits })
    }

    fn entry(&self, layer: &Layer) -> Result<&Entry, ArchiveError> {
        let any = || self.files.iter().find(|((diff_id, _), _)| *diff_id == layer.diff_id).map(|(_, entry)| entry);
        self.files.get(&key(layer)).or_else(any).ok_or_else(|| ArchiveError::Missing {
            origin: self.container.origin().to_owned(),
            entry: format!("layer {}", layer.diff_id),
            needed_by: "the request".into(),
        })
    }

    /// Where an uncompressed layer lies in an archive that can be read anywhere.
    fn content_base(&self, layer: &Layer) -> Result<Option<Extent>, ArchiveError> {
        let entry = self.entry(layer)?;
        let Some(extent) = self.container.extent(entry) else { return Ok(None) };
        let plain = compression::detect(&self.container.head(entry)?) == Compression::None;
        Ok(plain.then_some(extent))
    }

    /// The layer as it is wanted, from the bytes of its file. A blob that is passed on as it is needs no look at it.
    fn decoded<'a>(
        &self,
        layer: &Layer,
        form: Form,
        entry: &Entry,
        mut raw: Box<dyn Read + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, ArchiveError> {
        if form == Form::Original && layer.original.is_some() {
            return Ok(raw);
        }
        let mut head = Vec::new();
        let fail = |error| read_error(self.container.origin(), &entry.path, error);
        raw.by_ref().take(super::entries::HEAD as u64).read_to_end(&mut head).map_err(fail)?;
        let compression = compression::detect(&head);
        let whole = io::Cursor::new(head).chain(raw);
        match compression {
            Compression::None => Ok(Box::new(whole)),
            packed => {
                let decoder = packed.decoder(Box::new(whole), &self.limits).map_err(fail)?;
                Ok(Box::new(compression::bounded(decoder, entry.size, "the uncompressed layer")))
            }
        }
    }
}

fn key(layer: &Layer) -> (DiffId, Option<Digest>) {
    (layer.diff_id, layer.original.as_ref().map(|original| original.digest))
}

impl ImageSource for ArchiveSource {
    fn origin(&self) -> String {
        self.container.origin().to_owned()
    }

    fn images(&self) -> &[Image] {
        &self.images
    }

    fn index(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BoxFault> {
        let path = blob_path(digest);
        let Some(entry) = self.container.find(&path)? else { return Ok(None) };
        let bytes = self.container.read(&entry, caps::MANIFEST_BYTES)?;
        docs::check_digest(&*self.container, &path, &bytes, *digest)?;
        Ok(Some(bytes))
    }

    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        let entry = self.entry(layer)?;
        Ok(self.decoded(layer, form, entry, self.container.open(entry)?)?)
    }

    fn has_contents(&self, layer: &Layer) -> bool {
        matches!(self.content_base(layer), Ok(Some(_)))
    }

    fn content(&self, layer: &Layer, content: &SplitContent<'_>) -> Result<Option<Extent>, BoxFault> {
        let Some(base) = self.content_base(layer)? else { return Ok(None) };
        let offset = base.offset.saturating_add(content.offset);
        Ok(Some(Extent { bytes: base.bytes, offset }))
    }

    fn visit_layers(
        &self,
        wanted: &[(Layer, Form)],
        threads: usize,
        ctx: &Ctx,
        visit: &LayerVisitor<'_>,
    ) -> Result<(), BoxFault> {
        let entries = wanted.iter().map(|(layer, _)| self.entry(layer).cloned()).collect::<Result<Vec<_>, _>>()?;
        let forwards = self.container.visit(&entries, ctx, &|number, raw| {
            let (layer, form) = &wanted[number];
            visit(layer, &mut *self.decoded(layer, *form, &entries[number], Box::new(raw))?)
        });
        match forwards {
            Some(result) => result,
            None => crate::image::source::visit_in_parallel(self, wanted, threads, ctx, visit),
        }
    }
}

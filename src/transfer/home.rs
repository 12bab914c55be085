//! Where images arrive: a store of ferry's, or what another engine keeps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::ground::StoreBase;
use super::wire::Offer;
use crate::base::digest::HashingReader;
use crate::base::{AtPath, BoxFault, Class, Ctx, Fault};
use crate::bundle::index::{LayerKind, ShortId};
use crate::bundle::{BaseContents, BundleSource};
use crate::image::{DiffId, Form, ImageSink, ImageSource};
use crate::store::{LoadOptions, Store};

/// What takes images.
pub trait Home: Sync {
    /// Whose images they will be, in the words of `--to`.
    fn who(&self) -> String {
        super::engine::Target::Ferry.to_string()
    }

    /// A directory on a disk with room, for what has arrived so far. Made when it is not there.
    fn folder(&self) -> PathBuf;

    /// The layers that are here for whoever offers these images.
    fn layers(&self, offer: &Offer) -> Result<BTreeSet<DiffId>, BoxFault>;

    /// Which of these contents are here, in layers that the peer may know of.
    fn find(&self, ids: &[ShortId]) -> Vec<bool> {
        vec![false; ids.len()]
    }

    /// Whether [`Home::find`] may find anything.
    fn finds(&self) -> bool {
        false
    }

    /// The base to read a bundle with that needs these contents; `told` are the layers that the peer was told of.
    fn base(
        &self,
        told: &BTreeSet<DiffId>,
        wanted: &BTreeSet<ShortId>,
        ctx: &Ctx,
    ) -> Result<Arc<dyn BaseContents>, BoxFault>;

    /// Takes the images, all or none.
    fn take(&self, source: &BundleSource, ctx: &Ctx) -> Result<(), BoxFault>;
}

/// What a peer may know of and fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reveal {
    /// Everything.
    All,
    /// These layers; all else is as good as absent.
    Layers(BTreeSet<DiffId>),
}

impl Reveal {
    fn permits(&self, layer: &DiffId) -> bool {
        match self {
            Self::All => true,
            Self::Layers(layers) => layers.contains(layer),
        }
    }
}

/// A layer that the peer claims without showing it.
#[derive(Debug, thiserror::Error)]
#[error("the peer sent other bytes than layer {0}'s under its name")]
pub struct FalseLayer(DiffId);

impl Fault for FalseLayer {
    fn class(&self) -> Class {
        Class::Integrity
    }
}

/// A store.
pub struct StoreHome<'s> {
    store: &'s Store,
    load: LoadOptions,
    reveal: Reveal,
    base: OnceLock<Arc<StoreBase>>,
}

impl<'s> StoreHome<'s> {
    /// Images go into `store`; the peer learns of what `reveal` says.
    pub fn new(store: &'s Store, load: LoadOptions, reveal: Reveal) -> Self {
        Self { store, load, reveal, base: OnceLock::new() }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        self.store
    }

    fn known(&self) -> Result<BTreeSet<DiffId>, BoxFault> {
        let mut layers = self.store.diff_ids()?;
        layers.retain(|layer| self.reveal.permits(layer));
        Ok(layers)
    }

    fn contents(&self) -> Arc<StoreBase> {
        let make = || {
            Arc::new(match &self.reveal {
                Reveal::All => StoreBase::new(self.store.clone()),
                Reveal::Layers(layers) => StoreBase::of_layers(self.store.clone(), layers.clone()),
            })
        };
        self.base.get_or_init(make).clone()
    }

    /// A layer that is here but hidden must come as a whole and be what it is called: who could name it without having
    /// it would have it then.
    fn prove_hidden(&self, source: &BundleSource, ctx: &Ctx) -> Result<(), BoxFault> {
        if self.reveal == Reveal::All {
            return Ok(());
        }
        let here = self.store.diff_ids()?;
        let mut seen = BTreeSet::new();
        let hidden = |layer: &&crate::image::Layer| {
            here.contains(&layer.diff_id) && !self.reveal.permits(&layer.diff_id) && seen.insert(layer.diff_id)
        };
        let layers = source.images().iter().flat_map(|image| &image.layers).filter(hidden);
        let wanted: Vec<_> = layers.map(|layer| (layer.clone(), Form::Tar)).collect();
        let wrong = Mutex::new(None);
        source.visit_layers(&wanted, self.load.threads, ctx, &|layer, tar| {
            let mut tar = HashingReader::new(tar);
            std::io::copy(&mut tar, &mut std::io::sink()).at("read", "the stream")?;
            if tar.finish().0 != layer.diff_id.0 {
                *wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(layer.diff_id);
            }
            Ok(())
        })?;
        match wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(layer) => Err(FalseLayer(layer).into()),
            None => Ok(()),
        }
    }
}

impl Home for StoreHome<'_> {
    fn folder(&self) -> PathBuf {
        self.store.layout().transfers()
    }

    fn layers(&self, _: &Offer) -> Result<BTreeSet<DiffId>, BoxFault> {
        self.known()
    }

    fn find(&self, ids: &[ShortId]) -> Vec<bool> {
        let base = self.contents();
        ids.iter().map(|id| base.size_of(id).is_some()).collect()
    }

    fn finds(&self) -> bool {
        true
    }

    fn base(&self, _: &BTreeSet<DiffId>, _: &BTreeSet<ShortId>, _: &Ctx) -> Result<Arc<dyn BaseContents>, BoxFault> {
        Ok(self.contents())
    }

    fn take(&self, source: &BundleSource, ctx: &Ctx) -> Result<(), BoxFault> {
        self.prove_hidden(source, ctx)?;
        self.store.sink(self.load.clone()).take(source, source.images(), ctx)?;
        Ok(())
    }
}

/// The layers of a bundle that are not in it.
pub fn left_out(source: &BundleSource) -> BTreeSet<DiffId> {
    let records = source.bundle().index().layers.iter();
    records.filter(|record| record.kind == LayerKind::Base).map(|record| record.diff_id).collect()
}

/// Free room at a path, or at the nearest directory above it that is there.
pub fn free(path: &Path) -> Result<u64, BoxFault> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    Ok(crate::sys::fs::room(there).at("look at", there)?.free)
}

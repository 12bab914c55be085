//! The two traits that everything which holds images plugs into: archives, layouts, bundles, the store, hosts.
//!
//! A source describes its images completely before a layer byte is read (names, configs, manifests, layers), so that a
//! sink can plan: what it has already, what it needs, whether there is room. It then pulls the layers it wants.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::config::ImageConfig;
use super::id::DiffId;
use super::manifest::{Descriptor, Manifest};
use super::reference::Reference;
use super::split::{Extent, SplitContent, SplitSink};
use crate::base::{BoxFault, Ctx, Digest};

/// One image, as a source describes it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Tags and digest references, in the order of the source; empty for an image without a name.
    pub names: Vec<Reference>,
    /// The config; its digest is the image's ID.
    pub config: ImageConfig,
    /// The manifest as it came from a registry or an OCI layout. It refers to the layers' originals.
    pub manifest: Option<Manifest>,
    /// One a diff ID of the config, base first; the same layer may occur twice.
    pub layers: Vec<Layer>,
}

/// One layer, as a source describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What its uncompressed tar must hash to.
    pub diff_id: DiffId,
    /// The size of the uncompressed tar in bytes, when the source knows it without reading it.
    pub size: Option<u64>,
    /// The compressed blob a registry knows the layer by, when the source can give those bytes.
    pub original: Option<Descriptor>,
}

/// In which form a layer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The uncompressed tar.
    Tar,
    /// The bytes of [`Layer::original`]; of a layer that has none, the tar.
    Original,
}

/// Called with each layer a sink has asked for and its bytes. The bytes are *unverified*: the sink hashes them and
/// compares with [`Layer::diff_id`] (and [`Layer::original`]) before it uses any. May be called from several threads.
pub type LayerVisitor<'a> = dyn Fn(&Layer, &mut (dyn Read + Send)) -> Result<(), BoxFault> + Sync + 'a;

/// Something that has images to give.
pub trait ImageSource: Sync {
    /// What the source is, for messages: a path, "standard input", `ssh://host`.
    fn origin(&self) -> String;

    /// Its images, in its order. Configs and manifests have been verified against their digests where the source
    /// states one; every image has as many layers as diff IDs.
    fn images(&self) -> &[Image];

    /// The document of an index that leads to an image, verified against its digest; `None` where it is not kept.
    fn index(&self, _digest: &Digest) -> Result<Option<Vec<u8>>, BoxFault> {
        Ok(None)
    }

    /// Opens one layer. Layers may be opened in any order and several at once; a source that can only go forward says
    /// so by overriding [`ImageSource::visit_layers`], and may be slow here.
    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault>;

    /// Gives a layer in split form without reading its contents; `false`, and nothing given, where the source does not
    /// keep layers so. What comes is *unverified*, as with [`ImageSource::open_layer`].
    fn split_layer(&self, _layer: &Layer, _sink: &mut dyn SplitSink) -> Result<bool, BoxFault> {
        Ok(false)
    }

    /// Whether [`ImageSource::content`] works for this layer. A sink that needs contents out of order asks before it
    /// reads the layer, and else keeps a copy of what passes.
    fn has_contents(&self, _layer: &Layer) -> bool {
        false
    }

    /// Where one content of a layer can be read, at any time and in any order: inside an uncompressed archive that is
    /// a file, or a file of a store. `None` exactly where [`ImageSource::has_contents`] is false.
    fn content(&self, _layer: &Layer, _content: &SplitContent<'_>) -> Result<Option<Extent>, BoxFault> {
        Ok(None)
    }

    /// Calls `visit` once for each layer of `wanted`, in the order and on as many threads (at most `threads`) as suits
    /// the source. Stops at the first error, which it returns; visits under way are finished first.
    fn visit_layers(
        &self,
        wanted: &[(Layer, Form)],
        threads: usize,
        ctx: &Ctx,
        visit: &LayerVisitor<'_>,
    ) -> Result<(), BoxFault> {
        visit_in_parallel(self, wanted, threads, ctx, visit)
    }
}

/// [`ImageSource::visit_layers`] for sources in which any layer can be opened at any time: opens each, in the order
/// they are wanted in.
pub fn visit_in_parallel<S: ImageSource + ?Sized>(
    source: &S,
    wanted: &[(Layer, Form)],
    threads: usize,
    ctx: &Ctx,
    visit: &LayerVisitor<'_>,
) -> Result<(), BoxFault> {
    let next = Mutex::new(wanted.iter());
    let failed = AtomicBool::new(false);
    let work = || -> Result<(), BoxFault> {
        while !failed.load(Ordering::Relaxed) {
            // The lock is held for the call of `next` alone and cannot be poisoned by it.
            let Some((layer, form)) = next.lock().unwrap_or_else(|e| e.into_inner()).next() else { break };
            ctx.check()?;
            visit(layer, &mut *source.open_layer(layer, *form)?)?;
        }
        Ok(())
    };
    let guarded = || work().inspect_err(|_| failed.store(true, Ordering::Relaxed));
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(wanted.len())).map(|_| scope.spawn(guarded)).collect();
        let mut result = guarded();
        for other in others {
            let ended = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })
}

/// Something that takes images.
pub trait ImageSink {
    /// What was done, for the command that asked.
    type Report;

    /// Takes `images`, which are images of `source`, all or none: after an error the sink is as it was before.
    fn take(&mut self, source: &dyn ImageSource, images: &[Image], ctx: &Ctx) -> Result<Self::Report, BoxFault>;
}

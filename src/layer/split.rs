//! A layer taken apart without a disk: segments and named contents, for bundles made straight from an archive.

use std::io::Read;

use super::tar::{self, Entry, Handler, Kind, Whole};
use crate::base::{BoxFault, ContentId};
use crate::image::split::{SplitContent, SplitSink};

/// Reads a layer's tar to its end and hands its parts to `sink`, in order. The digest that comes back is the layer's
/// diff ID, which the caller compares before it uses what the sink was given.
pub fn split(tar: &mut dyn Read, sink: &mut dyn SplitSink) -> Result<Whole, BoxFault> {
    tar::read(tar, &mut Splitter { sink, current: None })
}

struct Current {
    path: Vec<u8>,
    offset: u64,
    size: u64,
    hasher: blake3::Hasher,
}

struct Splitter<'s> {
    sink: &'s mut dyn SplitSink,
    current: Option<Current>,
}

impl Handler for Splitter<'_> {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
        self.sink.segment(bytes)
    }

    fn entry(&mut self, entry: Entry, offset: u64) -> Result<(), BoxFault> {
        self.current = (entry.stored > 0 && entry.kind == Kind::Regular).then(|| Current {
            path: entry.path,
            offset,
            size: entry.stored,
            hasher: blake3::Hasher::new(),
        });
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
        match &mut self.current {
            Some(current) => {
                current.hasher.update(bytes);
                Ok(())
            }
            None => self.sink.segment(bytes),
        }
    }

    fn end(&mut self) -> Result<(), BoxFault> {
        let Some(Current { path, offset, size, hasher }) = self.current.take() else { return Ok(()) };
        let id = ContentId::from_bytes(*hasher.finalize().as_bytes());
        self.sink.content(&SplitContent { id, size, offset, path: &path })
    }
}

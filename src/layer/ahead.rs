//! Bytes that several threads read ahead of whoever wants them, in order.
//!
//! The work is cut into batches, one at a time; any thread fills any batch. A batch's pieces come out of a channel of its
//! own, and those channels out of one that has the order: nobody waits for a place in a list, and memory is bounded.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use super::apply::Content;
use super::error::LayerError;
use crate::base::{BoxFault, Interrupted, Spare, lock};

/// How much is handed from thread to thread at once, in bytes. A batch should have no more, unless it is one file.
pub(super) const PIECE: usize = 256 << 10;
/// How many files a batch should have at most.
pub(super) const FILES: usize = 64;
/// How many batches are begun before the first of them is taken, at most.
const BATCHES: usize = 16;
/// How many pieces of one batch wait at most.
const PIECES: usize = 4;

/// How many threads fill batches, at most: with more it is whoever takes the pieces that is slow.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4)
}

/// What can be cut into batches.
pub(super) trait Cut {
    /// A batch.
    type Items;

    /// The next batch, `None` at the end.
    fn next(&mut self) -> Result<Option<Self::Items>, BoxFault>;
}

/// Where batches are cut; shared by the threads that fill them.
pub(super) struct Cutter<C> {
    cut: Mutex<Option<(C, SyncSender<Batch>)>>,
    spare: Arc<Spare>,
}

/// A batch's pieces, in order; the last one is followed by the end of the channel.
type Batch = Receiver<Result<Filled, BoxFault>>;

/// Where they go.
type Out = SyncSender<Result<Filled, BoxFault>>;

/// Bytes, and the contents that end in them.
#[derive(Default)]
pub(super) struct Filled {
    pub bytes: Vec<u8>,
    pub contents: Vec<Content>,
}

/// Begins; whoever cuts fills, whoever takes gets it in the order of the cuts.
pub(super) fn begin<C: Cut>(cut: C) -> (Cutter<C>, Taker) {
    let (batches, receiver) = sync_channel(BATCHES);
    let spare = Arc::new(Spare::default());
    let cutter = Cutter { cut: Mutex::new(Some((cut, batches))), spare: Arc::clone(&spare) };
    (cutter, Taker { batches: Some(receiver), batch: None, spare })
}

impl<C: Cut> Cutter<C> {
    /// Cuts and fills batches until there are no more, one fails, or nobody takes them. The error is told to the taker.
    pub fn work(&self, mut fill: impl FnMut(C::Items, &mut Pieces<'_>) -> Result<(), BoxFault>) {
        while let Some((items, out)) = self.cut() {
            let mut pieces = Pieces { filled: Filled::default(), out, spare: &self.spare };
            let filled = items.and_then(|items| fill(items, &mut pieces)).and_then(|()| pieces.send());
            if let Err(fault) = filled {
                // Nobody is there to hear it when nobody takes any more.
                let _ = pieces.out.send(Err(fault));
            }
        }
    }

    /// The taker is told of a batch before anybody can cut the one after it.
    fn cut(&self) -> Option<(Result<C::Items, BoxFault>, Out)> {
        let mut guard = lock(&self.cut);
        let (cut, batches) = guard.as_mut()?;
        let items = cut.next().transpose();
        let (out, batch) = sync_channel(PIECES);
        let goes_on = items.is_some() && batches.send(batch).is_ok();
        if !goes_on || matches!(items, Some(Err(_))) {
            *guard = None;
        }
        items.filter(|_| goes_on).map(|items| (items, out))
    }
}

/// Takes the pieces. Those who fill batches end when it is dropped.
pub(super) struct Taker {
    batches: Option<Receiver<Batch>>,
    batch: Option<Batch>,
    spare: Arc<Spare>,
}

impl Taker {
    /// The next piece; `None` at the end, and after an error.
    pub fn next(&mut self) -> Result<Option<Filled>, BoxFault> {
        loop {
            let Some(batch) = &self.batch else {
                let Some(Ok(next)) = self.batches.as_ref().map(Receiver::recv) else { return Ok(None) };
                self.batch = Some(next);
                continue;
            };
            match batch.recv() {
                Ok(Ok(filled)) => return Ok(Some(filled)),
                Ok(Err(fault)) => {
                    self.stop();
                    return Err(fault);
                }
                Err(_) => self.batch = None,
            }
        }
    }

    /// The bytes of a piece are not needed any more.
    pub fn give_back(&self, bytes: Vec<u8>) {
        self.spare.give_back(bytes);
    }

    /// Nothing more is wanted.
    pub fn stop(&mut self) {
        (self.batches, self.batch) = (None, None);
    }
}

/// The piece of a batch that is being filled.
pub(super) struct Pieces<'a> {
    /// What it has so far.
    pub filled: Filled,
    out: Out,
    spare: &'a Spare,
}

impl Pieces<'_> {
    /// Appends bytes.
    pub fn raw(&mut self, mut bytes: &[u8]) -> Result<(), BoxFault> {
        while !bytes.is_empty() {
            let n = bytes.len().min(self.room()?);
            self.filled.bytes.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// How many bytes more the piece can have, at least one: that much spare capacity its bytes have at least. Sends it
    /// first when it is full.
    pub fn room(&mut self) -> Result<usize, BoxFault> {
        if self.filled.bytes.len() >= PIECE {
            self.send()?;
        }
        if self.filled.bytes.capacity() == 0 {
            self.filled.bytes = self.spare.take(PIECE);
        }
        Ok(PIECE - self.filled.bytes.len())
    }

    fn send(&mut self) -> Result<(), BoxFault> {
        let full = std::mem::take(&mut self.filled);
        self.out.send(Ok(full)).map_err(|_| LayerError::Interrupted(Interrupted).into())
    }
}

//! Giving images to peers: one plan and one stream for all that need the same.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::outgoing::{Outgoing, OutgoingWriter};
use super::session::{Session, turn, why};
use super::wire::{self, End, Hint, Message, Offer, OfferedImage, Resume, Stream};
use crate::base::{AtPath, BoxFault, Ctx, Digest};
use crate::bundle::{BundleOptions, BundleSink};
use crate::image::{DiffId, Image, ImageSink, ImageSource};

/// How images are sent.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// How the stream is written.
    pub bundle: BundleOptions,
    /// Layers that are here and could be built upon, besides those of the images: newest first.
    pub hints: Vec<DiffId>,
    /// At most this many bytes a second, for each host.
    pub rate: Option<u64>,
    /// Find out what would be sent, and send nothing.
    pub dry_run: bool,
}

/// What was sent to one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// The stream, in bytes.
    pub stream: u64,
    /// Bytes of it that an earlier try had brought.
    pub resumed: u64,
    /// Everything this side sent, in bytes.
    pub wire: u64,
    /// Layers that were there already.
    pub layers_present: usize,
    /// Layers of all images.
    pub layers: usize,
    /// What the far side has loaded.
    pub loaded: Vec<String>,
}

/// The most layers that are hinted at.
const HINTS: usize = 1024;

/// Sends the same images to any number of hosts.
pub struct Sender<'s> {
    source: &'s dyn ImageSource,
    images: &'s [Image],
    options: SendOptions,
    streams: Mutex<HashMap<Digest, Outgoing>>,
}

impl<'s> Sender<'s> {
    /// Sends `images` of `source`.
    pub fn new(source: &'s dyn ImageSource, images: &'s [Image], options: SendOptions) -> Self {
        Self { source, images, options, streams: Mutex::default() }
    }

    /// Sends them to one host.
    pub fn send(&self, session: &mut Session<'_>, host: &str, ctx: &Ctx) -> Result<Sent, BoxFault> {
        let all: BTreeSet<DiffId> = self.images.iter().flat_map(|i| i.layers.iter().map(|l| l.diff_id)).collect();
        let mut base = self.negotiate(session, &all)?;
        let layers_present = all.iter().filter(|layer| base.contains(layer)).count();
        base.sort();
        let plan = self.plan(&base);
        let mut sent = Sent { layers_present, layers: all.len(), ..Sent::default() };
        std::thread::scope(|scope| {
            let (stream, writer) = self.stream(plan)?;
            if let Some(writer) = writer {
                let base = &base;
                scope.spawn(move || self.write(writer, base, ctx));
            }
            if self.options.dry_run {
                sent.stream = stream.whole().at("write", "the stream")?.0;
                return Ok(sent);
            }
            let result = self.deliver(session, &stream, plan, host, ctx, &mut sent);
            sent.wire = session.sent();
            result.map(|()| sent)
        })
    }

    /// What both sides have.
    fn negotiate(&self, session: &mut Session<'_>, all: &BTreeSet<DiffId>) -> Result<Vec<DiffId>, BoxFault> {
        let describe = |image: &Image| OfferedImage {
            names: image.names.iter().map(ToString::to_string).collect(),
            id: image.config.id(),
            layers: image.layers.iter().map(|layer| layer.diff_id).collect(),
        };
        session.send(&Message::Offer(Offer { images: self.images.iter().map(describe).collect() }))?;
        let mut base = have(session, |layer| all.contains(layer))?;
        let hints: Vec<DiffId> = self.options.hints.iter().filter(|l| !all.contains(l)).take(HINTS).copied().collect();
        if base.len() < all.len() && !hints.is_empty() {
            let known: BTreeSet<DiffId> = hints.iter().copied().collect();
            session.send(&Message::Hint(Hint { layers: hints }))?;
            base.extend(have(session, |layer| known.contains(layer))?);
        }
        Ok(base)
    }

    /// Names everything that decides the stream's bytes.
    fn plan(&self, base: &[DiffId]) -> Digest {
        let mut text = format!("ferry {} {:?}\n", env!("CARGO_PKG_VERSION"), self.options.bundle.level);
        for image in self.images {
            text.push_str(&format!(
                "{} {:?} {:?}\n",
                image.config.id(),
                image.names,
                self.options.bundle.keep_originals
            ));
        }
        for layer in base {
            text.push_str(&format!("{layer}\n"));
        }
        Digest::of(text.as_bytes())
    }

    /// The stream of a plan; with its writing end for the first who asks.
    fn stream(&self, plan: Digest) -> Result<(Outgoing, Option<OutgoingWriter>), BoxFault> {
        let mut streams = self.streams.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(stream) = streams.get(&plan) {
            return Ok((stream.clone(), None));
        }
        let folder = &self.options.bundle.spool_dir;
        let file: File = tempfile::tempfile_in(folder).at("create a file in", folder)?;
        let (stream, writer) = Outgoing::new(file);
        streams.insert(plan, stream.clone());
        Ok((stream, Some(writer)))
    }

    fn write(&self, writer: OutgoingWriter, base: &[DiffId], ctx: &Ctx) {
        let mut sink = BundleSink::new(writer, self.options.bundle.clone()).with_base_layers(base);
        let result = sink.take(self.source, self.images, ctx);
        match result {
            Ok(_) => sink.into_inner().complete(),
            Err(fault) => sink.into_inner().fail(&fault),
        }
    }

    fn deliver(
        &self,
        session: &mut Session<'_>,
        stream: &Outgoing,
        plan: Digest,
        host: &str,
        ctx: &Ctx,
        sent: &mut Sent,
    ) -> Result<(), BoxFault> {
        let reading = |action| move |result: std::io::Result<_>| result.at(action, "the stream");
        session.send(&Message::Stream(Stream { plan, length: None }))?;
        let mut at = match session.receive()? {
            Message::Resume(there) => {
                let ours = reading("read")(stream.hash_of(there.offset).map(|hash| {
                    hash.map_or(0, |hash| if hash.to_hex().as_str() == there.hash { there.offset } else { 0 })
                }))?;
                session.send(&Message::Resume(Resume { offset: ours, hash: there.hash }))?;
                ours
            }
            other => return Err(turn(&other, "Resume").into()),
        };
        sent.resumed = at;
        let task = ctx.begin("Sending", host, None);
        task.advance(at)?;
        let mut buf = vec![0; wire::DATA_BYTES];
        let mut pace = self.options.rate.map(Pace::new);
        loop {
            let n = stream.read_at(&mut buf, at).at("read", "the stream")?;
            if n == 0 {
                break;
            }
            if let Err(error) = session.queue(&Message::Data(buf[..n].to_vec())) {
                return Err(why(session, error));
            }
            at += n as u64;
            task.advance(n as u64)?;
            if let Some(pace) = &mut pace {
                pace.passed(n as u64);
            }
        }
        let (length, hash) = stream.whole().at("read", "the stream")?;
        sent.stream = length;
        if let Err(error) = session.send(&Message::End(End { length, hash: hash.to_hex().to_string() })) {
            return Err(why(session, error));
        }
        match session.receive()? {
            Message::Done(done) => {
                sent.loaded = done.loaded;
                task.complete();
                Ok(())
            }
            other => Err(turn(&other, "Done").into()),
        }
    }
}

/// The layers a peer says it has; what was not asked about is not believed.
fn have(session: &mut Session<'_>, asked: impl Fn(&DiffId) -> bool) -> Result<Vec<DiffId>, BoxFault> {
    match session.receive()? {
        Message::Have(have) => {
            let layers: BTreeSet<DiffId> = have.layers.into_iter().filter(asked).collect();
            Ok(layers.into_iter().collect())
        }
        other => Err(turn(&other, "Have").into()),
    }
}

/// Keeps a stream below a rate.
struct Pace {
    rate: u64,
    began: Instant,
    passed: u64,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), began: Instant::now(), passed: 0 }
    }

    fn passed(&mut self, bytes: u64) {
        self.passed += bytes;
        let due = Duration::from_secs_f64(self.passed as f64 / self.rate as f64);
        if let Some(early) = due.checked_sub(self.began.elapsed()) {
            std::thread::sleep(early);
        }
    }
}

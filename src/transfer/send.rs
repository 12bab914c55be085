//! Giving images to peers: one plan and one stream for all that need the same.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::engine::Target;
use super::ground::Ground;
use super::outgoing::{Outgoing, OutgoingWriter};
use super::session::{Session, turn};
use super::wire::{self, End, Have, Hint, Message, Offer, OfferedImage, Probe, Resume, Stream};
use crate::base::{AtPath, BoxFault, Ctx, Digest};
use crate::bundle::index::ShortId;
use crate::bundle::{BundleOptions, BundleSink, KnownBase, Level};
use crate::image::{DiffId, Image, ImageSink};

/// How images are sent.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// How the stream is written; its level is that of small transfers.
    pub bundle: BundleOptions,
    /// The level; without one it is chosen for the line when there is much to send.
    pub level: Option<Level>,
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
    /// Everything this side sent, or would send, in bytes.
    pub wire: u64,
    /// Layers that were there already.
    pub layers_present: usize,
    /// Layers of all images.
    pub layers: usize,
    /// The compression level.
    pub level: i32,
    /// Who gets them there, as the far side says.
    pub to: String,
    /// What the far side has loaded.
    pub loaded: Vec<String>,
    /// The ferry that was put there, by the name that a user can run it by; nothing where one is installed.
    pub uploaded: Option<String>,
}

/// The most layers that are hinted at.
const HINTS: usize = 1024;
/// From so many bytes of layers on it pays to measure the line.
const WORTH_MEASURING: u64 = 64 << 20;
/// Levels to choose from, and what one thread makes at each, compressed, in bytes a second (docs/benchmarks.md).
const SPEEDS: [(Level, u64); 6] = [
    (Level::MAX, 900_000),
    (Level::of(15), 2_500_000),
    (Level::of(12), 6_000_000),
    (Level::of(9), 13_000_000),
    (Level::DEFAULT, 33_000_000),
    (Level::FAST, 63_000_000),
];

/// The longest answer to who gets the images.
const TO_CHARS: usize = 300;

/// Sends the same images to any number of hosts.
pub struct Sender<'s> {
    ground: Ground<'s>,
    images: &'s [Image],
    options: SendOptions,
    streams: Mutex<HashMap<Digest, Outgoing>>,
    /// Measured with the first host, and good for all: hosts with the same need share a stream.
    measured: Mutex<Option<Level>>,
    /// The contents of missing layers, found out once for all hosts that miss the same.
    contents: Mutex<HashMap<Vec<DiffId>, Vec<ShortId>>>,
}

/// What both sides have, oldest layers first.
struct Common {
    /// Who the receiver is.
    to: String,
    layers: Vec<DiffId>,
    /// Contents that are somewhere else at the receiver's.
    found: Vec<ShortId>,
}

impl<'s> Sender<'s> {
    /// Sends `images` of the ground's source.
    pub fn new(ground: Ground<'s>, images: &'s [Image], options: SendOptions) -> Self {
        Self {
            ground,
            images,
            options,
            streams: Mutex::default(),
            measured: Mutex::default(),
            contents: Mutex::default(),
        }
    }

    /// Sends them to one host.
    pub fn send(&self, session: &mut Session<'_>, host: &str, ctx: &Ctx) -> Result<Sent, BoxFault> {
        let all: BTreeSet<DiffId> = self.images.iter().flat_map(|i| i.layers.iter().map(|l| l.diff_id)).collect();
        let common = self.negotiate(session, &all, ctx)?;
        let layers_present = all.iter().filter(|layer| common.layers.contains(layer)).count();
        let (plan, level) = self.settle(session, &common, ctx)?;
        let mut sent =
            Sent { layers_present, layers: all.len(), level: level.number(), to: common.to.clone(), ..Sent::default() };
        std::thread::scope(|scope| {
            let (stream, writer) = self.stream(plan)?;
            if let Some(writer) = writer {
                let common = &common;
                scope.spawn(move || self.write(writer, common, level, ctx));
            }
            if self.options.dry_run {
                return foresee(session, &stream, plan, sent);
            }
            let result = self.deliver(session, &stream, plan, host, ctx, &mut sent);
            sent.wire = session.sent();
            result.map(|()| sent)
        })
    }

    /// How many streams were begun, and how many bytes those that are complete have.
    pub fn streams(&self) -> (usize, u64) {
        let streams = self.streams.lock().unwrap_or_else(|e| e.into_inner());
        (streams.len(), streams.values().filter_map(Outgoing::length).sum())
    }

    /// What both sides have.
    fn negotiate(&self, session: &mut Session<'_>, all: &BTreeSet<DiffId>, ctx: &Ctx) -> Result<Common, BoxFault> {
        let describe = |image: &Image| OfferedImage {
            names: image.names.iter().map(ToString::to_string).collect(),
            id: image.config.id(),
            layers: image.layers.iter().map(|layer| layer.diff_id).collect(),
        };
        session.send(&Message::Offer(Offer { images: self.images.iter().map(describe).collect() }))?;
        let Have { layers: offered, mut others, to, .. } = have(session, |layer| all.contains(layer))?;
        let hints: Vec<DiffId> = self.options.hints.iter().filter(|l| !all.contains(l)).take(HINTS).copied().collect();
        let mut hinted = Vec::new();
        if offered.len() < all.len() && !hints.is_empty() {
            let known: BTreeSet<DiffId> = hints.iter().copied().collect();
            session.send(&Message::Hint(Hint { layers: hints.clone() }))?;
            Have { layers: hinted, others, .. } = have(session, |layer| known.contains(layer))?;
        }
        // The newest come last: of several versions of a file they are the likelier.
        let mut layers: Vec<DiffId> = hints.into_iter().rev().filter(|layer| hinted.contains(layer)).collect();
        for layer in self.images.iter().flat_map(|image| &image.layers) {
            if offered.contains(&layer.diff_id) && !layers.contains(&layer.diff_id) {
                layers.push(layer.diff_id);
            }
        }
        let missing: Vec<DiffId> = all.iter().filter(|layer| !offered.contains(layer)).copied().collect();
        let mut found = Vec::new();
        if others > 0 && !missing.is_empty() {
            let mut ids = self.contents(missing, ctx)?;
            ids.truncate(wire::CONTENTS);
            if !ids.is_empty() {
                session.send(&Message::Contents(ids.clone()))?;
                found = match session.receive()? {
                    Message::Found(bits) => ids.into_iter().zip(bits).filter(|(_, is)| *is).map(|(id, _)| id).collect(),
                    other => return Err(turn(&other, "Found").into()),
                };
            }
        }
        let to: String = to.unwrap_or_else(|| Target::Ferry.to_string()).chars().take(TO_CHARS).collect();
        Ok(Common { to, layers, found })
    }

    fn contents(&self, missing: Vec<DiffId>, ctx: &Ctx) -> Result<Vec<ShortId>, BoxFault> {
        let mut known = self.contents.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(ids) = known.get(&missing) {
            return Ok(ids.clone());
        }
        let ids = self.ground.contents(&missing, ctx)?;
        known.insert(missing, ids.clone());
        Ok(ids)
    }

    /// The level and with it the plan, which says the same of the same transfer until it is done.
    fn settle(&self, session: &mut Session<'_>, common: &Common, ctx: &Ctx) -> Result<(Digest, Level), BoxFault> {
        let with = |level| (self.plan(common, level), level);
        let usual = self.options.bundle.level;
        if let Some(level) = self.options.level {
            return Ok(with(level));
        }
        if !common.layers.is_empty() || !common.found.is_empty() {
            // A release to a host that has the one before it: the probe could be more than all there is to send.
            return Ok(with(usual));
        }
        let mut seen = BTreeSet::new();
        let layers = self.images.iter().flat_map(|image| &image.layers);
        let missing = layers.filter(|layer| seen.insert(layer.diff_id));
        let size = |layer: &crate::image::Layer| layer.size.or(layer.original.as_ref().map(|blob| blob.size));
        if missing.map(|layer| size(layer).unwrap_or(WORTH_MEASURING)).sum::<u64>() < WORTH_MEASURING {
            return Ok(with(usual));
        }
        let plans: Vec<(Digest, Level)> = SPEEDS.iter().map(|(level, _)| with(*level)).collect();
        session.send(&Message::Probe(Probe { plans: plans.iter().map(|(plan, _)| *plan).collect() }))?;
        let begun = probed(session)?;
        if let Some(known) = plans.into_iter().find(|(plan, _)| begun.plans.contains(plan)) {
            return Ok(known);
        }
        let mut measured = self.measured.lock().unwrap_or_else(|e| e.into_inner());
        let level = match (*measured, self.options.rate) {
            (Some(level), _) => {
                session.send(&Message::Probe(Probe::default()))?;
                level
            }
            (None, Some(rate)) => {
                session.send(&Message::Probe(Probe::default()))?;
                self.level_for(rate)
            }
            (None, None) => self.level_for(measure(session, ctx)?),
        };
        *measured = Some(level);
        Ok(with(level))
    }

    /// The strongest level that keeps a line of `rate` bytes a second busy.
    fn level_for(&self, rate: u64) -> Level {
        let made = |speed: u64| speed.saturating_mul(self.options.bundle.threads as u64);
        SPEEDS.iter().find(|(_, speed)| made(*speed) >= rate).map_or(Level::FAST, |(level, _)| *level)
    }

    /// Whether compressed layers go along: docker has no place for them.
    fn originals(&self, common: &Common) -> bool {
        self.options.bundle.keep_originals && common.to != Target::Docker.to_string()
    }

    /// Names everything that decides the stream's bytes.
    fn plan(&self, common: &Common, level: Level) -> Digest {
        let mut text = format!("ferry {} {level} {}\n", env!("CARGO_PKG_VERSION"), self.originals(common));
        for image in self.images {
            text.push_str(&format!("{} {:?}\n", image.config.id(), image.names));
        }
        for layer in &common.layers {
            text.push_str(&format!("{layer}\n"));
        }
        for id in &common.found {
            text.push_str(&format!("{}\n", hex::encode(id.0)));
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

    fn write(&self, writer: OutgoingWriter, common: &Common, level: Level, ctx: &Ctx) {
        let bases = || -> Result<Vec<KnownBase>, BoxFault> {
            let mut bases = self.ground.of(&common.layers, ctx)?;
            if !common.found.is_empty() {
                bases.push(KnownBase::of_found(&common.found));
            }
            Ok(bases)
        };
        match bases() {
            Ok(bases) => {
                let options =
                    BundleOptions { level, keep_originals: self.originals(common), ..self.options.bundle.clone() };
                let mut sink = BundleSink::new(writer, options).against(bases);
                match sink.take(self.ground.source, self.images, ctx) {
                    Ok(_) => sink.into_inner().complete(),
                    Err(fault) => sink.into_inner().fail(&fault),
                }
            }
            Err(fault) => writer.fail(&fault),
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
        let resume = resume(session, stream, Stream { plan, length: None, ask: false })?;
        let mut at = resume.offset;
        session.send(&Message::Resume(resume))?;
        sent.resumed = at;
        let task = ctx.begin("Sending", host, None);
        task.advance(at)?;
        let mut buf = vec![0; wire::DATA_BYTES];
        let mut pace = self.options.rate.map(Pace::new);
        let mut sized = false;
        loop {
            if !sized && let Some(length) = stream.length() {
                task.total(length);
                sized = true;
            }
            let n = stream.fill_at(&mut buf, at).at("read", "the stream")?;
            if n == 0 {
                break;
            }
            session.queue(&Message::Data(buf[..n].to_vec()))?;
            at += n as u64;
            task.advance(n as u64)?;
            if let Some(pace) = &mut pace {
                pace.passed(n as u64);
            }
        }
        let (length, hash) = stream.whole().at("read", "the stream")?;
        sent.stream = length;
        session.send(&Message::End(End { length, hash: hash.to_hex().to_string() }))?;
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

/// From where the receiver needs the stream: behind what it has, if that is how ours begins.
fn resume(session: &mut Session<'_>, stream: &Outgoing, question: Stream) -> Result<Resume, BoxFault> {
    session.send(&Message::Stream(question))?;
    match session.receive()? {
        Message::Resume(there) => {
            let ours = stream.hash_of(there.offset).at("read", "the stream")?;
            let same = ours.is_some_and(|hash| hash.to_hex().as_str() == there.hash);
            Ok(Resume { offset: if same { there.offset } else { 0 }, ..there })
        }
        other => Err(turn(&other, "Resume").into()),
    }
}

/// What sending the stream would take, to the byte.
fn foresee(session: &mut Session<'_>, stream: &Outgoing, plan: Digest, mut sent: Sent) -> Result<Sent, BoxFault> {
    let before = session.sent();
    let resume = resume(session, stream, Stream { plan, length: None, ask: true })?;
    let (length, hash) = stream.whole().at("read", "the stream")?;
    (sent.stream, sent.resumed) = (length, resume.offset);
    let rest = length - resume.offset;
    let frame = Message::Data(Vec::new()).length()?;
    let messages = [
        Message::Stream(Stream { plan, length: None, ask: false }),
        Message::Resume(resume),
        Message::End(End { length, hash: hash.to_hex().to_string() }),
    ];
    sent.wire = before + rest + rest.div_ceil(wire::DATA_BYTES as u64) * frame;
    for message in messages {
        sent.wire += message.length()?;
    }
    Ok(sent)
}

/// What a peer says it has; what was not asked about is not believed.
fn have(session: &mut Session<'_>, asked: impl Fn(&DiffId) -> bool) -> Result<Have, BoxFault> {
    match session.receive()? {
        Message::Have(have) => Ok(Have { layers: have.layers.into_iter().filter(asked).collect(), ..have }),
        other => Err(turn(&other, "Have").into()),
    }
}

fn probed(session: &mut Session<'_>) -> Result<Probe, BoxFault> {
    match session.receive()? {
        Message::Probe(probe) => Ok(probe),
        other => Err(turn(&other, "Probe").into()),
    }
}

/// What the line carries, in bytes a second: the later half of a probe, when its windows have opened.
fn measure(session: &mut Session<'_>, ctx: &Ctx) -> Result<u64, BoxFault> {
    let piece = Message::Data(noise(wire::PROBE_PIECE));
    for _ in 0..wire::PROBE_PIECES {
        ctx.check()?;
        session.queue(&piece)?;
    }
    session.flush()?;
    let half = wire::PROBE_PIECES / 2;
    let mut from = Instant::now();
    for arrived in 1..=wire::PROBE_PIECES {
        probed(session)?;
        if arrived == half {
            from = Instant::now();
        }
    }
    let bytes = ((wire::PROBE_PIECES - half) * wire::PROBE_PIECE) as f64;
    Ok((bytes / from.elapsed().as_secs_f64().max(1e-6)) as u64)
}

/// Bytes that nothing on the way can make fewer.
fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
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

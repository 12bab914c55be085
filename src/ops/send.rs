//! `ferry send`, `ferry fetch` and the agent that answers them.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::glob;
use super::open::Held;
use crate::base::{BoxFault, Class, Ctx, Fault};
use crate::image::{DiffId, Image, ImageSource, Reference};
use crate::runtime::events;
use crate::store::{Store, StoreError, StoreSource};
use crate::transfer::bootstrap::{Agent, AgentOptions, start_agent};
use crate::transfer::connect::Reach;
use crate::transfer::engine::Target;
use crate::transfer::ground::Ground;
use crate::transfer::home::{Home, Reveal, StoreHome};
use crate::transfer::receive::{Received, receive};
use crate::transfer::send::{SendOptions, Sender, Sent};
use crate::transfer::session::Session;
use crate::transfer::ssh_config::Destination;
use crate::transfer::wire::{List, Message, WireError};

/// Images on their way to several hosts.
pub struct Shipment<'s> {
    /// What holds them, and what can be built upon.
    pub ground: Ground<'s>,
    /// The images.
    pub images: &'s [Image],
    /// How hosts are reached.
    pub reach: &'s Reach,
    /// How the far side is prepared.
    pub agent: &'s AgentOptions,
    /// Who gets them there.
    pub to: Target,
    /// How they are sent.
    pub options: SendOptions,
    /// How many hosts at once.
    pub parallel: usize,
}

/// Sends to every host; one that fails does not stop the others. `told` hears of each as it ends.
pub fn send(
    shipment: &Shipment<'_>,
    hosts: &[Destination],
    ctx: &Ctx,
    told: &(dyn Fn(&Destination, Result<&Sent, &BoxFault>) + Sync),
) -> Vec<Result<Sent, BoxFault>> {
    let sender = Sender::new(shipment.ground.clone(), shipment.images, shipment.options.clone());
    let results: Vec<Mutex<Option<Result<Sent, BoxFault>>>> = hosts.iter().map(|_| Mutex::new(None)).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (Some(host), Some(slot)) = (hosts.get(at), results.get(at)) else { break };
            let result = to_host(shipment, &sender, host, ctx);
            told(host, result.as_ref());
            *slot.lock().unwrap_or_else(|e| e.into_inner()) = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..shipment.parallel.clamp(1, hosts.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let taken = results.into_iter().map(|slot| slot.into_inner().unwrap_or_else(|e| e.into_inner()));
    // Every slot is filled: the threads end only when no host is left.
    taken.flatten().collect()
}

fn to_host(shipment: &Shipment<'_>, sender: &Sender<'_>, host: &Destination, ctx: &Ctx) -> Result<Sent, BoxFault> {
    let mut remote = shipment.reach.connect(host)?;
    let to = match &shipment.to {
        Target::Ferry => Vec::new(),
        other => vec!["--to".to_owned(), other.to_string()],
    };
    let talk = |session: &mut Session<'_>| sender.send(session, &host.to_string(), ctx);
    let (sent, uploaded) = converse(&mut *remote, shipment.agent, &to, ctx, talk)?;
    Ok(Sent { uploaded, ..sent })
}

/// Runs an agent on a host for one conversation; says where the ferry is that was put there for it. What the far side said on its standard error is told when the
/// conversation broke.
fn converse<T>(
    remote: &mut dyn crate::transfer::Remote,
    options: &AgentOptions,
    arguments: &[String],
    ctx: &Ctx,
    talk: impl FnOnce(&mut Session<'_>) -> Result<T, BoxFault>,
) -> Result<(T, Option<String>), BoxFault> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let agent = start_agent(remote, options, &arguments, ctx)?;
    let uploaded = agent.uploaded.clone();
    converse_with(agent, remote.host(), talk).map(|result| (result, uploaded))
}

/// Has the conversation with an agent.
fn converse_with<T>(
    agent: Agent,
    host: &str,
    talk: impl FnOnce(&mut Session<'_>) -> Result<T, BoxFault>,
) -> Result<T, BoxFault> {
    let mut process = agent.process;
    let to = process.stdin.take().ok_or_else(|| WireError::Io(std::io::ErrorKind::BrokenPipe.into()))?;
    let result = {
        let mut session = Session::near(Box::new(&mut process.stdout), to)?;
        talk(&mut session)
    };
    match process.wait() {
        Ok((code, stderr)) if code != 0 && !stderr.is_empty() && result.is_err() => {
            tracing::info!("{host}: the agent said: {stderr}");
        }
        Ok(_) => {}
        Err(error) if result.is_ok() => return Err(error.into()),
        Err(_) => {}
    }
    result
}

/// Takes images from a host.
pub fn fetch(
    reach: &Reach,
    agent: &AgentOptions,
    host: &Destination,
    names: &[String],
    home: &StoreHome<'_>,
    ctx: &Ctx,
) -> Result<Received, BoxFault> {
    let mut remote = reach.connect(host)?;
    let talk = |session: &mut Session<'_>| listed(session, names, home, ctx);
    converse(&mut *remote, agent, &[], ctx, talk).map(|(received, _)| received)
}

/// Notes as docker's events what has come into a store.
fn note(store: &Store, received: &Received) {
    for image in &received.images {
        let id = image.to_string();
        events::record_image(store.root(), "load", &id, &id);
    }
}

/// Asks for images, and takes what is offered.
fn listed(session: &mut Session<'_>, names: &[String], home: &StoreHome<'_>, ctx: &Ctx) -> Result<Received, BoxFault> {
    session.send(&Message::List(List { images: names.to_vec() }))?;
    match session.receive()? {
        Message::Offer(offer) => {
            let received = receive(session, &offer, home, ctx);
            if let Err(fault) = &received {
                session.fail(&**fault);
            }
            let asked = || WireError::Turn { got: "a question", expected: "Stream" };
            let received = received?.ok_or_else(asked)?;
            note(home.store(), &received);
            Ok(received)
        }
        other => Err(WireError::Turn { got: other.name(), expected: "Offer" }.into()),
    }
}

/// Takes the images of the archive or bundle at `path` on a host, by a ferry there that looks into it: only what is
/// missing here crosses. Nothing where no ferry can run there, or not read that file: it can still be read from here.
pub fn fetch_archive(
    remote: &mut dyn crate::transfer::Remote,
    agent: &AgentOptions,
    path: &str,
    home: &StoreHome<'_>,
    ctx: &Ctx,
) -> Result<Option<Received>, BoxFault> {
    let from_here = |fault: &dyn Fault, host: &str| {
        tracing::info!("{host}: no ferry there reads {path}, so it is read from here: {fault}");
        Ok(None)
    };
    let host = remote.host().to_owned();
    let agent = match start_agent(remote, agent, &["--input", path], ctx) {
        Ok(agent) => agent,
        Err(fault) => return from_here(&*fault, &host),
    };
    match converse_with(agent, &host, |session| listed(session, &[], home, ctx)) {
        Err(fault)
            if (&*fault as &dyn std::error::Error).downcast_ref::<WireError>().is_some_and(WireError::is_peers) =>
        {
            from_here(&*fault, &host)
        }
        result => result.map(Some),
    }
}

/// The images that `texts` mean, and the store as their source.
pub fn chosen<'s>(store: &'s Store, texts: &[String], ctx: &Ctx) -> Result<(StoreSource<'s>, Vec<Image>), BoxFault> {
    let source = store.source_as(&super::save::select(store, texts, None, ctx)?, ctx)?;
    let images = source.images().to_vec();
    Ok((source, images))
}

/// The layers of a store's images that a stream may build upon, those of the newest images first.
pub fn hints(store: &Store, ctx: &Ctx) -> Result<Vec<DiffId>, BoxFault> {
    let mut hints = Vec::new();
    for image in store.images(ctx)? {
        for diff_id in image.config.diff_ids() {
            if !hints.contains(diff_id) {
                hints.push(*diff_id);
            }
        }
    }
    Ok(hints)
}

/// What a peer may know of and fetch.
#[derive(Debug, Clone, Default)]
pub struct Visible {
    /// Patterns of image names; without any, everything.
    pub images: Option<Vec<String>>,
}

impl Visible {
    fn permits(&self, name: &Reference) -> Result<bool, BoxFault> {
        let Some(patterns) = &self.images else { return Ok(true) };
        for pattern in patterns {
            if glob::matches(pattern, &name.to_string())? || glob::matches(pattern, &name.full())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The layers of the images that it lets be known.
    pub fn reveal(&self, store: &Store, ctx: &Ctx) -> Result<Reveal, BoxFault> {
        if self.images.is_none() {
            return Ok(Reveal::All);
        }
        let mut layers = BTreeSet::new();
        for image in store.images(ctx)? {
            for name in &image.names {
                if self.permits(name)? {
                    layers.extend(image.config.diff_ids().iter().copied());
                }
            }
        }
        Ok(Reveal::Layers(layers))
    }

    /// Images that are hidden are not there.
    fn check(&self, images: &[Image], asked: &[String]) -> Result<(), BoxFault> {
        for image in images {
            let mut hidden = self.images.is_some() && image.names.is_empty();
            for name in &image.names {
                hidden |= !self.permits(name)?;
            }
            if hidden {
                return Err(StoreError::NoImage(asked.join(" ")).into());
            }
        }
        Ok(())
    }
}

/// Answers one peer: takes what it offers, if it `may`, or gives what it lists from the store, where there is one.
pub fn answer(
    session: &mut Session<'_>,
    home: &dyn Home,
    store: Option<(&Store, &Visible)>,
    may: &dyn Fn() -> Result<(), BoxFault>,
    sending: &SendOptions,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    match session.receive()? {
        Message::Offer(offer) => {
            may()?;
            if let (Some(received), Some((store, _))) = (receive(session, &offer, home, ctx)?, store) {
                note(store, &received);
            }
            Ok(())
        }
        Message::List(list) => match store {
            Some((store, visible)) => give(session, &list, store, visible, sending, ctx),
            None => Err(WireError::Turn { got: "List", expected: "Offer" }.into()),
        },
        other => Err(WireError::Turn { got: other.name(), expected: "Offer or List" }.into()),
    }
}

/// Gives a peer the images that it lists of an archive or a bundle, all of them when it lists none.
pub fn give_archive(
    session: &mut Session<'_>,
    archive: &Held,
    options: &SendOptions,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let list = match session.receive()? {
        Message::List(list) => list,
        other => return Err(WireError::Turn { got: other.name(), expected: "List" }.into()),
    };
    let images = picked(archive.source(), &list.images)?;
    let mut options = options.clone();
    archive_hints(archive.source(), &mut options.hints);
    let threads = options.bundle.threads;
    let ground = Ground { store: None, source: archive.source(), bundle: archive.bundle(), threads };
    Sender::new(ground, &images, options).send(session, "the far side", ctx).map(|_| ())
}

/// Adds the layers of an archive that a stream may build upon, the newest first.
pub fn archive_hints(source: &dyn ImageSource, hints: &mut Vec<DiffId>) {
    for layer in source.images().iter().rev().flat_map(|image| &image.layers) {
        if !hints.contains(&layer.diff_id) {
            hints.push(layer.diff_id);
        }
    }
}

fn give(
    session: &mut Session<'_>,
    list: &List,
    store: &Store,
    visible: &Visible,
    options: &SendOptions,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let (source, images) = chosen(store, &list.images, ctx)?;
    visible.check(&images, &list.images)?;
    let mut hints = hints(store, ctx)?;
    if let Reveal::Layers(layers) = visible.reveal(store, ctx)? {
        hints.retain(|layer| layers.contains(layer));
    }
    let options = SendOptions { hints, ..options.clone() };
    let ground = Ground { store: Some(store), source: &source, bundle: None, threads: options.bundle.threads };
    Sender::new(ground, &images, options).send(session, "the far side", ctx).map(|_| ())
}

/// The images of a source that `texts` mean, by name or by the beginning of an ID; all of them without any.
pub fn picked(source: &dyn ImageSource, texts: &[String]) -> Result<Vec<Image>, BoxFault> {
    if texts.is_empty() {
        return Ok(source.images().to_vec());
    }
    let mut picked: Vec<Image> = Vec::new();
    for text in texts {
        let name = text.parse::<Reference>().ok().map(Reference::or_latest);
        let id = text.strip_prefix("sha256:").unwrap_or(text);
        let named = |image: &&Image| name.as_ref().is_some_and(|name| image.names.contains(name));
        let meant = source.images().iter().find(named);
        let by_id = |image: &&Image| id.len() >= 6 && image.config.id().0.hex().starts_with(id);
        let image = match (meant, source.images().iter().find(by_id)) {
            (Some(image), _) => Image { names: name.into_iter().collect(), ..image.clone() },
            (None, Some(image)) => image.clone(),
            (None, None) => return Err(NotThere { image: text.clone(), origin: source.origin() }.into()),
        };
        // One config may be there with several manifests, each under a name of its own.
        let same = |other: &&mut Image| other.config.id() == image.config.id() && other.manifest == image.manifest;
        match picked.iter_mut().find(same) {
            Some(other) => {
                let new: Vec<Reference> = image.names.into_iter().filter(|n| !other.names.contains(n)).collect();
                other.names.extend(new);
            }
            None => picked.push(image),
        }
    }
    Ok(picked)
}

/// An image that an archive does not have.
#[derive(Debug, thiserror::Error)]
#[error("{origin} has no image {image}")]
pub struct NotThere {
    image: String,
    origin: String,
}

impl Fault for NotThere {
    fn class(&self) -> Class {
        Class::NotFound
    }
}

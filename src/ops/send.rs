//! `ferry send`, `ferry fetch` and the agent that answers them.

use std::io::{Read, Write};
use std::sync::Mutex;

use crate::base::{BoxFault, Ctx};
use crate::image::{DiffId, Image, ImageSource};
use crate::store::{Store, StoreSource};
use crate::transfer::bootstrap::{AgentOptions, start_agent};
use crate::transfer::connect::Reach;
use crate::transfer::receive::{ReceiveOptions, Received, receive};
use crate::transfer::send::{SendOptions, Sender, Sent};
use crate::transfer::session::Session;
use crate::transfer::ssh_config::Destination;
use crate::transfer::wire::{List, Message, WireError};

/// Images on their way to several hosts.
pub struct Shipment<'s> {
    /// What holds them.
    pub source: &'s dyn ImageSource,
    /// The images.
    pub images: &'s [Image],
    /// How hosts are reached.
    pub reach: &'s Reach,
    /// How the far side is prepared.
    pub agent: &'s AgentOptions,
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
    let sender = Sender::new(shipment.source, shipment.images, shipment.options.clone());
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
    converse(&mut *remote, shipment.agent, ctx, |session| sender.send(session, &host.to_string(), ctx))
}

/// Runs an agent on a host for one conversation. What the far side said on its standard error is told when the
/// conversation broke.
fn converse<T>(
    remote: &mut dyn crate::transfer::Remote,
    options: &AgentOptions,
    ctx: &Ctx,
    talk: impl FnOnce(&mut Session<'_>) -> Result<T, BoxFault>,
) -> Result<T, BoxFault> {
    let mut process = start_agent(remote, options, &[], ctx)?;
    let to = process.stdin.take().ok_or_else(|| WireError::Io(std::io::ErrorKind::BrokenPipe.into()))?;
    let result = {
        let mut session = Session::near(Box::new(&mut process.stdout), to)?;
        talk(&mut session)
    };
    match process.wait() {
        Ok((code, stderr)) if code != 0 && !stderr.is_empty() && result.is_err() => {
            tracing::info!("{}: the agent said: {stderr}", remote.host());
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
    store: &Store,
    options: &ReceiveOptions,
    ctx: &Ctx,
) -> Result<Received, BoxFault> {
    let mut remote = reach.connect(host)?;
    converse(&mut *remote, agent, ctx, |session| {
        session.send(&Message::List(List { images: names.to_vec() }))?;
        match session.receive()? {
            Message::Offer(offer) => {
                let received = receive(session, &offer, store, options, ctx);
                if let Err(fault) = &received {
                    session.fail(&**fault);
                }
                received
            }
            other => Err(WireError::Turn { got: other.name(), expected: "Offer" }.into()),
        }
    })
}

/// The images that `texts` mean, and the store as their source.
pub fn chosen<'s>(store: &'s Store, texts: &[String], ctx: &Ctx) -> Result<(StoreSource<'s>, Vec<Image>), BoxFault> {
    let selected = super::save::select(store, texts, None, ctx)?;
    let (stored, names): (Vec<_>, Vec<_>) = selected.into_iter().unzip();
    let source = store.source(&stored, ctx)?;
    let images = source.images().iter().zip(names).map(|(image, names)| Image { names, ..image.clone() }).collect();
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

/// Answers one peer on a duplex stream: takes what it offers, or gives what it lists.
pub fn answer(
    from: Box<dyn Read + Send>,
    to: Box<dyn Write + Send>,
    store: &Store,
    receiving: &ReceiveOptions,
    sending: &SendOptions,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let mut session = Session::far(from, to)?;
    let result = match session.receive()? {
        Message::Offer(offer) => receive(&mut session, &offer, store, receiving, ctx).map(|_| ()),
        Message::List(list) => give(&mut session, &list, store, sending, ctx),
        other => Err(WireError::Turn { got: other.name(), expected: "Offer or List" }.into()),
    };
    if let Err(fault) = &result {
        session.fail(&**fault);
    }
    result
}

fn give(
    session: &mut Session<'_>,
    list: &List,
    store: &Store,
    options: &SendOptions,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let (source, images) = chosen(store, &list.images, ctx)?;
    let options = SendOptions { hints: hints(store, ctx)?, ..options.clone() };
    Sender::new(&source, &images, options).send(session, "the far side", ctx).map(|_| ())
}

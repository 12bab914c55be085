//! Taking down what nobody uses any more, in the background.
//!
//! Removing a link takes the kernel tens of milliseconds, for which nobody should wait whose container has ended; and a
//! bridge that goes with its last container would be made again for the next. So [`Networks::detach`] leaves both to
//! whoever calls [`Networks::sweep`]: a monitor, after all else is done. Links go at once, bridges after a while without a
//! container.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::time::Duration;

use super::Networks;
use super::definition::{Held, Network, short};
use super::error::{NetError, Trying};
use super::link::Links;
use crate::base::error::AtPath;
use crate::sys::lock::{FileLock, LockKind};

/// How long a bridge stays without a container.
const IDLE: Duration = Duration::from_secs(2);
/// After how long a ferry command takes down what the sweeper should have.
pub(super) const FORSAKEN: Duration = Duration::from_secs(6);
/// A sweeper's life at most.
const ROUNDS: usize = 200;

impl Networks {
    /// Takes down what is idle, and waits for what soon will be: seconds. Does nothing where another process is at it.
    /// For a process that has nothing else to do any more.
    pub fn sweep(&self) -> Result<(), NetError> {
        if !self.directory.path().exists() {
            return Ok(());
        }
        let path = self.directory.path().join(".sweep");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).at("open", &path)?;
        let Ok(_lock) = FileLock::attempt(file, LockKind::Exclusive).at("lock", &path)? else { return Ok(()) };
        for _ in 0..ROUNDS {
            let mut wait = None;
            for network in self.directory.list()? {
                let held = self.directory.lock()?;
                self.remove_links(&network, &held)?;
                if self.directory.leases(&network.name)?.is_empty() && self.is_up(&network)? {
                    match IDLE.checked_sub(self.directory.idle_for(&network.name)?) {
                        None | Some(Duration::ZERO) => self.take_down(&network)?,
                        Some(rest) => wait = Some(wait.map_or(rest, |wait: Duration| wait.min(rest))),
                    }
                }
                drop(held);
            }
            let Some(wait) = wait else { return Ok(()) };
            std::thread::sleep(wait);
        }
        Ok(())
    }

    /// Whether the network's bridge is in the host.
    pub(super) fn is_up(&self, network: &Network) -> Result<bool, NetError> {
        let mark = network.mark();
        Ok(Links::here()?.find(&network.device)?.is_some_and(|link| link.alias == mark))
    }

    /// Removes the links of containers that have no lease any more.
    pub(super) fn remove_links(&self, network: &Network, _: &Held) -> Result<(), NetError> {
        let mut links = Links::here()?;
        let leases = self.directory.leases(&network.name)?;
        let live: HashSet<_> = leases.iter().map(|lease| short(&lease.container)).collect();
        let mark = network.mark();
        let mut list = links.list()?;
        list.retain(|link| {
            let container = link.alias.strip_prefix(&mark).and_then(|rest| rest.strip_prefix(' '));
            container.is_some_and(|container| !live.contains(container))
        });
        for link in list {
            links.remove_index(link.index).trying(format!("remove the link {}", link.name))?;
        }
        Ok(())
    }
}

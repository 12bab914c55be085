//! What is left in the host of containers that are no more: told of, and taken down.

use std::collections::HashSet;

use super::Networks;
use super::definition::{Network, short};
use super::error::NetError;
use super::firewall::Firewall;
use super::link::Links;
use super::sweep::FORSAKEN;

/// Something that is left in a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Left {
    /// The network's name.
    pub network: String,
    /// What: an address, a link, rules, the bridge.
    pub what: String,
}

impl Networks {
    /// What containers left for which `is_live` does not hold; it is asked with full IDs. Nothing is locked, and nothing
    /// changed: what is just being taken down by its own monitor is not told.
    pub fn left(&self, is_live: impl Fn(&str) -> bool) -> Result<Vec<Left>, NetError> {
        let mut found = Vec::new();
        for network in self.list()? {
            let (leases, mark) = (self.directory.leases(&network.name)?, network.mark());
            let mut left = |what: String| found.push(Left { network: network.name.clone(), what });
            for lease in leases.iter().filter(|lease| !is_live(&lease.container)) {
                left(format!("the address {} of container {}", lease.address, short(&lease.container)));
            }
            if self.directory.idle_for(&network.name)? < FORSAKEN {
                continue;
            }
            let known: HashSet<&str> = leases.iter().map(|lease| short(&lease.container)).collect();
            for link in Links::here()?.list()? {
                match container_of(&link.alias, &mark) {
                    Some(container) if !known.contains(container) => {
                        left(format!("the link {} of container {container}", link.name));
                    }
                    None if link.alias == mark && leases.is_empty() => left(format!("the bridge {}", link.name)),
                    _ => {}
                }
            }
            for container in forgotten(&Firewall::open()?.comments(), &mark, &known) {
                left(format!("rules of the packet filter for container {container}"));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Takes it down, as the next command takes down what [`Networks::cleanup`] knows of, and beside that links and rules
    /// of containers without an address.
    pub fn clear_left(&self, is_live: impl Fn(&str) -> bool) -> Result<(), NetError> {
        let cleaned = self.cleanup(is_live).map(drop);
        self.list()?.iter().map(|network| self.clear_one(network)).fold(cleaned, Result::and)
    }

    fn clear_one(&self, network: &Network) -> Result<(), NetError> {
        let held = self.directory.lock()?;
        let (leases, mark) = (self.directory.leases(&network.name)?, network.mark());
        let known: HashSet<&str> = leases.iter().map(|lease| short(&lease.container)).collect();
        let mut firewall = Firewall::open()?;
        if !forgotten(&firewall.comments(), &mark, &known).is_empty() {
            firewall
                .remove(|comment| container_of(comment, &mark).is_some_and(|container| !known.contains(container)))?;
        }
        self.remove_links(network, &held)
    }
}

/// Whose a container's mark in a network is.
fn container_of<'a>(mark: &'a str, network: &str) -> Option<&'a str> {
    mark.strip_prefix(network)?.strip_prefix(' ')
}

/// The containers without an address in a network that have rules.
fn forgotten<'a>(comments: &'a [String], mark: &str, known: &HashSet<&str>) -> Vec<&'a str> {
    let mut containers: Vec<&str> = comments.iter().filter_map(|comment| container_of(comment, mark)).collect();
    containers.retain(|container| !known.contains(container));
    containers.sort_unstable();
    containers.dedup();
    containers
}

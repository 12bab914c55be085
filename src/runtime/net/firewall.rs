//! The packet filter's part: which rules a network and a published port have.
//!
//! All of it lies in the table `ip ferry`, except what lets packets pass the filter of a host whose FORWARD policy drops
//! (because dockerd runs there): that is in its chain `DOCKER-USER`, encoded as iptables-nft does so that iptables shows
//! and removes it like its own. Each rule carries its network's or container's mark as a comment, and is taken back by it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::definition::Network;
use super::error::{NetError, Trying};
use super::ports::{ContainerPort, Protocol};
use crate::sys::nftables::{Changes, Found, Hook, Nftables, Rule, Verdict};

const TABLE: &str = "ferry";
/// Every bridge of ferry's has a name that begins so.
pub(super) const BRIDGES: &str = "ferry";
const IPTABLES: &str = "filter";
const DOCKER_USER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";

/// What the host's packet filter can do for published ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    /// Packets are rewritten by nftables.
    Nftables,
    /// They are not, for the reason given; only the proxy serves ports.
    ProxyOnly(String),
}

/// A port of the host that leads to a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Redirect {
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub to: Ipv4Addr,
    pub port: ContainerPort,
}

/// The host's packet filter, as ferry changes it.
#[derive(Debug)]
pub(super) struct Firewall {
    nft: Nftables,
    /// The networks' and ports' own rules.
    rules: Vec<Found>,
}

impl Firewall {
    /// Of this thread's network namespace.
    pub fn open() -> Result<Self, NetError> {
        let mut nft = Nftables::open().trying("open the packet filter")?;
        let rules = nft.rules(TABLE).trying("list the rules of the packet filter")?;
        Ok(Self { nft, rules })
    }

    /// The marks of the rules in ferry's table.
    pub fn comments(&self) -> Vec<String> {
        self.rules.iter().filter_map(|rule| rule.comment.clone()).collect()
    }

    /// Gives a network its rules, unless it has them.
    pub fn add_network(&mut self, network: &Network) -> Result<(), NetError> {
        let mark = network.mark();
        if !self.rules.iter().any(|rule| rule.comment.as_deref() == Some(&mark)) {
            let mut changes = Changes::new();
            base_rules(&mut changes, self.rules.is_empty());
            network_rules(&mut changes, network);
            self.commit(&changes)?;
        }
        self.pass_filter(network)
    }

    /// On a host that drops what it forwards, lets the network's packets pass. Which of them may is decided in the table
    /// `ferry`, whose drops are final.
    fn pass_filter(&mut self, network: &Network) -> Result<(), NetError> {
        let action = "look at the chains of iptables";
        let chains = self.nft.chains(IPTABLES).trying(action)?;
        let docker = chains.iter().any(|chain| chain.name == DOCKER_USER);
        let drops = chains.iter().any(|chain| chain.name == FORWARD && chain.drops);
        let chain = match (docker, drops) {
            (true, _) => DOCKER_USER,
            (false, true) => FORWARD,
            (false, false) => return Ok(()),
        };
        let mark = network.mark();
        let rules = self.nft.rules(IPTABLES).trying(action)?;
        if rules.iter().any(|rule| rule.chain == chain && rule.comment.as_deref() == Some(&mark)) {
            return Ok(());
        }
        let mut changes = Changes::new();
        for rule in [Rule::new().from_link(&network.device), Rule::new().to_link(&network.device)] {
            let rule = rule.iptables_comment(&mark).counted().verdict(Verdict::Accept);
            changes.insert(IPTABLES, chain, &rule);
        }
        self.commit(&changes)
    }

    /// Leads ports to a container.
    pub fn add_ports(&mut self, mark: &str, ports: &[Redirect]) -> Result<(), NetError> {
        let mut changes = Changes::new();
        for port in ports {
            let host = match port.host_ip {
                // 127.0.0.0/8 is the proxy's: the kernel rightly drops packets to it from elsewhere.
                IpAddr::V4(ip) if ip.is_loopback() => continue,
                IpAddr::V4(ip) => ip,
                IpAddr::V6(_) => continue,
            };
            let to_host = |rule: Rule| match host.is_unspecified() {
                true => rule.to_local(),
                false => rule.to_subnet(host, 32),
            };
            let end = |rule: Rule| {
                let rule = rule.to_port(port.port.protocol.number(), port.host_port);
                rule.redirect(port.to, port.port.port).comment(mark)
            };
            changes.append(TABLE, "prerouting", &end(to_host(Rule::new())));
            let not_loopback = Rule::new().not_to_subnet(Ipv4Addr::new(127, 0, 0, 0), 8);
            changes.append(TABLE, "output", &end(to_host(not_loopback)));
        }
        self.commit(&changes)
    }

    /// Removes every rule whose comment `condemned` names, in ferry's table and in those of iptables; and the table when
    /// nothing of a network's is left in it.
    pub fn remove(&mut self, condemned: impl Fn(&str) -> bool) -> Result<(), NetError> {
        let action = "list the rules of the packet filter";
        let hit = |rule: &&Found| rule.comment.as_deref().is_some_and(&condemned);
        let mut changes = Changes::new();
        let own = self.nft.rules(TABLE).trying(action)?;
        let networks_left = own.iter().any(|rule| !hit(&rule) && rule.comment.as_deref() != Some(BASE));
        match own.is_empty() || networks_left {
            true => own.iter().filter(hit).for_each(|rule| changes.remove_rule(TABLE, rule)),
            false => changes.remove_table(TABLE),
        }
        let foreign = self.nft.rules(IPTABLES).trying(action)?;
        foreign.iter().filter(hit).for_each(|rule| changes.remove_rule(IPTABLES, rule));
        self.commit(&changes)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), NetError> {
        self.nft.commit(changes).trying("change the packet filter")?;
        self.rules = self.nft.rules(TABLE).trying("list the rules of the packet filter")?;
        Ok(())
    }
}

/// What marks the rules that all networks share.
const BASE: &str = "ferry";

/// The table, its chains, and what holds for all networks. Priorities are nft's `dstnat`, `srcnat` and `filter`.
fn base_rules(changes: &mut Changes, rules_too: bool) {
    changes.table(TABLE);
    changes.chain(TABLE, "prerouting", "nat", Hook::Prerouting, -100);
    changes.chain(TABLE, "output", "nat", Hook::Output, -100);
    changes.chain(TABLE, "postrouting", "nat", Hook::Postrouting, 100);
    changes.chain(TABLE, "forward", "filter", Hook::Forward, 0);
    if rules_too {
        let mut forward = |rule: Rule, verdict| changes.append(TABLE, "forward", &rule.verdict(verdict).comment(BASE));
        forward(Rule::new().established(), Verdict::Accept);
        // What was published may be reached from everywhere; else networks are apart, and closed from outside.
        forward(Rule::new().to_links(BRIDGES).redirected(), Verdict::Accept);
        forward(Rule::new().from_links(BRIDGES).to_links(BRIDGES), Verdict::Drop);
        forward(Rule::new().to_links(BRIDGES), Verdict::Drop);
    }
}

/// What one network has. Its rules of the forward chain come before those all share.
fn network_rules(changes: &mut Changes, network: &Network) {
    let (device, subnet, mark) = (&network.device, network.subnet, network.mark());
    let from_here = || Rule::new().from_subnet(subnet.base(), subnet.prefix());
    // A container that reaches another of its network, or itself, by a published port: the answer must come back here.
    changes.append(TABLE, "postrouting", &from_here().to_link(device).redirected().masquerade().comment(&mark));
    let mut forward = |rule: Rule, verdict| changes.insert(TABLE, "forward", &rule.verdict(verdict).comment(&mark));
    if network.internal {
        forward(Rule::new().from_link(device), Verdict::Drop);
        forward(Rule::new().to_link(device), Verdict::Drop);
    } else {
        changes.append(TABLE, "postrouting", &from_here().not_to_link(device).masquerade().comment(&mark));
    }
    let mut forward = |rule: Rule, verdict| changes.insert(TABLE, "forward", &rule.verdict(verdict).comment(&mark));
    // Within one bridge packets pass here only on hosts that filter bridged ones too.
    forward(Rule::new().from_link(device).to_link(device), Verdict::Accept);
}

/// Leads what a container asks of its resolver's address to where ferry's resolver listens in its namespace.
pub(super) fn redirect_resolver(nft: &mut Nftables, address: Ipv4Addr, tcp: u16, udp: u16) -> std::io::Result<()> {
    let mut changes = Changes::new();
    changes.table(TABLE);
    changes.chain(TABLE, "output", "nat", Hook::Output, -100);
    for (protocol, port) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
        let rule = Rule::new().to_subnet(address, 32).to_port(protocol.number(), 53).redirect(address, port);
        changes.append(TABLE, "output", &rule);
    }
    nft.commit(&changes)
}

/// What the filter can do here. `proc_net` is `/proc/thread-self/net`.
pub(super) fn filter(proc_net: &Path) -> Filter {
    // The file lists tables of the older iptables; nft's do not appear in it.
    let legacy = std::fs::read_to_string(proc_net.join("ip_tables_names")).unwrap_or_default();
    if legacy.lines().any(|table| table == "filter") {
        let why = "this host filters packets with legacy iptables, whose rules ferry does not change";
        return Filter::ProxyOnly(why.to_owned());
    }
    match Nftables::open().and_then(|mut nft| nft.chains(TABLE)) {
        Ok(_) => Filter::Nftables,
        Err(error) => Filter::ProxyOnly(format!("this kernel has no nftables ({error})")),
    }
}

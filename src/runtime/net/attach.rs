//! Connecting containers, disconnecting them, and taking back what those left that are no more.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::bridge::random_id;
use super::definition::{Held, Lease, Network};
use super::error::{NetError, Trying};
use super::files::Resolvers;
use super::firewall::{Filter, Firewall, Redirect, filter};
use super::helper::{self, Service};
use super::link::{Links, Pair, without_ipv6};
use super::listen::{Listener, listen};
use super::mac::Mac;
use super::sweep::FORSAKEN;
use super::uplink;
use super::{Endpoint, EndpointRequest, NetworkRequest, NetworkState, Networks};
use crate::base::caps;
use crate::base::error::AtPath;
use crate::runtime::NetworkMode;
use crate::sys::netlink::within;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved says which servers it asks itself.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Names of one container in one network; what a symbolic link holds is at most 4095 bytes.
const MAX_NAMES: usize = 15;

/// The host's resolvers: those behind systemd-resolved's local one, which containers cannot reach.
fn host_resolv_conf() -> String {
    let read = |path: &str| {
        let mut file = std::fs::File::open(path).ok()?;
        let bytes = caps::read_all(&mut file, 64 << 10, "resolv.conf").ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let own = read(RESOLV_CONF).unwrap_or_default();
    match Resolvers::parse(&own).servers.as_slice() {
        [only] if only.to_string() == "127.0.0.53" => read(RESOLVED_CONF).unwrap_or(own),
        _ => own,
    }
}

/// The host's resolv.conf as [`super::resolv_conf`] wants it.
pub fn host_resolvers() -> String {
    host_resolv_conf()
}

impl Networks {
    /// Connects the network namespace `netns` as asked. It must be new: nothing but a loopback. Either all of it is
    /// done, or nothing is left of it. For the modes `host` and `container` there is nothing to do.
    ///
    /// Takes milliseconds, under the lock of all networks in part. The caller must have one thread, and must end if an
    /// error says that it could not return to its own namespace.
    pub fn attach(&self, netns: BorrowedFd<'_>, request: &NetworkRequest) -> Result<NetworkState, NetError> {
        let mut state = NetworkState { container: request.container.clone(), ..NetworkState::default() };
        match &request.mode {
            NetworkMode::Host | NetworkMode::Container(_) => return Ok(state),
            NetworkMode::None if request.isolated => {
                Links::raise_loopback(netns)?;
                return Ok(state);
            }
            NetworkMode::None => {
                Links::of(netns)?.loopback()?;
                return Ok(state);
            }
            NetworkMode::Default | NetworkMode::Bridge(_) => {}
        }
        let connected = match request.isolated {
            true => self.connect_loopback(netns, request, &mut state),
            false => self.connect_all(netns, request, &mut state),
        };
        match connected {
            Ok(()) => Ok(state),
            Err(error) => {
                // What went wrong first is what the user must know.
                let _ = self.detach(&state);
                for endpoint in &state.endpoints {
                    let _ = Links::here().and_then(|mut links| links.remove(&endpoint.host_link));
                }
                Err(error)
            }
        }
    }

    /// Without privileges over the host's network a container has its loopback, and its published ports a proxy.
    fn connect_loopback(
        &self,
        netns: BorrowedFd<'_>,
        request: &NetworkRequest,
        state: &mut NetworkState,
    ) -> Result<(), NetError> {
        Links::raise_loopback(netns)?;
        if let NetworkMode::Bridge(name) = &request.mode {
            return Err(NetError::Usage(format!(
                "network {name} needs a bridge, which only root can make: without root there is the default network"
            )));
        }
        let started = request.uplink.as_ref().map(|(pid, scratch)| uplink::start(*pid, scratch));
        let mut resolver = None;
        match started {
            Some(Some(Ok(helper))) => {
                state.helpers.push(helper);
                let resolvers = Resolvers::parse(&host_resolv_conf()).merged(&request.dns);
                let networks = self.directory.path();
                std::fs::create_dir_all(networks).at("create", networks)?;
                if !resolvers.servers.is_empty() && resolvers.servers.iter().all(|server| server.is_loopback()) {
                    resolver = Some(helper::Resolver {
                        networks: self.directory.path().to_owned(),
                        container: request.container.clone(),
                        servers: resolvers.servers,
                    });
                }
            }
            Some(Some(Err(error))) => state.notices.push(format!(
                "the container has no way out of its network: {error}; its published ports are served by a proxy"
            )),
            Some(None) | None => state.notices.push(
                "without root and without pasta or slirp4netns a container has no way out of its network; its published \
                 ports are served by a proxy"
                    .to_owned(),
            ),
        }
        let listeners = listen(&request.publish)?;
        state.ports = listeners.iter().map(|listener| listener.port).collect();
        state.ports.sort();
        if !listeners.is_empty() {
            let (program, target) = (&self.program, Ipv4Addr::LOCALHOST);
            let service = Service { program, listeners, target, resolver: None, netns, enter: true };
            state.helpers.push(service.start()?);
        }
        if resolver.is_some() {
            // Another one: this one asks from the host.
            let (program, target) = (&self.program, Ipv4Addr::LOCALHOST);
            let service = Service { program, listeners: Vec::new(), target, resolver, netns, enter: false };
            state.helpers.push(service.start()?);
            state.resolver = true;
        }
        Ok(())
    }

    fn connect_all(
        &self,
        netns: BorrowedFd<'_>,
        request: &NetworkRequest,
        state: &mut NetworkState,
    ) -> Result<(), NetError> {
        Links::of(netns)?.loopback()?;
        let first = request.mode.bridge().unwrap_or(super::DEFAULT);
        let filter = filter(Path::new("/proc/thread-self/net"));
        let mut names_wanted = false;
        let mut closed = true;
        let requests = std::iter::once((first, &request.endpoint));
        let also = request.also.iter().map(|(name, endpoint)| (name.as_str(), endpoint));
        for (name, endpoint) in requests.chain(also) {
            let network = self.connect_one(netns, request, (name, endpoint), &filter, state)?;
            names_wanted |= network.has_names();
            closed &= network.internal;
        }
        let resolvers = Resolvers::parse(&host_resolv_conf()).merged(&request.dns);
        // A resolver on the host's loopback is out of the container's reach, but not out of ferry's.
        let hidden = !resolvers.servers.is_empty() && resolvers.servers.iter().all(|server| server.is_loopback());
        let listeners = if closed { Vec::new() } else { listen(&request.publish)? };
        if !listeners.is_empty() {
            self.publish(request, &filter, &listeners, state)?;
        }
        let resolver = (names_wanted || hidden).then(|| helper::Resolver {
            networks: self.directory.path().to_owned(),
            container: request.container.clone(),
            servers: if closed { Vec::new() } else { resolvers.servers },
        });
        if let (Some(endpoint), true) = (state.endpoints.first(), resolver.is_some() || !listeners.is_empty()) {
            let target = endpoint.address;
            let program = &self.program;
            let service = Service { program, listeners, target, resolver, netns, enter: false };
            state.resolver = service.resolver.is_some();
            state.helpers.push(service.start()?);
        }
        Ok(())
    }

    /// Connects a container that runs to one more network. Either all of it is done, or nothing is left of it.
    ///
    /// The caller must have one thread, and must end if an error says that it could not return to its own namespace.
    pub fn connect(
        &self,
        netns: BorrowedFd<'_>,
        request: &NetworkRequest,
        name: &str,
        wanted: &EndpointRequest,
        state: &mut NetworkState,
    ) -> Result<(), NetError> {
        if request.isolated {
            return Err(NetError::Usage(format!("network {name} needs a bridge, which only root can make")));
        }
        if request.mode == NetworkMode::None {
            return Err(NetError::Usage("a container of the network none cannot be connected to others".to_owned()));
        }
        let found = self.get(name)?;
        if state.endpoints.iter().any(|endpoint| endpoint.network_id == found.id) {
            return Err(connection(request, "already connected to", &found.name));
        }
        let before = state.endpoints.len();
        let filter = filter(Path::new("/proc/thread-self/net"));
        let made = self
            .connect_one(netns, request, (&found.name, wanted), &filter, state)
            .and_then(|network| self.resolve_names(netns, request, network.has_names(), state));
        if made.is_err() {
            // What went wrong first is what the user must know.
            for endpoint in state.endpoints.drain(before..) {
                let _ = Links::here().and_then(|mut links| links.remove(&endpoint.host_link));
                let _ = self.disconnect_one(&request.container, &endpoint, false);
            }
        }
        made
    }

    /// Starts a resolver for a container in whose networks names are known, unless there is one.
    fn resolve_names(
        &self,
        netns: BorrowedFd<'_>,
        request: &NetworkRequest,
        wanted: bool,
        state: &mut NetworkState,
    ) -> Result<(), NetError> {
        let Some(target) = state.endpoints.first().map(|endpoint| endpoint.address) else { return Ok(()) };
        if !wanted || state.resolver {
            return Ok(());
        }
        let resolvers = Resolvers::parse(&host_resolv_conf()).merged(&request.dns);
        let resolver = Some(helper::Resolver {
            networks: self.directory.path().to_owned(),
            container: request.container.clone(),
            servers: resolvers.servers,
        });
        let service = Service { program: &self.program, listeners: Vec::new(), target, resolver, netns, enter: false };
        state.helpers.push(service.start()?);
        state.resolver = true;
        Ok(())
    }

    /// Disconnects a container that runs from one of its networks; the others stay. With the network that it was
    /// started in go its published ports.
    pub fn disconnect(
        &self,
        netns: BorrowedFd<'_>,
        request: &NetworkRequest,
        name: &str,
        state: &mut NetworkState,
    ) -> Result<(), NetError> {
        let is_it = |endpoint: &Endpoint| endpoint.network == name || endpoint.network_id == name;
        let at = state.endpoints.iter().position(is_it);
        let at = at.ok_or_else(|| connection(request, "not connected to", name))?;
        let gone = state.endpoints.remove(at);
        Links::here()?.remove(&gone.host_link)?;
        let published = at == 0 && !state.ports.is_empty();
        self.disconnect_one(&request.container, &gone, published)?;
        if published {
            for helper in state.helpers.drain(..) {
                helper.end()?;
            }
            state.ports.clear();
            state.resolver = false;
            let names = state.endpoints.iter().any(|endpoint| endpoint.network != super::DEFAULT);
            self.resolve_names(netns, request, names, state)?;
        }
        // The way out went with the first network: the next one that has a gateway takes its place.
        let next = state.endpoints.iter().position(|endpoint| endpoint.gateway.is_some());
        if let (0, Some(next)) = (at, next) {
            if let Some(gateway) = state.endpoints.get(next).and_then(|endpoint| endpoint.gateway) {
                Links::of(netns)?.add_default_route(gateway)?;
            }
            state.endpoints.swap(0, next);
        }
        Ok(())
    }

    /// Has a container that runs known in its networks by the name that the request has now.
    pub fn rename(&self, request: &NetworkRequest, state: &mut NetworkState) -> Result<(), NetError> {
        let held = self.directory.lock()?;
        let none = EndpointRequest::default();
        for endpoint in &mut state.endpoints {
            // Networks can be asked for by their IDs.
            let is_it = |name: &str| endpoint.network == name || endpoint.network_id.starts_with(name);
            let also = request.also.iter().find(|(name, _)| is_it(name)).map(|(_, wanted)| wanted);
            let wanted =
                if request.mode.bridge().is_some_and(is_it) { &request.endpoint } else { also.unwrap_or(&none) };
            let Some(network) = self.directory.get(&endpoint.network)?.filter(Network::has_names) else { continue };
            let names = names(request, wanted)?;
            endpoint.names.clone_from(&names);
            let lease = Lease { address: endpoint.address, container: request.container.clone(), names };
            self.directory.rename(&network.name, &lease, &held)?;
        }
        Ok(())
    }

    /// Makes one connection and adds it to `state` as it grows, so that it can be taken back.
    fn connect_one(
        &self,
        netns: BorrowedFd<'_>,
        request: &NetworkRequest,
        (name, wanted): (&str, &EndpointRequest),
        filter: &Filter,
        state: &mut NetworkState,
    ) -> Result<Network, NetError> {
        let held = self.directory.lock()?;
        let network = self.settled(self.wanted(name, &held)?, &held)?;
        let names = if network.has_names() { names(request, wanted)? } else { Vec::new() };
        let address = self.lease(&network, wanted.ip, request, &names, &held)?;
        let taken = |name: &String| state.endpoints.iter().any(|endpoint| endpoint.link == *name);
        let mut links = (0..=state.endpoints.len()).map(|number| format!("eth{number}"));
        let link = links.find(|name| !taken(name)).unwrap_or_default();
        let id = random_id()?;
        let endpoint = Endpoint {
            network: network.name.clone(),
            network_id: network.id.clone(),
            host_link: format!("veth{}", id.get(..10).unwrap_or(&id)),
            id,
            address,
            subnet: network.subnet,
            gateway: (!network.internal).then_some(network.gateway),
            mac: wanted.mac.unwrap_or_else(|| Mac::of(address)),
            link,
            names,
        };
        state.endpoints.push(endpoint.clone());
        let (bridge, mtu) = self.put_up(&network, &held)?;
        if !network.internal {
            forward_packets(&mut state.notices)?;
        }
        match filter {
            Filter::Nftables => Firewall::open()?.add_network(&network)?,
            Filter::ProxyOnly(why) => {
                let mut notice = format!("{why}: ports are published by a proxy only");
                // Without nftables there is nothing that could masquerade.
                if let Err(error) = Firewall::open().and_then(|mut firewall| firewall.add_network(&network)) {
                    notice.push_str(&format!("; containers reach nothing beyond this host: {error}"));
                }
                state.notices.push(notice);
            }
        }
        drop(held);
        let mut links = Links::here()?;
        let (name, peer) = (endpoint.host_link.as_str(), endpoint.link.as_str());
        links.add_pair(&Pair { name, bridge, peer, mac: endpoint.mac, mtu }, netns)?;
        links.raise_port(name, &network.container_mark(&request.container))?;
        let mut inside = Links::of(netns)?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let index = inside.find(peer)?.ok_or_else(missing).trying(format!("find {peer}"))?.index;
        within(netns, || without_ipv6(peer)).trying(format!("turn IPv6 off for {peer} in the container"))?;
        inside.add_address(index, address, network.subnet)?;
        inside.up(index)?;
        if let (1, Some(gateway)) = (state.endpoints.len(), endpoint.gateway) {
            inside.add_default_route(gateway)?;
        }
        Ok(network)
    }

    /// Takes an address: the one asked for, or the first that is free.
    fn lease(
        &self,
        network: &Network,
        wanted: Option<Ipv4Addr>,
        request: &NetworkRequest,
        names: &[String],
        held: &Held,
    ) -> Result<Ipv4Addr, NetError> {
        let leases = self.directory.leases(&network.name)?;
        let lease = |address| Lease { address, container: request.container.clone(), names: names.to_vec() };
        // What a container of this ID left behind when it was killed.
        for old in leases.iter().filter(|lease| lease.container == request.container) {
            self.directory.release(&network.name, old.address, held)?;
        }
        let subnet = network.subnet;
        if let Some(address) = wanted {
            if !subnet.is_host(address) || address == network.gateway {
                let address = address.into();
                return Err(NetError::AddressOutside { address, network: network.name.clone(), subnet });
            }
            if !self.directory.take(&network.name, &lease(address), held)? {
                let holder = leases.iter().find(|lease| lease.address == address);
                let holder = holder.map(|lease| super::definition::short(&lease.container).to_owned());
                let (address, network) = (address.into(), network.name.clone());
                return Err(NetError::AddressInUse { address, network, holder: holder.unwrap_or_default() });
            }
            return Ok(address);
        }
        let taken: std::collections::HashSet<_> = leases.iter().map(|lease| lease.address).collect();
        let range = network.ip_range.unwrap_or(subnet);
        let free =
            |address: &Ipv4Addr| subnet.is_host(*address) && *address != network.gateway && !taken.contains(address);
        for address in range.hosts().filter(free) {
            if self.directory.take(&network.name, &lease(address), held)? {
                return Ok(address);
            }
        }
        Err(NetError::NoAddress { network: network.name.clone(), subnet })
    }

    /// Has nftables lead the ports to the container. The listeners serve what does not pass it: connections to
    /// 127.0.0.1, and everything where nftables cannot be used.
    fn publish(
        &self,
        request: &NetworkRequest,
        filter: &Filter,
        listeners: &[Listener],
        state: &mut NetworkState,
    ) -> Result<(), NetError> {
        state.ports = listeners.iter().map(|listener| listener.port).collect();
        state.ports.sort();
        let Some(endpoint) = state.endpoints.first() else { return Ok(()) };
        if *filter == Filter::Nftables {
            let redirect = |listener: &Listener| Redirect {
                host_ip: listener.port.host_ip,
                host_port: listener.port.host_port,
                to: endpoint.address,
                port: listener.port.container,
            };
            let redirects: Vec<_> = listeners.iter().map(redirect).collect();
            let mark = self.get(&endpoint.network)?.container_mark(&request.container);
            Firewall::open()?.add_ports(&mark, &redirects)?;
        }
        Ok(())
    }

    /// Takes back all that [`Networks::attach`] did. Nothing passes any more when it returns, and addresses and ports are
    /// free; links, and bridges without a container, are left to [`Networks::sweep`]. Goes on past failures and gives the first;
    /// doing it twice is fine.
    pub fn detach(&self, state: &NetworkState) -> Result<(), NetError> {
        let mut first = None;
        let mut note = |result: Result<(), NetError>| {
            if let Err(error) = result {
                first.get_or_insert(error);
            }
        };
        for helper in &state.helpers {
            note(helper.end());
        }
        for endpoint in &state.endpoints {
            note(Links::here().and_then(|mut links| links.down(&endpoint.host_link)));
            note(self.disconnect_one(&state.container, endpoint, !state.ports.is_empty()));
        }
        first.map_or(Ok(()), Err)
    }

    fn disconnect_one(&self, container: &str, endpoint: &Endpoint, published: bool) -> Result<(), NetError> {
        let held = self.directory.lock()?;
        let Some(network) = self.directory.get(&endpoint.network)? else { return Ok(()) };
        // The container may have been connected again since.
        let leases = self.directory.leases(&network.name)?;
        if !leases.iter().any(|lease| lease.address == endpoint.address && lease.container == container) {
            return Ok(());
        }
        let rules = if published {
            let mark = network.container_mark(container);
            Firewall::open().and_then(|mut firewall| firewall.remove(|comment| comment == mark))
        } else {
            Ok(())
        };
        self.directory.release(&network.name, endpoint.address, &held)?;
        rules
    }

    /// Takes back what containers left for which `is_live` does not hold: addresses, rules, links, and the bridges that
    /// nobody uses then. Their helpers end by themselves. `is_live` is asked under the lock of all networks, with the
    /// full ID, and must hold from before [`Networks::attach`] until after [`Networks::detach`]. Gives the IDs it has
    /// cleaned up after. Goes on past failures and gives the first.
    pub fn cleanup(&self, is_live: impl Fn(&str) -> bool) -> Result<Vec<String>, NetError> {
        let mut cleaned = Vec::new();
        if !self.directory.path().exists() {
            return Ok(cleaned);
        }
        let networks = self.directory.list()?;
        // The lock is worth taking only when something may be left.
        let mut suspect = false;
        for network in &networks {
            let leases = self.directory.leases(&network.name)?;
            suspect |= leases.iter().any(|lease| !is_live(&lease.container));
            suspect |=
                leases.is_empty() && self.directory.idle_for(&network.name)? >= FORSAKEN && self.is_up(network)?;
        }
        if !suspect {
            return Ok(cleaned);
        }
        let held = self.directory.lock()?;
        let mut first = None;
        for network in networks {
            if let Err(error) = self.cleanup_one(&network, &is_live, &held, &mut cleaned) {
                first.get_or_insert(error);
            }
        }
        cleaned.sort();
        cleaned.dedup();
        first.map_or(Ok(cleaned), Err)
    }

    fn cleanup_one(
        &self,
        network: &Network,
        is_live: &impl Fn(&str) -> bool,
        held: &Held,
        cleaned: &mut Vec<String>,
    ) -> Result<(), NetError> {
        let leases = self.directory.leases(&network.name)?;
        let (live, dead): (Vec<_>, Vec<_>) = leases.into_iter().partition(|lease| is_live(&lease.container));
        // An idle bridge is the sweeper's, but a sweeper can be killed too.
        let forsaken =
            || Ok::<_, NetError>(self.directory.idle_for(&network.name)? >= FORSAKEN && self.is_up(network)?);
        if dead.is_empty() && !(live.is_empty() && forsaken()?) {
            return Ok(());
        }
        if live.is_empty() {
            self.take_down(network)?;
        } else {
            let marks: Vec<_> = dead.iter().map(|lease| network.container_mark(&lease.container)).collect();
            Firewall::open()?.remove(|comment| marks.iter().any(|mark| mark == comment))?;
        }
        for lease in dead {
            self.directory.release(&network.name, lease.address, held)?;
            cleaned.push(lease.container);
        }
        self.remove_links(network, held)
    }
}

fn connection(request: &NetworkRequest, what: &'static str, network: &str) -> NetError {
    NetError::Connection { container: request.name.clone(), what, network: network.to_owned() }
}

/// The names a container is known by: its own, its ID's beginning, and its aliases; lower case, as names are compared.
fn names(request: &NetworkRequest, wanted: &EndpointRequest) -> Result<Vec<String>, NetError> {
    let short = super::definition::short(&request.container);
    let own = [request.name.as_str(), short, request.hostname.as_str()];
    let mut names: Vec<String> = Vec::new();
    for alias in &wanted.aliases {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if alias.is_empty() || alias.len() > 253 || !alias.bytes().all(plain) {
            return Err(NetError::Usage(format!("{alias:?} cannot be a name in a network")));
        }
    }
    if wanted.aliases.len() + own.len() > MAX_NAMES {
        return Err(NetError::Usage(format!("a container has at most {} aliases in a network", MAX_NAMES - own.len())));
    }
    let usable = |name: &&str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    for name in own.into_iter().filter(usable).chain(wanted.aliases.iter().map(String::as_str)) {
        let name = name.to_ascii_lowercase();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Has the host's kernel pass packets on between links, as docker does, and says so when it did not yet.
fn forward_packets(notices: &mut Vec<String>) -> Result<(), NetError> {
    let on = std::fs::read_to_string(IP_FORWARD).at("read", IP_FORWARD)?;
    if on.trim() == "0" {
        std::fs::write(IP_FORWARD, "1").at("write", IP_FORWARD)?;
        notices.push("IPv4 forwarding was off on this host; it is on now (net.ipv4.ip_forward)".to_owned());
    }
    Ok(())
}

//! Networks as they are made, listed and removed; and their bridges in the host.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::definition::{DEFAULT, Held, Lease, Network};
use super::error::{NetError, Trying};
use super::firewall::{BRIDGES, Firewall};
use super::link::{Links, Route};
use super::mac::Mac;
use super::subnet::{Subnet, pool};
use super::{Networks, definition};

/// What a new network shall be like.
#[derive(Debug, Clone, Default)]
pub struct NetworkSettings {
    /// Its addresses; none for a free subnet of the pool.
    pub subnet: Option<Subnet>,
    /// The bridge's own address; none for the first.
    pub gateway: Option<Ipv4Addr>,
    /// Where containers' addresses are taken from.
    pub ip_range: Option<Subnet>,
    /// Whether its containers reach nothing but each other.
    pub internal: bool,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options: `com.docker.network.driver.mtu`.
    pub options: BTreeMap<String, String>,
}

const MTU_OPTION: &str = "com.docker.network.driver.mtu";
const ETHERNET_MTU: u32 = 1500;

fn random<const N: usize>() -> Result<[u8; N], NetError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other).trying("get random numbers")?;
    Ok(bytes)
}

/// A new ID: 64 hexadecimal digits.
pub(super) fn random_id() -> Result<String, NetError> {
    random::<32>().map(hex::encode)
}

impl Networks {
    /// Makes a network. Nothing appears in the host before a container is connected.
    pub fn create(&self, name: &str, settings: &NetworkSettings) -> Result<Network, NetError> {
        if [DEFAULT, "host", "none", "default", "container"].contains(&name) {
            return Err(NetError::Exists(name.to_owned()));
        }
        let held = self.directory.lock()?;
        if self.directory.get(name)?.is_some() {
            return Err(NetError::Exists(name.to_owned()));
        }
        // The default network has the first choice of subnets, whenever it is used first.
        self.wanted(DEFAULT, &held)?;
        self.define(name, settings, &held)
    }

    /// The networks, by name.
    pub fn list(&self) -> Result<Vec<Network>, NetError> {
        self.directory.list()
    }

    /// The network of a name, or whose ID begins so. Docker's default is there before it is needed.
    pub fn get(&self, name: &str) -> Result<Network, NetError> {
        if let Some(network) = self.directory.get(name)? {
            return Ok(network);
        }
        if name == DEFAULT {
            return self.wanted(DEFAULT, &self.directory.lock()?);
        }
        let mut matching = self.list()?.into_iter().filter(|network| network.id.starts_with(name));
        match (matching.next(), matching.next()) {
            (Some(network), None) => Ok(network),
            (Some(_), Some(_)) => Err(NetError::Usage(format!("{name:?} is the beginning of several network IDs"))),
            (None, _) => Err(NetError::NoSuchNetwork(name.to_owned())),
        }
    }

    /// The addresses in use in a network, in order.
    pub fn leases(&self, network: &Network) -> Result<Vec<Lease>, NetError> {
        self.directory.leases(&network.name)
    }

    /// Removes a network that no container is connected to.
    pub fn remove(&self, name: &str) -> Result<(), NetError> {
        if [DEFAULT, "host", "none"].contains(&name) {
            return Err(NetError::Predefined(name.to_owned(), "removed"));
        }
        let held = self.directory.lock()?;
        let network = self.get(name)?;
        let leases = self.directory.leases(&network.name)?;
        if !leases.is_empty() {
            let containers: Vec<_> = leases.iter().map(|lease| definition::short(&lease.container)).collect();
            return Err(NetError::InUse { network: network.name, containers: containers.join(", ") });
        }
        self.take_down(&network)?;
        self.directory.remove(&network.name, &held)
    }

    /// Removes all user-made networks without a container for which `doomed` holds, and names them.
    pub fn prune(&self, doomed: impl Fn(&Network) -> bool) -> Result<Vec<String>, NetError> {
        let mut removed = Vec::new();
        for network in self.list()? {
            if network.name == DEFAULT || !doomed(&network) {
                continue;
            }
            match self.remove(&network.name) {
                Ok(()) => removed.push(network.name),
                // Connected or removed meanwhile.
                Err(NetError::InUse { .. } | NetError::NoSuchNetwork(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// The network of a name for a container that is to be connected; docker's default is made when first needed.
    pub(super) fn wanted(&self, name: &str, held: &Held) -> Result<Network, NetError> {
        match self.directory.get(name)? {
            Some(network) => Ok(network),
            None if name == DEFAULT => self.define(name, &NetworkSettings::default(), held),
            None => self.get(name),
        }
    }

    /// The default network when its bridge can be made: without a container, it takes another name and subnet where its
    /// own are in use by now, by another store as a rule. Others are what they were made.
    pub(super) fn settled(&self, network: Network, held: &Held) -> Result<Network, NetError> {
        if network.name != DEFAULT || !self.directory.leases(&network.name)?.is_empty() {
            return Ok(network);
        }
        let mut links = Links::here()?;
        let link = links.find(&network.device)?;
        if link.as_ref().is_some_and(|link| link.alias == network.mark()) {
            return Ok(network);
        }
        let mut others = self.list()?;
        others.retain(|other| other.name != network.name);
        // A pool that is used up has nothing better.
        let subnet = match choose_subnet(Some(network.subnet), &others, &links.routes()?) {
            Err(NetError::Overlap { .. }) => choose_subnet(None, &others, &links.routes()?).unwrap_or(network.subnet),
            _ => network.subnet,
        };
        if link.is_none() && subnet == network.subnet {
            return Ok(network);
        }
        let taken = |device: &str| Ok::<_, NetError>(links.find(device)?.is_some());
        let device = device_name(&network.name, &network.id, taken)?;
        let gateway = if subnet == network.subnet { Some(network.gateway) } else { subnet.hosts().next() };
        let network = Network { subnet, gateway: gateway.ok_or(NetError::NoSubnet)?, device, ..network };
        self.directory.add(&network, held)?;
        Ok(network)
    }

    fn define(&self, name: &str, settings: &NetworkSettings, held: &Held) -> Result<Network, NetError> {
        let mtu = match settings.options.get(MTU_OPTION) {
            None => None,
            Some(text) => {
                let mtu = text.parse().ok().filter(|mtu| (68..=65_535).contains(mtu));
                Some(mtu.ok_or_else(|| NetError::Usage(format!("{MTU_OPTION}={text}: no MTU from 68 to 65535")))?)
            }
        };
        if let Some(option) = settings.options.keys().find(|key| *key != MTU_OPTION) {
            return Err(NetError::Usage(format!("unknown network option {option}: ferry knows {MTU_OPTION}")));
        }
        let networks = self.list()?;
        let mut links = Links::here()?;
        let routes = links.routes()?;
        let subnet = choose_subnet(settings.subnet, &networks, &routes)?;
        let outside = |address| NetError::AddressOutside { address, network: name.to_owned(), subnet };
        let gateway = match settings.gateway {
            Some(gateway) if subnet.is_host(gateway) => gateway,
            Some(gateway) => return Err(outside(gateway.into())),
            None => subnet.hosts().next().ok_or(NetError::NoSubnet)?,
        };
        if let Some(range) = settings.ip_range
            && !(subnet.contains(range.base()) && range.prefix() >= subnet.prefix())
        {
            return Err(outside(range.base().into()));
        }
        let id = random_id()?;
        // Another store's bridge may have the name.
        let taken = |device: &str| {
            let ours = networks.iter().any(|network| network.device == device);
            Ok::<_, NetError>(ours || links.find(device)?.is_some())
        };
        let device = device_name(name, &id, taken)?;
        let created = jiff::Timestamp::now().to_string();
        let network = Network {
            name: name.to_owned(),
            id,
            created,
            subnet,
            gateway,
            ip_range: settings.ip_range,
            internal: settings.internal,
            labels: settings.labels.clone(),
            options: settings.options.clone(),
            device,
            mtu,
        };
        self.directory.add(&network, held)?;
        Ok(network)
    }

    /// Makes the network's bridge and rules, unless they are there. Gives the bridge's index and the MTU of its ports.
    pub(super) fn put_up(&self, network: &Network, _: &Held) -> Result<(u32, u32), NetError> {
        let mut links = Links::here()?;
        let all = links.list()?;
        let mtu = match network.mtu {
            Some(mtu) => mtu,
            None => {
                let uplink = links.routes()?.iter().find(|route| route.to.1 == 0).and_then(|route| route.link);
                let uplink = all.iter().find(|link| Some(link.index) == uplink);
                uplink.map_or(ETHERNET_MTU, |link| link.mtu.min(ETHERNET_MTU))
            }
        };
        let mark = network.mark();
        let index = match all.iter().find(|link| link.name == network.device) {
            Some(link) if link.alias == mark => link.index,
            Some(link) => {
                let (network, link) = (network.name.clone(), link.name.clone());
                return Err(NetError::LinkTaken { network, link });
            }
            None => {
                let [a, b, c, d] = random()?;
                links.add_bridge(&network.device, Mac([0x02, 0x42, a, b, c, d]), mtu, &mark)?
            }
        };
        links.add_address(index, network.gateway, network.subnet)?;
        Ok((index, mtu))
    }

    /// Takes the network's bridge and rules out of the host.
    pub(super) fn take_down(&self, network: &Network) -> Result<(), NetError> {
        let mut links = Links::here()?;
        let mark = network.mark();
        // A device of that name may be another's by now.
        if links.find(&network.device)?.is_some_and(|link| link.alias == mark) {
            links.remove(&network.device)?;
        }
        Firewall::open()?.remove(|comment| comment == mark || comment.starts_with(&format!("{mark} ")))
    }
}

fn device_name(
    name: &str,
    id: &str,
    mut taken: impl FnMut(&str) -> Result<bool, NetError>,
) -> Result<String, NetError> {
    if name != DEFAULT {
        return Ok(format!("{BRIDGES}-{}", id.get(..8).unwrap_or(id)));
    }
    for number in 0.. {
        let device = format!("{BRIDGES}{number}");
        if !taken(&device)? {
            return Ok(device);
        }
    }
    Err(NetError::NoSubnet)
}

/// The subnet asked for, if nothing else has it; or the first of the pool that is free.
fn choose_subnet(wanted: Option<Subnet>, networks: &[Network], routes: &[Route]) -> Result<Subnet, NetError> {
    // The default route covers everything and is in nobody's way.
    let routes = routes.iter().filter(|route| route.to.1 > 0);
    let routes: Vec<_> = routes.filter_map(|route| Some((widened(route.to)?, route.to))).collect();
    let in_the_way = |subnet: Subnet| {
        let network = networks.iter().find(|network| network.subnet.overlaps(subnet));
        let network = network.map(|network| format!("network {} ({})", network.name, network.subnet));
        let route = || routes.iter().find(|(to, _)| to.overlaps(subnet));
        network.or_else(|| route().map(|(_, (to, prefix))| format!("this host's route to {to}/{prefix}")))
    };
    match wanted {
        Some(subnet) => match in_the_way(subnet) {
            None => Ok(subnet),
            Some(with) => Err(NetError::Overlap { subnet, with }),
        },
        None => pool().find(|subnet| in_the_way(*subnet).is_none()).ok_or(NetError::NoSubnet),
    }
}

/// A route's destination as a subnet: those to one or two addresses are widened to four.
fn widened((to, prefix): (Ipv4Addr, u8)) -> Option<Subnet> {
    let prefix = prefix.clamp(1, 30);
    let base = to.to_bits() & (u32::MAX << (32 - u32::from(prefix)));
    Subnet::new(Ipv4Addr::from_bits(base), prefix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: [u8; 4], prefix: u8) -> Route {
        Route { to: (to.into(), prefix), link: None }
    }

    #[test]
    fn the_pool_gives_way_to_routes_of_the_host_but_not_to_the_default_route() {
        let choose = |routes: &[Route]| choose_subnet(None, &[], routes).unwrap().to_string();
        assert_eq!(choose(&[route([0; 4], 0)]), "172.17.0.0/16");
        assert_eq!(choose(&[route([172, 17, 5, 0], 24)]), "172.18.0.0/16");
        assert_eq!(choose(&[route([172, 17, 5, 9], 32), route([172, 18, 0, 0], 15)]), "172.20.0.0/16");
        assert_eq!(choose(&[route([172, 16, 0, 0], 12)]), "192.168.0.0/20");
        let all = [route([172, 16, 0, 0], 12), route([192, 168, 0, 0], 16)];
        assert!(matches!(choose_subnet(None, &[], &all), Err(NetError::NoSubnet)));
        let wanted = Some("192.168.7.0/24".parse().unwrap());
        assert!(matches!(choose_subnet(wanted, &[], &all), Err(NetError::Overlap { .. })));
    }
}

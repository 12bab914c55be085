//! `/etc/hosts` and `/etc/resolv.conf` of containers, as docker writes them.

use std::fmt::Write;
use std::net::IpAddr;

use super::{DnsRequest, NetworkRequest, NetworkState, RESOLVER};

/// Lines looked at of the host's resolv.conf; resolvers themselves use three servers of it.
const MAX_LINES: usize = 1_000;

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolvers {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Resolvers {
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().take(MAX_LINES) {
            let mut words = line.split_whitespace();
            match words.next() {
                // Addresses of one link only (`fe80::1%eth0`) mean nothing elsewhere.
                Some("nameserver") => found.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // The last one counts.
                Some("search" | "domain") => found.search = words.map(str::to_owned).collect(),
                Some("options") => found.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found
    }

    /// The host's, with what the user asked for instead.
    pub fn merged(mut self, request: &DnsRequest) -> Self {
        if !request.servers.is_empty() {
            self.servers.clone_from(&request.servers);
        }
        if !request.search.is_empty() {
            // A lone dot means none.
            self.search = request.search.iter().filter(|name| *name != ".").cloned().collect();
        }
        if !request.options.is_empty() {
            self.options.clone_from(&request.options);
        }
        self
    }
}

/// A word for a file of lines and words: what images and users give must not make lines of its own.
fn word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
}

/// The contents of `/etc/hosts`. A container in the host's namespace gets the host's own, `host`, with the additions.
pub fn hosts(request: &NetworkRequest, state: &NetworkState, host: &str) -> String {
    use crate::runtime::NetworkMode;
    let mut text = String::new();
    if request.mode == NetworkMode::Host {
        text.push_str(host);
        if !host.is_empty() && !host.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str(
            "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
        );
    }
    let gateway = state.endpoints.iter().find_map(|endpoint| endpoint.gateway);
    for (name, address) in &request.extra_hosts {
        let address = match address.as_str() {
            "host-gateway" => gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            address => address.to_owned(),
        };
        if word(name) && word(&address) {
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    let full = match request.domainname.as_str() {
        "" => request.hostname.clone(),
        domain => format!("{}.{domain}", request.hostname),
    };
    if word(&full) {
        for endpoint in &state.endpoints {
            // A host name with a domain is known by its first part as well.
            let _ = match full.split_once('.') {
                Some((short, _)) if word(short) => writeln!(text, "{}\t{full} {short}", endpoint.address),
                _ => writeln!(text, "{}\t{full}", endpoint.address),
            };
        }
    }
    text
}

/// The contents of `/etc/resolv.conf`; `host` is the host's own.
pub fn resolv_conf(request: &NetworkRequest, state: &NetworkState, host: &str) -> String {
    let resolvers = Resolvers::parse(host).merged(&request.dns);
    let mut text = String::new();
    let servers = if state.resolver { vec![IpAddr::V4(RESOLVER)] } else { resolvers.servers };
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    let mut line = |keyword: &str, words: Vec<String>| {
        let words: Vec<_> = words.into_iter().filter(|text| word(text)).collect();
        if !words.is_empty() {
            let _ = writeln!(text, "{keyword} {}", words.join(" "));
        }
    };
    line("search", resolvers.search);
    let mut options = resolvers.options;
    if state.resolver && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    line("options", options);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::NetworkMode;
    use crate::runtime::net::{Endpoint, Mac};

    fn state() -> NetworkState {
        let address = [172, 17, 0, 2].into();
        let endpoint = Endpoint {
            network: "bridge".into(),
            network_id: String::new(),
            id: String::new(),
            address,
            subnet: "172.17.0.0/16".parse().unwrap(),
            gateway: Some([172, 17, 0, 1].into()),
            mac: Mac::of(address),
            link: "eth0".into(),
            host_link: String::new(),
            names: Vec::new(),
        };
        NetworkState { endpoints: vec![endpoint], ..NetworkState::default() }
    }

    #[test]
    fn hosts_has_dockers_lines_then_additions_then_the_container() {
        let extra = |name: &str, address: &str| (name.to_owned(), address.to_owned());
        let extra_hosts =
            vec![extra("db", "10.0.0.5"), extra("up", "host-gateway"), extra("evil\n1.1.1.1 bank", "1.1.1.1")];
        let request = NetworkRequest { hostname: "web.example".into(), extra_hosts, ..NetworkRequest::default() };
        let text = hosts(&request, &state(), "");
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"), "{text}");
        assert!(text.ends_with("10.0.0.5\tdb\n172.17.0.1\tup\n172.17.0.2\tweb.example web\n"), "{text}");
        for (hostname, domainname, line) in
            [("aa", "d.e", "172.17.0.2\taa.d.e aa\n"), ("aa.x", "d.e", "172.17.0.2\taa.x.d.e aa\n")]
        {
            let request = NetworkRequest {
                hostname: hostname.into(),
                domainname: domainname.into(),
                ..NetworkRequest::default()
            };
            assert!(hosts(&request, &state(), "").ends_with(&format!("\n{line}")), "{hostname} {domainname}");
        }
        let on_host = NetworkRequest { mode: NetworkMode::Host, ..NetworkRequest::default() };
        assert_eq!(hosts(&on_host, &NetworkState::default(), "1.2.3.4 here"), "1.2.3.4 here\n");
    }

    #[test]
    fn resolv_conf_is_the_hosts_unless_the_user_or_the_resolver_says_otherwise() {
        let host =
            "# by hand\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions edns0\n";
        let mut request = NetworkRequest::default();
        assert_eq!(
            resolv_conf(&request, &state(), host),
            "nameserver 10.0.0.1\nsearch a.example b.example\noptions edns0\n"
        );
        request.dns.servers = vec![[9, 9, 9, 9].into()];
        request.dns.search = vec![".".into()];
        assert_eq!(resolv_conf(&request, &state(), host), "nameserver 9.9.9.9\noptions edns0\n");
        let named = NetworkState { resolver: true, ..state() };
        assert_eq!(resolv_conf(&request, &named, host), "nameserver 127.0.0.11\noptions edns0 ndots:0\n");
    }
}

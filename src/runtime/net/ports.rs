//! `-p`, `-P` and `--expose` in docker's grammar (the `docker run` reference, "Publish or expose port";
//! `github.com/docker/go-connections/nat`).

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The transport protocols that ports are published for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl Protocol {
    /// Its number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the container: `80/tcp`, as docker writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// The number, from 1 on.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl FromStr for ContainerPort {
    type Err = BadPort;

    fn from_str(text: &str) -> Result<Self, BadPort> {
        let bad = || BadPort::new(text, "it is not of the form 80, 80/tcp or 53/udp");
        let (range, protocol) = port_and_protocol(text, text)?;
        let port = ports(range).filter(|range| range.start() == range.end()).ok_or_else(bad)?;
        Ok(Self { port: *port.start(), protocol })
    }
}

impl Serialize for ContainerPort {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContainerPort {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A port to publish, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRequest {
    /// Which port of the container.
    pub container: ContainerPort,
    /// On which address of the host; none for all.
    pub host_ip: Option<IpAddr>,
    /// Which ports of the host will do, the first free one is taken; none for any.
    pub host_ports: Option<(u16, u16)>,
}

/// A port specification that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid port {text:?}: {reason}")]
pub struct BadPort {
    text: String,
    reason: &'static str,
}

impl BadPort {
    fn new(text: &str, reason: &'static str) -> Self {
        Self { text: text.chars().take(100).collect(), reason }
    }
}

/// `8000` or `8000-8010`; port 0 is none.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    // u16::from_str takes a leading plus sign.
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+'));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some(first..=last)
}

fn port_and_protocol<'a>(text: &'a str, whole: &str) -> Result<(&'a str, Protocol), BadPort> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok((range, Protocol::Tcp)),
        "udp" => Ok((range, Protocol::Udp)),
        "sctp" => Err(BadPort::new(whole, "SCTP ports cannot be published")),
        _ => Err(BadPort::new(whole, "the protocol is neither tcp nor udp")),
    }
}

/// Reads a `-p` value: `[[HOST-IP:][HOST-PORT[-END]]:]PORT[-END][/PROTOCOL]`. Ranges on both sides are paired; a range
/// of host ports for one container port means any one of them.
pub fn parse_publish(text: &str) -> Result<Vec<PublishRequest>, BadPort> {
    let bad = |reason| BadPort::new(text, reason);
    // From the right: only an address has colons of its own.
    let (rest, container) = text.rsplit_once(':').map_or((None, text), |(rest, last)| (Some(rest), last));
    let (host_ip, host) = match rest {
        None => ("", ""),
        Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
    };
    let host_ip = match host_ip {
        "" => None,
        ip => {
            let inner = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
            let parsed: IpAddr = inner.unwrap_or(ip).parse().map_err(|_| bad("the host address is no IP address"))?;
            if parsed.is_ipv6() && inner.is_none() {
                return Err(bad("an IPv6 host address is written in brackets"));
            }
            Some(parsed)
        }
    };
    let (container, protocol) = port_and_protocol(container, text)?;
    let container = ports(container).ok_or_else(|| bad("the container port is no port or range of ports"))?;
    let host = match host {
        // Docker takes 0 for "any" as well.
        "" | "0" => None,
        host => Some(ports(host).ok_or_else(|| bad("the host port is no port or range of ports"))?),
    };
    if let Some(host) = &host
        && container.len() > 1
        && host.len() != container.len()
    {
        return Err(bad("the ranges of host and container ports differ in length"));
    }
    let one = container.len() == 1;
    Ok(container
        .enumerate()
        .map(|(i, port)| PublishRequest {
            container: ContainerPort { port, protocol },
            host_ip,
            host_ports: host.as_ref().map(|host| match one {
                true => (*host.start(), *host.end()),
                // As long as the other range, so this does not run over.
                false => (host.start().saturating_add(i as u16), host.start().saturating_add(i as u16)),
            }),
        })
        .collect())
}

/// Reads an `--expose` value or a key of an image's `ExposedPorts`: `80`, `80/udp`, `8000-8010/tcp`.
pub fn parse_expose(text: &str) -> Result<Vec<ContainerPort>, BadPort> {
    let (range, protocol) = port_and_protocol(text, text)?;
    let range = ports(range).ok_or_else(|| BadPort::new(text, "it is no port or range of ports"))?;
    Ok(range.map(|port| ContainerPort { port, protocol }).collect())
}

/// Reads one of docker's `PortBindings`: the key (`80/tcp`) and a binding's `HostIp` and `HostPort`, either of which
/// may be empty.
pub fn parse_binding(port: &str, host_ip: &str, host_port: &str) -> Result<PublishRequest, BadPort> {
    let host_ip = match host_ip {
        "" => None,
        ip => Some(ip.parse().map_err(|_| BadPort::new(ip, "the host address is no IP address"))?),
    };
    let host_ports = match host_port {
        "" | "0" => None,
        text => {
            let range = ports(text).ok_or_else(|| BadPort::new(text, "it is no port or range of ports"))?;
            Some((*range.start(), *range.end()))
        }
    };
    Ok(PublishRequest { container: port.parse()?, host_ip, host_ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line a request: `IP FIRST-LAST PORT/PROTOCOL`.
    fn shown(text: &str) -> Vec<String> {
        let show = |request: PublishRequest| {
            let ip = request.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
            let host = request.host_ports.map_or("*".to_owned(), |(first, last)| format!("{first}-{last}"));
            format!("{ip} {host} {}", request.container)
        };
        parse_publish(text).unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn published_ports_are_read_as_docker_reads_them() {
        let table: &[(&str, &[&str])] = &[
            ("80", &["* * 80/tcp"]),
            ("80/udp", &["* * 80/udp"]),
            ("80/UDP", &["* * 80/udp"]),
            ("8080:80", &["* 8080-8080 80/tcp"]),
            ("0:80", &["* * 80/tcp"]),
            ("127.0.0.1:8080:80/tcp", &["127.0.0.1 8080-8080 80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1 * 80/tcp"]),
            ("[::1]:8080:80", &["::1 8080-8080 80/tcp"]),
            ("8000-8002:80", &["* 8000-8002 80/tcp"]),
            ("8000-8001:9000-9001/udp", &["* 8000-8000 9000/udp", "* 8001-8001 9001/udp"]),
            ("3000-3001", &["* * 3000/tcp", "* * 3001/tcp"]),
            ("65535:65535", &["* 65535-65535 65535/tcp"]),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), *expected, "{text}");
        }
    }

    #[test]
    fn ports_that_make_no_sense_are_refused() {
        for bad in [
            "",
            ":",
            "0",
            "x",
            "80/sctp",
            "80/icmp",
            "65536",
            "8080:",
            "1.2.3:1:1",
            "::1:8080:80",
            "9-8",
            "1-3:1-2",
            "-1:80",
            "80:80:80:80",
            "+80",
            "8080:+80",
            "8000-8010-8020:80",
            " 80",
            "80/",
            "[::1:80:80",
            "1:2-",
        ] {
            assert!(parse_publish(bad).is_err(), "{bad:?} -> {:?}", parse_publish(bad));
        }
        assert!(parse_expose("80-").is_err() && "80-81".parse::<ContainerPort>().is_err());
    }

    #[test]
    fn exposed_ports_and_bindings_are_read() {
        let ports: Vec<_> = parse_expose("7-9/udp").unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["7/udp", "8/udp", "9/udp"]);
        let binding = parse_binding("80/tcp", "", "8000-8010").unwrap();
        assert_eq!((binding.host_ip, binding.host_ports), (None, Some((8000, 8010))));
        assert_eq!(parse_binding("80", "::", "").unwrap().host_ip, Some("::".parse().unwrap()));
    }
}

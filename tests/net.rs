//! Networks: containers reach each other, the host, the world and back; and nothing of them stays.
//!
//! Each test has a host of its own, a machine linked to another network namespace that is the world outside. Containers
//! are further namespaces, in which threads of the test serve.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use ferry::runtime::NetworkMode;
use ferry::runtime::net::ports::parse_publish;
use ferry::runtime::net::{NetError, NetworkRequest, NetworkSettings, NetworkState, Networks};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::ferry;
use crate::support::peers::{Machine, RELEASES, Release};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// An address outside that only the default route leads to.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PATIENCE: Duration = Duration::from_secs(3);

/// A network namespace.
struct Namespace(File);

impl Namespace {
    /// Runs `work` on a thread inside.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        match std::thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Serves TCP and UDP: says `name` and whom it sees to everyone who says something.
    fn serve(&self, name: &str, port: u16) {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let (tcp, udp) = self.run(|| (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap()));
        let (of_tcp, of_udp) = (name.to_owned(), name.to_owned());
        // They end with the test's process: a server's end is not what is tested.
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = tcp.accept() {
                let mut text = String::new();
                let _ = stream.read_to_string(&mut text);
                let _ = write!(stream, "{of_tcp} {} {text}", from.ip());
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((count, from)) = udp.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let _ = udp.send_to(format!("{of_udp} {} {text}", from.ip()).as_bytes(), from);
            }
        });
    }

    /// What the server says to "hello", over TCP. `None` when there is no connection.
    fn tcp(&self, address: impl Into<IpAddr>, port: u16) -> Option<String> {
        let address = SocketAddr::new(address.into(), port);
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"hello").ok()?;
            stream.shutdown(std::net::Shutdown::Write).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            (!text.is_empty()).then_some(text)
        })
    }

    /// The same over UDP.
    fn udp(&self, address: impl Into<IpAddr>, port: u16) -> Option<String> {
        let address = SocketAddr::new(address.into(), port);
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(address).ok()?;
            socket.send(b"hello").ok()?;
            let mut buffer = [0; 2048];
            let count = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
        })
    }
}

/// A host with the address [`HOST`], linked to a world outside.
struct Host {
    machine: Machine,
    host: Namespace,
    outside: Namespace,
    networks: Networks,
}

impl Host {
    fn new(release: Release) -> Self {
        let machine = Machine::start(release);
        machine.sh(&format!(
            "ip netns add outside
            # Ends of one index, each in its namespace, are not taken for a pair: the kernel lets their carrier wait a second.
            ip -n outside link add pad type bridge
            ip link add eth0 type veth peer name eth0 netns outside
            ip addr add {HOST}/24 dev eth0
            ip link set eth0 up
            ip route add default via 192.0.2.1
            ip -n outside addr add 192.0.2.1/24 dev eth0
            ip -n outside addr add {FAR}/32 dev lo
            ip -n outside link set lo up
            ip -n outside link set eth0 up"
        ));
        let host = Namespace(File::open(format!("/proc/{}/ns/net", machine.pid())).unwrap());
        let outside = namespace(&machine, "outside");
        let networks = Networks::new(&machine.dir().join("networks")).with_program(ferry());
        Self { machine, host, outside, networks }
    }

    /// A container's namespace, not connected yet.
    fn container(&self, name: &str) -> Namespace {
        self.machine.sh(&format!("ip netns add {name}"));
        namespace(&self.machine, name)
    }

    fn attach(&self, container: &Namespace, request: &NetworkRequest) -> Result<NetworkState, NetError> {
        self.host.run(|| self.networks.attach(container.0.as_fd(), request))
    }

    /// A connected container that serves on port 80.
    fn connected(&self, name: &str, mode: &str, publish: &[&str]) -> (Namespace, NetworkState) {
        let container = self.container(name);
        let state = self.attach(&container, &request(name, mode, publish)).unwrap();
        container.serve(name, 80);
        (container, state)
    }

    fn detach(&self, state: &NetworkState) {
        self.host.run(|| self.networks.detach(state)).unwrap();
    }

    /// Sweeps; nothing more than `traces` is left.
    fn swept_to(&self, traces: &str) {
        self.host.run(|| self.networks.sweep()).unwrap();
        assert_eq!(self.traces(), traces);
    }

    /// Everything that networks could leave in the host.
    fn traces(&self) -> String {
        let traces = "ip -br link | grep -v -e ^lo -e ^eth0 || true; ip -4 route | grep -v 'dev eth0' || true;
            nft list ruleset; ss -Htuln | sort; mkdir -p $1; find $1 -name '*.*.*.*'";
        let dir = self.machine.dir().join("networks");
        self.machine.run("sh", ["-ec", traces, "sh", dir.to_str().unwrap()])
    }
}

fn namespace(machine: &Machine, name: &str) -> Namespace {
    Namespace(File::open(format!("/proc/{}/root/run/netns/{name}", machine.pid())).unwrap())
}

/// An ID made of a name.
fn id(name: &str) -> String {
    ferry::base::Digest::of(name.as_bytes()).hex()
}

fn request(name: &str, mode: &str, publish: &[&str]) -> NetworkRequest {
    NetworkRequest {
        container: id(name),
        name: name.to_owned(),
        hostname: id(name)[..12].to_owned(),
        mode: mode.parse::<NetworkMode>().unwrap(),
        publish: publish.iter().flat_map(|text| parse_publish(text).unwrap()).collect(),
        ..NetworkRequest::default()
    }
}

fn address(state: &NetworkState) -> Ipv4Addr {
    state.endpoints[0].address
}

/// Who was seen by whom.
fn seen(answer: Option<String>) -> String {
    answer.and_then(|text| Some(text.strip_suffix(" hello")?.to_owned())).unwrap_or_else(|| "nobody".to_owned())
}

#[test]
fn containers_reach_each_other_the_host_and_the_world_and_are_closed_to_it() {
    let host = Host::new(Release::Debian13);
    let ((a, of_a), (_b, of_b)) = (host.connected("a", "bridge", &[]), host.connected("b", "bridge", &[]));
    assert_eq!((address(&of_a), address(&of_b)), ([172, 17, 0, 2].into(), [172, 17, 0, 3].into()));
    assert_eq!(of_a.endpoints[0].mac.to_string(), "02:42:ac:11:00:02");
    host.host.serve("host", 7);
    host.outside.serve("outside", 7);
    assert_eq!(seen(a.tcp(address(&of_b), 80)), "b 172.17.0.2");
    assert_eq!(seen(a.udp(address(&of_b), 80)), "b 172.17.0.2");
    assert_eq!(seen(host.host.tcp(address(&of_a), 80)), "a 172.17.0.1");
    assert_eq!(seen(a.tcp([172, 17, 0, 1], 7)), "host 172.17.0.2");
    assert_eq!(seen(a.tcp(FAR, 7)), format!("outside {HOST}"));
    // A UDP server on all addresses answers from the one nearest.
    assert_eq!(seen(a.udp([192, 0, 2, 1], 7)), format!("outside {HOST}"));
    // What passes no rule is not there.
    assert_eq!(host.machine.sh("ip -6 addr show dev ferry0; ip -n a -6 addr show dev eth0"), "");
    // Who sends packets for the containers' network to the host gets nothing.
    host.machine.sh(&format!("ip -n outside route add 172.17.0.0/16 via {HOST}"));
    assert_eq!(seen(host.outside.tcp(address(&of_a), 80)), "nobody");
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    let host = Host::new(Release::Debian13);
    let publish = ["8080:80", "8053:80/udp", "127.0.0.1:9090:80", "192.0.2.2:9191:80"];
    let ((web, of_web), (other, _)) =
        (host.connected("web", "bridge", &publish), host.connected("other", "bridge", &[]));
    let gateway = [172, 17, 0, 1];
    let local = Ipv4Addr::LOCALHOST;
    // From outside the client is seen as it is.
    assert_eq!(seen(host.outside.tcp(HOST, 8080)), "web 192.0.2.1");
    assert_eq!(seen(host.outside.udp(HOST, 8053)), "web 192.0.2.1");
    assert_eq!(seen(host.outside.tcp(HOST, 9191)), "web 192.0.2.1");
    assert_eq!(seen(host.outside.tcp(HOST, 9090)), "nobody");
    // From the host, by its address and by the loopback.
    assert_eq!(seen(host.host.tcp(HOST, 8080)), "web 192.0.2.2");
    for port in [8080, 9090] {
        assert_eq!(seen(host.host.tcp(local, port)), "web 172.17.0.1");
    }
    assert_eq!(seen(host.host.tcp(std::net::Ipv6Addr::LOCALHOST, 8080)), "web 172.17.0.1");
    assert_eq!(seen(host.host.udp(local, 8053)), "web 172.17.0.1");
    // From another container, and from the container itself.
    for client in [&other, &web] {
        assert_eq!(seen(client.tcp(HOST, 8080)), "web 172.17.0.1");
        assert_eq!(seen(client.tcp(gateway, 8080)), "web 172.17.0.1");
        assert_eq!(seen(client.udp(HOST, 8053)), "web 172.17.0.1");
    }
    // And never by a loopback address that came over a link.
    assert_eq!(host.machine.sh("cat /proc/sys/net/ipv4/conf/*/route_localnet | sort -u").trim(), "0");
    let ports = of_web.ports.iter().map(|port| format!("{} {} {}", port.container, port.host_ip, port.host_port));
    assert_eq!(
        ports.collect::<Vec<_>>(),
        [
            "80/tcp 0.0.0.0 8080",
            "80/tcp 127.0.0.1 9090",
            "80/tcp 192.0.2.2 9191",
            "80/tcp :: 8080",
            "80/udp 0.0.0.0 8053",
            "80/udp :: 8053"
        ]
    );
}

#[test]
fn everything_is_taken_down_with_the_last_container() {
    let host = Host::new(Release::Debian13);
    let before = host.traces();
    let ((_, of_a), (_, of_b)) = (host.connected("a", "bridge", &["8080:80"]), host.connected("b", "bridge", &["80"]));
    let between = host.traces();
    host.detach(&of_b);
    assert_ne!(host.traces(), between);
    host.detach(&of_a);
    host.swept_to(&before);
    host.detach(&of_a);
    assert_eq!(host.traces(), before);
}

#[test]
fn what_a_killed_container_left_is_cleaned_up_and_what_lives_stays() {
    let host = Host::new(Release::Debian13);
    let before = host.traces();
    let (_a, of_a) = host.connected("a", "bridge", &["8080:80"]);
    let with_a = host.traces();
    let (_b, of_b) = host.connected("b", "bridge", &["8081:80", "5353:53/udp"]);
    // Its helper goes with its monitor, and so do the ports.
    of_b.helpers.iter().for_each(|helper| helper.end().unwrap());
    let cleanup = |live: &[&str]| {
        let live: Vec<_> = live.iter().map(|name| id(name)).collect();
        host.host.run(|| host.networks.cleanup(|id| live.iter().any(|live| live == id))).unwrap()
    };
    assert_eq!(cleanup(&["a"]), [id("b")]);
    assert_eq!(host.traces(), with_a);
    assert_eq!(cleanup(&["a"]), [""; 0]);
    of_a.helpers.iter().for_each(|helper| helper.end().unwrap());
    assert_eq!(cleanup(&[]), [id("a")]);
    assert_eq!(host.traces(), before);
}

#[test]
fn a_port_that_is_taken_is_refused_and_leaves_nothing_behind() {
    let host = Host::new(Release::Debian13);
    let (_a, _) = host.connected("a", "bridge", &["8080-8081:80"]);
    let (_b, of_b) = host.connected("b", "bridge", &["8080-8081:80"]);
    assert_eq!(of_b.ports[0].host_port, 8081);
    let before = host.traces();
    let c = host.container("c");
    for publish in [&["8080:80"][..], &["8082:80", "127.0.0.1:8081:80"], &["8080-8081:80"], &["203.0.113.7:80:80"]] {
        let error = host.attach(&c, &request("c", "bridge", publish)).unwrap_err();
        assert!(matches!(error, NetError::Port { .. }), "{error}");
        assert_eq!(host.traces(), before);
    }
    let error = host.attach(&c, &request("c", "bridge", &["8080:80"])).unwrap_err();
    // The C libraries word the reason differently.
    let error = error.to_string();
    assert!(error.starts_with("cannot publish port 8080/tcp on 0.0.0.0: Address "), "{error}");
    assert!(error.ends_with("(os error 98)"), "{error}");
}

#[test]
fn fifty_containers_at_once_get_fifty_addresses() {
    let host = Host::new(Release::Debian13);
    let names: Vec<_> = (0..50).map(|number| format!("c{number}")).collect();
    let containers: Vec<_> = names.iter().map(|name| (name, host.container(name))).collect();
    let states: Vec<_> = std::thread::scope(|scope| {
        let attach =
            |(name, container): &(&String, Namespace)| host.attach(container, &request(name, "bridge", &[])).unwrap();
        let threads: Vec<_> = containers.iter().map(|container| scope.spawn(move || attach(container))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let addresses: std::collections::BTreeSet<_> = states.iter().map(address).collect();
    assert_eq!(addresses.len(), 50);
    assert_eq!(addresses.last().copied(), Some([172, 17, 0, 51].into()));
    containers[0].1.serve("first", 80);
    assert_eq!(seen(containers[49].1.tcp(address(&states[0]), 80)), format!("first {}", address(&states[49])));
}

#[test]
fn containers_pass_the_filter_of_a_host_that_dockerd_closed() {
    for release in RELEASES {
        let host = Host::new(release);
        // As dockerd leaves it.
        host.machine.sh("iptables -P FORWARD DROP
            iptables -N DOCKER-USER
            iptables -A FORWARD -j DOCKER-USER
            iptables -A DOCKER-USER -j RETURN");
        let save = || host.machine.sh("iptables-save -t filter | grep -v ^[#:]");
        let before = save();
        let (web, of_web) = host.connected("web", "bridge", &["8080:80"]);
        host.outside.serve("outside", 7);
        assert_eq!(seen(host.outside.tcp(HOST, 8080)), "web 192.0.2.1", "{release:?}");
        assert_eq!(seen(web.tcp(FAR, 7)), format!("outside {HOST}"), "{release:?}");
        // iptables knows the rules for its own.
        let mark = format!("ferry {}", &of_web.endpoints[0].network_id[..12]);
        assert_eq!(
            host.machine.sh("iptables -S DOCKER-USER"),
            format!(
                "-N DOCKER-USER
-A DOCKER-USER -o ferry0 -m comment --comment \"{mark}\" -j ACCEPT
-A DOCKER-USER -i ferry0 -m comment --comment \"{mark}\" -j ACCEPT
-A DOCKER-USER -j RETURN
"
            )
        );
        host.machine.sh(&format!("iptables -C DOCKER-USER -o ferry0 -m comment --comment '{mark}' -j ACCEPT"));
        host.detach(&of_web);
        host.host.run(|| host.networks.sweep()).unwrap();
        assert_eq!(save(), before);
    }
}

#[test]
fn a_host_of_legacy_iptables_publishes_by_the_proxy_and_says_so() {
    let host = Host::new(Release::Debian13);
    host.machine.sh("iptables-legacy -P FORWARD DROP");
    let (_web, of_web) = host.connected("web", "bridge", &["8080:80", "8053:80/udp"]);
    assert!(of_web.notices.iter().any(|notice| notice.contains("legacy iptables")), "{:?}", of_web.notices);
    assert_eq!(seen(host.outside.tcp(HOST, 8080)), "web 172.17.0.1");
    assert_eq!(seen(host.outside.udp(HOST, 8053)), "web 172.17.0.1");
}

#[test]
fn subnets_of_the_pool_keep_clear_of_the_hosts_routes() {
    let host = Host::new(Release::Debian13);
    host.machine.sh("ip route add 172.17.64.0/24 via 192.0.2.1");
    let (_a, of_a) = host.connected("a", "bridge", &[]);
    assert_eq!(address(&of_a), Ipv4Addr::new(172, 18, 0, 2));
    let made = host.host.run(|| host.networks.create("net", &NetworkSettings::default())).unwrap();
    assert_eq!(made.subnet.to_string(), "172.19.0.0/16");
    let taken = NetworkSettings { subnet: Some("172.17.0.0/16".parse().unwrap()), ..NetworkSettings::default() };
    let error = host.host.run(|| host.networks.create("taken", &taken)).unwrap_err();
    assert!(matches!(error, NetError::Overlap { .. }), "{error}");
}

#[test]
fn two_stores_do_not_keep_each_others_default_network_from_coming_up() {
    let mut host = Host::new(Release::Debian13);
    let second = Networks::new(&host.machine.dir().join("second")).with_program(ferry());
    let (_, of_a) = host.connected("a", "bridge", &[]);
    host.detach(&of_a);
    host.host.run(|| host.networks.sweep()).unwrap();
    let first = std::mem::replace(&mut host.networks, second);
    let (_b, of_b) = host.connected("b", "bridge", &[]);
    let second = std::mem::replace(&mut host.networks, first);
    let (c, of_c) = host.connected("c", "bridge", &[]);
    host.host.serve("host", 7);
    assert_eq!(address(&of_b), Ipv4Addr::new(172, 17, 0, 2));
    assert_eq!(address(&of_c), Ipv4Addr::new(172, 18, 0, 2));
    assert_eq!(seen(c.tcp([172, 18, 0, 1], 7)), "host 172.18.0.2");
    // It stays where it is while it has containers, and is the same network as before.
    let (_d, of_d) = host.connected("d", "bridge", &[]);
    assert_eq!(address(&of_d), Ipv4Addr::new(172, 18, 0, 3));
    assert_eq!(of_a.endpoints[0].network_id, of_c.endpoints[0].network_id);
    // A link of that name that is somebody else's is left alone.
    host.machine.sh("ip link del ferry1; ip link add ferry1 type bridge");
    let f = host.container("f");
    let error = host.attach(&f, &request("f", "bridge", &[])).unwrap_err();
    assert!(matches!(error, NetError::LinkTaken { .. }), "{error}");
    host.networks = second;
    let (_e, of_e) = host.connected("e", "bridge", &[]);
    assert_eq!(address(&of_e), Ipv4Addr::new(172, 17, 0, 3));
}

#[test]
fn user_made_networks_resolve_names_and_are_apart_from_others() {
    let host = Host::new(Release::Debian13);
    let create = |name: &str| host.host.run(|| host.networks.create(name, &NetworkSettings::default())).unwrap();
    create("front");
    create("back");
    let (a, _) = host.connected("a", "front", &[]);
    // It comes later, and is found.
    let b = host.container("b");
    let mut wanted = request("b", "front", &[]);
    wanted.endpoint.aliases = vec!["DB".to_owned()];
    wanted.endpoint.ip = Some([172, 18, 0, 200].into());
    let of_b = host.attach(&b, &wanted).unwrap();
    b.serve("b", 80);
    let (_c, of_c) = host.connected("c", "back", &[]);
    assert!(of_b.resolver);
    let ask = |name: &str| {
        let look = format!("ip netns exec a busybox nslookup -type=a {name} 127.0.0.11 2>&1 || true");
        let said = host.machine.sh(&look);
        let answers = said.lines().skip_while(|line| !line.starts_with("Name:"));
        answers.filter_map(|line| Some(line.strip_prefix("Address:")?.trim().to_owned())).collect::<Vec<_>>()
    };
    for name in ["b", "B", "db", "b.front", &id("b")[..12]] {
        assert_eq!(ask(name), ["172.18.0.200"], "{name}");
    }
    assert_eq!(ask("c"), [""; 0]);
    let reverse = host.machine.sh("ip netns exec a busybox nslookup 172.18.0.200 127.0.0.11");
    assert!(reverse.contains("name = b.front"), "{reverse}");
    assert_eq!(seen(a.tcp(address(&of_b), 80)), "b 172.18.0.2");
    assert_eq!(seen(a.tcp(address(&of_c), 80)), "nobody");
    host.detach(&of_b);
    assert_eq!(ask("b"), [""; 0]);
    let error = host.host.run(|| host.networks.remove("front")).unwrap_err();
    assert!(matches!(error, NetError::InUse { .. }), "{error}");
    host.detach(&of_c);
    host.host.run(|| host.networks.remove("back")).unwrap();
}

#[test]
fn internal_networks_reach_nothing_beyond() {
    let host = Host::new(Release::Debian13);
    let settings = NetworkSettings { internal: true, ..NetworkSettings::default() };
    host.host.run(|| host.networks.create("inside", &settings)).unwrap();
    let ((a, _), (_b, of_b)) = (host.connected("a", "inside", &[]), host.connected("b", "inside", &[]));
    host.outside.serve("outside", 7);
    assert_eq!(seen(a.tcp(address(&of_b), 80)), "b 172.18.0.2");
    assert_eq!(seen(a.tcp(FAR, 7)), "nobody");
    // Not even with a route of its own making.
    host.machine.sh("ip -n a route add default via 172.18.0.1");
    assert_eq!(seen(a.tcp(FAR, 7)), "nobody");
}

#[test]
fn the_rules_are_what_nft_would_have_made() {
    for release in RELEASES {
        let host = Host::new(release);
        let publish = ["8080:80", "192.0.2.2:5353:53/udp", "127.0.0.1:99:99"];
        let (_web, of_web) = host.connected("web", "bridge", &publish);
        let network = &of_web.endpoints[0].network_id[..12];
        let rules = host.machine.sh("nft list table ip ferry");
        // Older versions have no name for the priority at this hook.
        let shown = rules
            .replace("priority -100", "priority dstnat")
            .replace(network, "NETWORK")
            .replace(&id("web")[..12], "CONTAINER");
        // What nft prints it reads, and its own encoding reads the same.
        let file = host.machine.dir().join("rules");
        std::fs::write(&file, format!("delete table ip ferry\n{rules}")).unwrap();
        host.machine.run("nft", ["-f", file.to_str().unwrap()]);
        assert_eq!(host.machine.sh("nft list table ip ferry"), rules, "{release:?}");
        insta::assert_snapshot!("rules", shown);
    }
}

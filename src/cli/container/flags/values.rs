//! What is typed after a flag, read as docker reads it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Component, PathBuf};

use crate::runtime::container::config::{DeviceMapping, MountRequest, PortBinding, RestartPolicy, Ulimit};
use crate::runtime::monitor::log::parse_size;
use crate::runtime::net::EndpointRequest;
use crate::runtime::{NetworkMode, RuntimeError};

pub(super) fn usage(text: impl Into<String>) -> RuntimeError {
    RuntimeError::usage(text)
}

/// Sizes as docker takes them.
pub fn bytes(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let whole = parse_size(text).and_then(|n| i64::try_from(n).ok());
    whole.ok_or_else(|| format!("invalid size {text:?}: give a number and b, k, m, g, t or p"))
}

/// `--userns`: docker's modes. Podman's are refused with what takes their place.
pub fn user_namespace(text: &str) -> Result<String, String> {
    match text {
        "" | "host" => Ok(text.to_owned()),
        "keep-id" | "auto" | "nomap" => Err(format!(
            "{text:?} is podman's: a user's containers share one user namespace, in which 0 is the user (run with --user 0, the \
             default, to write as yourself)"
        )),
        _ => Err(format!("invalid USER mode {text:?}: host is the only one")),
    }
}

/// Go's durations, in nanoseconds: `1m30s`, `500ms`.
pub fn duration(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid duration {text:?}: give it as 1m30s");
    let mut total = 0f64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += number.parse::<f64>().map_err(|_| bad())? * factor;
        rest = tail;
    }
    Ok(total as i64)
}

/// The lines of a file of `NAME=VALUE` or bare names that count: no comments and no empty ones. Editors put a mark of the
/// byte order first, which is not the name's.
fn lines(text: &str) -> Result<Vec<&str>, RuntimeError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(|line| line.trim_start().trim_end_matches('\r'));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for line in &lines {
        let name = line.split('=').next().unwrap_or_default();
        if name.contains([' ', '\t']) {
            return Err(usage(format!("variable '{name}' contains whitespaces")));
        }
        if name.is_empty() {
            return Err(usage(format!("no variable name on line '{line}'")));
        }
    }
    Ok(lines)
}

/// Variables of a file. A bare name is taken from the environment.
pub fn env_lines(text: &str) -> Result<Vec<String>, RuntimeError> {
    let mut pairs = Vec::new();
    for line in lines(text)? {
        pairs.extend(env_pair(line)?);
    }
    Ok(pairs)
}

/// Labels of a file. As docker: a bare name is none.
pub fn label_lines(text: &str) -> Result<Vec<String>, RuntimeError> {
    Ok(lines(text)?.into_iter().filter(|line| line.contains('=')).map(str::to_owned).collect())
}

/// `--label`, as docker checks it (`opts.ValidateLabel`).
pub fn check_label(text: &str) -> Result<(), RuntimeError> {
    let name = text.split('=').next().unwrap_or_default().trim_start_matches([' ', '\t']);
    if name.is_empty() {
        return Err(usage(format!("invalid label '{text}': empty name")));
    }
    if name.contains([' ', '\t']) {
        return Err(usage(format!("label '{name}' contains whitespaces")));
    }
    Ok(())
}

/// `NAME=VALUE`, or a bare name whose value is this process's; nothing when it is not set here.
pub fn env_pair(text: &str) -> Result<Option<String>, RuntimeError> {
    match text.split_once('=') {
        Some(("", _)) => Err(usage(format!("invalid environment variable: {text}"))),
        Some(_) => Ok(Some(text.to_owned())),
        None if text.is_empty() || text.contains(char::is_whitespace) => {
            Err(usage(format!("variable '{text}' contains whitespaces")))
        }
        None => Ok(std::env::var(text).ok().map(|value| format!("{text}={value}"))),
    }
}

/// `--add-host` as the runtime has it, `NAME:ADDRESS`: typed with `=` as well, and the address in brackets (docker's
/// `opts/hosts.go`).
pub fn extra_host(text: &str) -> Result<String, RuntimeError> {
    let pair = text.split_once('=').or_else(|| text.split_once(':'));
    let named = pair.filter(|(name, _)| !name.is_empty() && !name.contains(':'));
    let (name, address) = named.ok_or_else(|| usage(format!("bad format for add-host: {text:?}")))?;
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return Err(usage(format!("invalid IP address in add-host: {address:?}")));
    }
    Ok(format!("{name}:{address}"))
}

/// `--network`: a mode, or docker's long form `name=NETWORK,alias=NAME,ip=ADDRESS,mac-address=ADDRESS`.
pub fn network(text: &str) -> Result<(NetworkMode, EndpointRequest), RuntimeError> {
    let bad = |why: &str| usage(format!("invalid network {text:?}: {why}"));
    let mode = |name: &str| name.parse::<NetworkMode>().map_err(|error| usage(error.to_string()));
    let mut endpoint = EndpointRequest::default();
    if !text.contains('=') {
        return Ok((mode(text)?, endpoint));
    }
    let mut name = "";
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| bad(&format!("invalid field {field}")))?;
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => name = value,
            "alias" => endpoint.aliases.push(value.to_owned()),
            "ip" => endpoint.ip = Some(value.parse().map_err(|_| bad("ip is not an IPv4 address"))?),
            "mac-address" => {
                endpoint.mac = Some(value.parse().map_err(|_| bad("mac-address is not an Ethernet address"))?);
            }
            key @ ("driver-opt" | "ip6" | "link-local-ip") => return Err(bad(&format!("{key} is not supported"))),
            key => return Err(bad(&format!("invalid field key {key}"))),
        }
    }
    if name.is_empty() { Err(bad("no name set for network")) } else { Ok((mode(name)?, endpoint)) }
}

/// `--volumes-from CONTAINER[:MODE]`, with `ro` as the one mode that changes anything.
pub fn volumes_from(text: &str) -> Result<String, RuntimeError> {
    let (container, modes) = text.split_once(':').unwrap_or((text, "rw"));
    if container.is_empty() {
        return Err(usage(format!("invalid volumes-from specification: {text}")));
    }
    let known = |mode: &str| matches!(mode, "ro" | "rw" | "z" | "Z" | "cached" | "delegated" | "consistent");
    if !modes.split(',').all(known) {
        return Err(usage(format!("invalid mode: {modes}")));
    }
    let read_only = modes.split(',').any(|mode| mode == "ro");
    Ok(if read_only { format!("{container}:ro") } else { container.to_owned() })
}

/// A file of lines, which is no larger than such files are.
pub fn read(path: &PathBuf) -> Result<String, RuntimeError> {
    use crate::base::AtPath;
    let mut file = std::fs::File::open(path).at("open", path)?;
    let bytes = crate::base::caps::read_all(&mut file, 1 << 20, "the file").at("read", path)?;
    String::from_utf8(bytes).map_err(|_| usage(format!("{} is not UTF-8", path.display())))
}

/// `--restart`.
pub fn restart_policy(text: &str) -> Result<RestartPolicy, RuntimeError> {
    let wrong = |why: &str| usage(format!("invalid restart policy{why}"));
    let Some((name, count)) = text.split_once(':') else {
        // Which there are is looked at where the container is made.
        return Ok(RestartPolicy { name: text.to_owned(), maximum_retry_count: 0 });
    };
    if name.is_empty() {
        return Err(wrong(" format: no policy provided before colon"));
    }
    let count = count.parse::<i64>().map_err(|_| wrong(" format: maximum retry count must be an integer"))?;
    if count < 0 {
        return Err(wrong(": maximum retry count cannot be negative"));
    }
    let count = u32::try_from(count).map_err(|_| wrong(": maximum retry count is too large"))?;
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count: count })
}

/// `--cpus` in billionths.
pub fn nano_cpus(text: &str) -> Result<i64, RuntimeError> {
    let number = text.parse::<f64>().ok().filter(|n| (0.0..1e6).contains(n));
    number.map(|n| (n * 1e9).round() as i64).ok_or_else(|| usage(format!("invalid number of CPUs {text:?}")))
}

pub fn port_range(text: &str) -> Result<std::ops::RangeInclusive<u16>, RuntimeError> {
    let bad = || usage(format!("invalid port {text:?}"));
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.parse::<u16>().map_err(|_| bad())?, to.parse::<u16>().map_err(|_| bad())?);
    if from == 0 || to < from { Err(bad()) } else { Ok(from..=to) }
}

/// `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, each part of the ports a range perhaps, or
/// `target=CONTAINER[,published=HOST][,protocol=PROTOCOL]`.
pub fn published(text: &str) -> Result<Vec<(String, PortBinding)>, RuntimeError> {
    let bad = |why: &str| usage(format!("invalid published port {text:?}: {why}"));
    let short = short_publish(text)?;
    let text = short.as_str();
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp") {
        return Err(bad("the protocol is tcp or udp"));
    }
    let (rest, inside) = address.rsplit_once(':').map_or((None, address), |(rest, inside)| (Some(rest), inside));
    let (host_ip, host) = match rest {
        None => ("", ""),
        Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
    };
    let host_ip = host_ip.trim_start_matches('[').trim_end_matches(']');
    if !host_ip.is_empty() && host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(bad("the host's address is not an IP address"));
    }
    let inside = port_range(inside)?;
    let binding = |port: String| PortBinding { host_ip: host_ip.to_owned(), host_port: port };
    // 0 is any, as docker has it.
    if matches!(host, "" | "0") {
        return Ok(inside.map(|port| (format!("{port}/{protocol}"), binding(String::new()))).collect());
    }
    let outside = port_range(host)?;
    if outside.clone().count() != inside.clone().count() {
        if inside.clone().count() == 1 {
            // One port of the container on any of a range.
            return Ok(vec![(format!("{}/{protocol}", inside.start()), binding(host.to_owned()))]);
        }
        return Err(bad("the two ranges differ in length"));
    }
    Ok(inside.zip(outside).map(|(i, o)| (format!("{i}/{protocol}"), binding(o.to_string()))).collect())
}

/// A long form as a short one. As docker: keys that it has no use for mean nothing.
fn short_publish(text: &str) -> Result<String, RuntimeError> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let (mut host, mut inside, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=') {
            None | Some(("", _)) => {
                return Err(usage(format!("invalid publish opts format (should be name=value but got '{field}')")));
            }
            Some(("published", value)) => host = value,
            Some(("target", value)) => inside = value,
            Some(("protocol", value)) => protocol = value,
            Some(_) => {}
        }
    }
    Ok(format!("{host}:{inside}/{protocol}"))
}

pub fn device(text: &str) -> Result<DeviceMapping, RuntimeError> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |mode: &str| !mode.is_empty() && mode.chars().all(|c| "rwm".contains(c));
    let (host, inside, mode) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if is_mode(mode) => (host, host, mode),
        [host, inside] => (host, inside, "rwm"),
        [host, inside, mode] if is_mode(mode) => (host, inside, mode),
        _ => return Err(usage(format!("invalid device specification {text:?}"))),
    };
    if !host.starts_with('/') || !inside.starts_with('/') {
        return Err(usage(format!("invalid device specification {text:?}: paths must be absolute")));
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: inside.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

pub fn ulimit(text: &str) -> Result<Ulimit, RuntimeError> {
    let bad = || usage(format!("invalid ulimit {text:?}: give NAME=SOFT[:HARD]"));
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "unlimited" | "-1" => Ok(-1),
        text => text.parse::<i64>().ok().filter(|n| *n >= 0).ok_or_else(bad),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard >= 0 && (soft < 0 || soft > hard) {
        return Err(usage(format!("ulimit soft limit must be less than or equal to hard limit: {text}")));
    }
    Ok(Ulimit { name: name.to_owned(), hard, soft })
}

/// A path of the host's that begins with a dot is one from the working directory.
pub fn from_here(path: &str) -> Result<String, RuntimeError> {
    let source = path.split(':').next().unwrap_or_default();
    if !source.starts_with('.') {
        return Ok(path.to_owned());
    }
    use crate::base::AtPath;
    let here = std::env::current_dir().at("find", ".")?;
    // Without its dots, as Go's filepath.Abs.
    let mut whole = PathBuf::from("/");
    for part in here.join(source).components() {
        match part {
            Component::Normal(part) => whole.push(part),
            Component::ParentDir => drop(whole.pop()),
            _ => {}
        }
    }
    let whole = whole.to_str().ok_or_else(|| usage(format!("{}: the path is not UTF-8", whole.display())))?;
    Ok(format!("{whole}{}", &path[source.len()..]))
}

/// A volume that is made, when it is not there, with more than a name.
#[derive(Debug, PartialEq, Eq)]
pub struct NewVolume {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

/// The fields of a line of CSV, with Go's quotes.
fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, more) = rest.split_once(',').map_or((rest, None), |(field, more)| (field, Some(more)));
            fields.push(field.to_owned());
            match more {
                Some(more) => rest = more,
                None => return Some(fields),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let (part, after) = quoted.split_once('"')?;
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    quoted = more;
                }
                None => {
                    rest = after;
                    break;
                }
            }
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.is_empty().then_some(fields),
        }
    }
}

/// `--mount`, and the volume that is made for it when more is said of it than its name.
pub fn mount(text: &str) -> Result<(MountRequest, Option<NewVolume>), RuntimeError> {
    let bad = |why: String| usage(format!("invalid argument {text:?} for --mount: {why}"));
    let mut mount = MountRequest { kind: "volume".to_owned(), ..MountRequest::default() };
    let (mut labels, mut options) = (BTreeMap::new(), BTreeMap::new());
    // Keys of one kind of mount.
    let mut special = Vec::new();
    for field in fields(text).ok_or_else(|| bad("a quote is not closed".into()))? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.to_ascii_lowercase();
        let on = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(bad(format!("invalid value for {key}: {other}"))),
        };
        let needed = || value.map(str::to_owned).ok_or_else(|| bad(format!("{key} needs a value")));
        let pair = || {
            let text = needed()?;
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            Ok::<_, RuntimeError>((name.to_owned(), value.to_owned()))
        };
        let kinds = ["volume", "bind", "tmpfs"];
        special
            .extend(kinds.into_iter().filter(|kind| key.strip_prefix(*kind).is_some_and(|key| key.starts_with('-'))));
        match key.as_str() {
            "type" => mount.kind = needed()?.to_ascii_lowercase(),
            "source" | "src" => mount.source = needed()?,
            "target" | "dst" | "destination" => mount.target = needed()?,
            "readonly" | "ro" => mount.read_only = on()?,
            "bind-propagation" => mount.propagation = needed()?,
            "bind-nonrecursive" if !on()? => {}
            "bind-recursive" if needed()? == "enabled" => {}
            "bind-nonrecursive" | "bind-recursive" | "volume-subpath" => {
                return Err(bad(format!("{key} is not supported")));
            }
            "volume-nocopy" => mount.no_copy = on()?,
            "volume-label" => labels.extend([pair()?]),
            "volume-opt" => options.extend([pair()?]),
            "volume-driver" if needed()? == "local" => {}
            "volume-driver" => return Err(bad("local is the one driver there is".into())),
            "tmpfs-size" => {
                let size = parse_size(&needed()?).ok_or_else(|| bad("tmpfs-size is not a size".into()))?;
                mount.tmpfs_size = size;
            }
            "tmpfs-mode" => {
                mount.tmpfs_mode =
                    u32::from_str_radix(&needed()?, 8).map_err(|_| bad("tmpfs-mode is not octal".into()))?;
            }
            "consistency" => {}
            _ => return Err(bad(format!("unexpected key '{key}'"))),
        }
    }
    if mount.target.is_empty() {
        return Err(bad("target is required".into()));
    }
    if let Some(other) = special.into_iter().find(|kind| *kind != mount.kind) {
        return Err(bad(format!("cannot mix '{other}-*' options with mount type '{}'", mount.kind)));
    }
    if mount.kind == "bind" && mount.source.is_empty() {
        return Err(bad("a bind mount needs a source".into()));
    }
    if mount.kind == "bind" && !mount.source.contains(':') {
        mount.source = from_here(&mount.source)?;
    }
    if labels.is_empty() && options.is_empty() {
        return Ok((mount, None));
    }
    if mount.source.is_empty() {
        return Err(bad("volume-opt and volume-label need a source, the volume's name".into()));
    }
    let volume = NewVolume { name: mount.source.clone(), labels, options };
    Ok((mount, Some(volume)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_published_as_docker_reads_them() {
        let binding = |ip: &str, port: &str| PortBinding { host_ip: ip.into(), host_port: port.into() };
        let one = |text: &str| published(text).ok().map(|mut all| (all.len(), all.remove(0)));
        let cases = [
            ("80", Some((1, ("80/tcp".to_owned(), binding("", ""))))),
            ("8080:80", Some((1, ("80/tcp".to_owned(), binding("", "8080"))))),
            ("127.0.0.1:8080:80/udp", Some((1, ("80/udp".to_owned(), binding("127.0.0.1", "8080"))))),
            ("127.0.0.1::80", Some((1, ("80/tcp".to_owned(), binding("127.0.0.1", ""))))),
            ("[::1]:8080:80", Some((1, ("80/tcp".to_owned(), binding("::1", "8080"))))),
            ("8000-8002:80-82", Some((3, ("80/tcp".to_owned(), binding("", "8000"))))),
            ("8000-8002:80", Some((1, ("80/tcp".to_owned(), binding("", "8000-8002"))))),
            ("8000-8002:80-81", None),
            ("0:80", Some((1, ("80/tcp".to_owned(), binding("", ""))))),
            ("127.0.0.1:0:80-81", Some((2, ("80/tcp".to_owned(), binding("127.0.0.1", ""))))),
            ("0-1:80", None),
            ("x:80", None),
            ("80/sctp", None),
            ("0", None),
            ("target=80,published=7010,protocol=udp", Some((1, ("80/udp".to_owned(), binding("", "7010"))))),
            ("target=80,mode=host", Some((1, ("80/tcp".to_owned(), binding("", ""))))),
            ("target=80,x", None),
            ("published=80", None),
        ];
        for (text, expected) in cases {
            assert_eq!(one(text), expected, "{text}");
        }
    }

    #[test]
    fn hosts_are_added_as_docker_reads_them() {
        for (text, expected) in [
            ("db:10.0.0.5", Some("db:10.0.0.5")),
            ("db=10.0.0.5", Some("db:10.0.0.5")),
            ("v6:[::1]", Some("v6:::1")),
            ("v6:::1", Some("v6:::1")),
            ("v6=::1", Some("v6:::1")),
            ("up=host-gateway", Some("up:host-gateway")),
            ("a:b=1.1.1.1", None),
            ("=1.1.1.1", None),
            (":1.1.1.1", None),
            ("db", None),
            ("db:", None),
            ("db:x", None),
        ] {
            assert_eq!(extra_host(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn networks_are_named_in_both_forms() {
        let (mode, endpoint) = network("name=N,alias=A,alias=B,ip=10.0.0.9,mac-address=02:42:0a:00:00:09").unwrap();
        assert_eq!((mode, endpoint.aliases), (NetworkMode::Bridge("N".into()), vec!["A".to_owned(), "B".to_owned()]));
        assert_eq!(endpoint.ip.unwrap().to_string(), "10.0.0.9");
        assert!(endpoint.mac.is_some());
        assert_eq!(network("host").unwrap(), (NetworkMode::Host, EndpointRequest::default()));
        for wrong in ["alias=A", "name=", "name=N,x=y", "name=N,ip=x", "name=N,", "name=N,ip6=::1", "name=a/b"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn volumes_of_others_are_read() {
        for (text, expected) in [
            ("c", Some("c")),
            ("c:rw", Some("c")),
            ("c:ro", Some("c:ro")),
            ("c:ro,z", Some("c:ro")),
            ("c:bad", None),
            ("c:", None),
            (":ro", None),
        ] {
            assert_eq!(volumes_from(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn names_in_files_of_variables_have_no_spaces() {
        for (text, expected) in [
            ("A=1\n# no\n\n  B=2 3\r\n", Some(vec!["A=1", "B=2 3"])),
            ("D =1", None),
            ("D\t=1", None),
            ("A B=1", None),
            ("=1", None),
            ("\u{feff}A=1\nB=2", Some(vec!["A=1", "B=2"])),
        ] {
            let expected = expected.map(|lines| lines.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(env_lines(text).ok(), expected, "{text:?}");
        }
        assert_eq!(label_lines("\u{feff}a=1\nbare\n b=\n").unwrap(), ["a=1", "b="]);
        for (text, good) in [("a", true), ("a=b c", true), (" a=", true), ("=x", false), ("", false), ("a b=x", false)]
        {
            assert_eq!(check_label(text).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn mounts_have_what_is_of_their_kind() {
        for (text, word) in [
            ("type=bind,src=/a,dst=/x,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
            ("src=v,dst=/x,bind-propagation=shared", "cannot mix 'bind-*' options with mount type 'volume'"),
            ("type=bind,src=/a,dst=/x,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
            ("type=bind,src=/a,dst=/x,bind-nonrecursive", "bind-nonrecursive is not supported"),
            ("type=bind,src=/a,dst=/x,bind-recursive=readonly", "bind-recursive is not supported"),
            ("src=v,dst=/x,volume-subpath=a", "volume-subpath is not supported"),
            ("dst=/x,volume-label=a=b", "need a source"),
            ("src=v,dst=/x,volume-driver=nfs", "local is the one driver"),
            ("src=v,dst=/x,\"volume-opt=o=a,b", "a quote is not closed"),
            ("src=v,dst=/x,\"ro\"x", "a quote is not closed"),
        ] {
            let failed = mount(text).unwrap_err().to_string();
            assert!(failed.contains(word), "{text}: {failed}");
        }
        for text in [
            "type=bind,src=/a,dst=/x,bind-recursive=enabled,bind-nonrecursive=false",
            "src=v,dst=/x,volume-nocopy,volume-driver=local",
            "type=tmpfs,dst=/x,tmpfs-mode=700",
        ] {
            assert_eq!(mount(text).unwrap().1, None, "{text}");
        }
        let (_, volume) = mount("src=v,dst=/x,volume-label=a=b,volume-opt=type=none,\"volume-opt=o=bind,ro\"").unwrap();
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let options = pairs(&[("type", "none"), ("o", "bind,ro")]);
        assert_eq!(volume, Some(NewVolume { name: "v".to_owned(), labels: pairs(&[("a", "b")]), options }));
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("1s", Some(1_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5ms", Some(1_500_000)),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }
}

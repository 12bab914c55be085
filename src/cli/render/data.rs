//! Values in templates. Docker's templates run on Go's structs, maps, lists and pointers, which are printed, and looked
//! into, each in its own way; of all but the structs JSON tells too little, so that here their names are known.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Number, Value};

/// The field in which templates find a label by its key: `{{.Label "key"}}`.
pub const LABEL: &str = "Label";

/// Fields by their names.
pub type Fields = BTreeMap<String, Data>;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// What a map has no entry for, and `nil`.
    Nothing,
    /// A null of this kind.
    Nil(Kind),
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// One of Go's durations, in nanoseconds.
    Duration(i64),
    /// A string.
    Text(Arc<str>),
    /// A list.
    List(Arc<Vec<Data>>),
    /// A map, and the kind of what it has none of.
    Map(Arc<Fields>, Kind),
    /// A struct: to ask for a field that it does not have is an error.
    Struct(Arc<Fields>),
}

/// The kinds of Go's values that nulls stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string, which cannot be null: it is empty.
    Text,
    /// A list.
    List,
    /// A map.
    Map,
    /// A pointer.
    Pointer,
    /// A struct, which cannot be null either.
    Struct,
    /// Anything, in a document that is taken as it stands: to ask a map for what it has not is an error there.
    Any,
}

impl Kind {
    /// The zero value.
    pub fn zero(self) -> Data {
        match self {
            Self::Text => Data::text(""),
            Self::Struct => Data::Struct(Arc::default()),
            Self::Any => Data::Nothing,
            kind => Data::Nil(kind),
        }
    }
}

/// Lists that can be null (docker's `api/types`: `container`, `network`, `image`).
const LISTS: &[&str] = &[
    "Aliases",
    "Args",
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "Capabilities",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceIDs",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Layers",
    "Links",
    "Log",
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Pointers that can be null.
const POINTERS: &[&str] = &[
    "Config",
    "ConsoleSize",
    "GraphDriver",
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "SizeRootFs",
    "SizeRw",
    "StopTimeout",
];

/// Durations, all of a health check.
const DURATIONS: &[&str] = &["Interval", "StartInterval", "StartPeriod", "Timeout"];

/// Fields that docker's JSON leaves out when they are zero, though its templates know them.
const LEFT_OUT: &[&str] = &[
    "Annotations",
    "ExposedPorts",
    "Health",
    "Healthcheck",
    "Init",
    "Mounts",
    "Shell",
    "SizeRootFs",
    "SizeRw",
    "StopSignal",
    "StopTimeout",
    "StorageOpt",
    "Sysctls",
    "Test",
    "Tmpfs",
];

/// Fields whose names in Go, which templates use, are not those of the documents.
const RENAMED: &[(&str, &str)] = &[
    ("CPUCount", "CpuCount"),
    ("CPUPercent", "CpuPercent"),
    ("CPUPeriod", "CpuPeriod"),
    ("CPUQuota", "CpuQuota"),
    ("CPURealtimePeriod", "CpuRealtimePeriod"),
    ("CPURealtimeRuntime", "CpuRealtimeRuntime"),
    ("CPUShares", "CpuShares"),
    ("DNS", "Dns"),
    ("DNSOptions", "DnsOptions"),
    ("DNSSearch", "DnsSearch"),
    ("ID", "Id"),
    ("NanoCPUs", "NanoCpus"),
];

/// The name in the documents of a field of Go's structs; `None` for what is no name there.
pub fn name_of_field(name: &str) -> Option<&str> {
    match RENAMED.iter().find(|(go, json)| *go == name || *json == name) {
        Some((go, json)) => (*go == name).then_some(*json),
        None => Some(name),
    }
}

/// The order of the fields of those structs that are printed whole; those of others are in the order of their names.
const ORDER: &[&str] = &[
    "Data",
    "Type",
    "Name",
    "Source",
    "Destination",
    "Driver",
    "Mode",
    "RW",
    "Propagation",
    "MaximumRetryCount",
    "Config",
    "Layers",
    "Status",
    "Running",
    "Paused",
    "Restarting",
    "OOMKilled",
    "Dead",
    "Pid",
    "ExitCode",
    "Error",
    "StartedAt",
    "FinishedAt",
    "Health",
    "Test",
    "Interval",
    "Timeout",
    "StartPeriod",
    "StartInterval",
    "Retries",
];

/// What the entries are of the maps of that name; `None` if it is no map's.
fn entries(name: &str, of: &str) -> Option<Kind> {
    Some(match (name, of) {
        ("Annotations" | "Attributes" | "AuxiliaryAddresses" | "DriverOpts" | "Label" | "Labels", _)
        | ("Options" | "StorageOpt" | "Sysctls" | "Tmpfs", _)
        | ("Config", "LogConfig")
        | ("Data", "GraphDriver") => Kind::Text,
        ("ExposedPorts" | "Containers", _) | ("Volumes", "Config") => Kind::Struct,
        ("Ports" | "PortBindings", _) => Kind::List,
        ("Networks", _) => Kind::Pointer,
        _ => return None,
    })
}

/// The fields that a struct has in docker even where its document leaves them out.
fn known(name: &str, of: &str, fields: &Fields) -> Vec<(&'static str, Data)> {
    let all = |names: &[&'static str], zero: Data| names.iter().map(|name| (*name, zero.clone())).collect::<Vec<_>>();
    match (name, of) {
        ("Config", "") => [
            all(&["Cmd", "Entrypoint", "Env", "OnBuild", "Shell"], Data::Nil(Kind::List)),
            all(&["ExposedPorts", "Labels", "Volumes"], Data::Nil(Kind::Map)),
            all(&["Domainname", "Hostname", "Image", "StopSignal", "User", "WorkingDir"], Data::text("")),
            all(&["AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"], Data::Bool(false)),
            all(&["Healthcheck", "StopTimeout"], Data::Nil(Kind::Pointer)),
        ]
        .concat(),
        ("Healthcheck", _) => [
            all(&["Test"], Data::Nil(Kind::List)),
            all(DURATIONS, Data::Duration(0)),
            all(&["Retries"], Data::Number(0.into())),
        ]
        .concat(),
        _ if fields.contains_key("Destination") && fields.contains_key("RW") => {
            all(&["Type", "Name", "Source", "Driver", "Mode", "Propagation"], Data::text(""))
        }
        _ => vec![],
    }
}

impl Data {
    /// A string.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// A document of docker's, or a row of a list.
    pub fn of(value: &Value) -> Self {
        Self::field(value, "", None)
    }

    /// A document as it stands: what is null has no kind. So docker takes it when a template does not fit its structs.
    pub fn raw(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::text(text.as_str()),
            Value::Array(items) => Self::List(Arc::new(items.iter().map(Self::raw).collect())),
            Value::Object(items) => {
                let fields = items.iter().map(|(key, value)| (key.clone(), Self::raw(value)));
                Self::Map(Arc::new(fields.collect()), Kind::Any)
            }
        }
    }

    /// The field `name` of the struct that is itself the field `of` of another; `""` and `None` is the document.
    fn field(value: &Value, name: &str, of: Option<&str>) -> Self {
        match (value, entries(name, of.unwrap_or_default())) {
            (Value::Null, Some(_)) => Self::Nil(Kind::Map),
            (Value::Null, None) if LISTS.contains(&name) => Self::Nil(Kind::List),
            (Value::Null, None) if POINTERS.contains(&name) => Self::Nil(Kind::Pointer),
            (Value::Null, None) if name == "StopSignal" => Self::text(""),
            (Value::Null, None) => Self::Nothing,
            (Value::Bool(value), _) => Self::Bool(*value),
            (Value::Number(number), _) if of == Some("Healthcheck") && DURATIONS.contains(&name) => {
                Self::Duration(number.as_i64().unwrap_or_default())
            }
            (Value::Number(number), _) => Self::Number(number.clone()),
            (Value::String(text), _) => Self::text(text.as_str()),
            (Value::Array(items), _) => Self::List(Arc::new(items.iter().map(Self::item).collect())),
            (Value::Object(items), Some(kind)) => {
                let entry = |(key, value): (&String, &Value)| {
                    (key.clone(), if value.is_null() { kind.zero() } else { Self::item(value) })
                };
                Self::Map(Arc::new(items.iter().map(entry).collect()), kind)
            }
            (Value::Object(items), None) => {
                let mut fields: Fields =
                    items.iter().map(|(key, value)| (key.clone(), Self::field(value, key, Some(name)))).collect();
                for (key, zero) in known(name, of.unwrap_or("document"), &fields) {
                    fields.entry(key.to_owned()).or_insert(zero);
                }
                Self::Struct(Arc::new(fields))
            }
        }
    }

    /// An item of a list or a map: nothing has its name, and a null is a null pointer.
    fn item(value: &Value) -> Self {
        if value.is_null() { Self::Nil(Kind::Pointer) } else { Self::field(value, "", Some("item")) }
    }

    /// What Go's templates take for true.
    pub fn truth(&self) -> bool {
        match self {
            Self::Nothing | Self::Nil(_) => false,
            Self::Bool(value) => *value,
            Self::Number(number) => number.as_f64() != Some(0.0),
            Self::Duration(nanoseconds) => *nanoseconds != 0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(fields, _) => !fields.is_empty(),
            // Go: struct values are always true.
            Self::Struct(_) => true,
        }
    }

    /// The value as JSON.
    pub fn json(&self) -> Value {
        let all = |fields: &Fields, keep: &dyn Fn(&str, &Self) -> bool| {
            let kept = fields.iter().filter(|(name, value)| keep(name, value));
            Value::Object(kept.map(|(name, value)| (name.clone(), value.json())).collect())
        };
        match self {
            Self::Nothing | Self::Nil(_) => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Duration(nanoseconds) => Value::from(*nanoseconds),
            Self::Text(text) => Value::from(&**text),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Map(fields, _) => all(fields, &|_, _| true),
            Self::Struct(fields) => all(fields, &|name, value| match value {
                // What lists look single labels up in is no field.
                Self::Map(..) => name != LABEL,
                Self::Nothing | Self::Nil(_) => !LEFT_OUT.contains(&name),
                Self::Duration(nanoseconds) => *nanoseconds != 0,
                Self::Number(number) => name != "Retries" || number.as_i64() != Some(0),
                Self::Text(text) if text.is_empty() => {
                    name != "StopSignal"
                        && !(matches!(name, "Name" | "Driver" | "Type") && fields.contains_key("Destination"))
                }
                _ => true,
            }),
        }
    }

    /// A struct's fields in the order in which Go prints them.
    pub fn ordered(fields: &Fields) -> Vec<(&String, &Self)> {
        let mut ordered: Vec<_> = fields.iter().collect();
        ordered.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
        ordered
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_times_of_a_health_check_are_durations() {
        let document = json!({"Config": {"Healthcheck": {"Interval": 5}}, "Interval": 5});
        let Data::Struct(fields) = Data::of(&document) else { panic!() };
        assert_eq!(fields["Interval"], Data::Number(5.into()));
        let Data::Struct(config) = &fields["Config"] else { panic!() };
        let Data::Struct(check) = &config["Healthcheck"] else { panic!() };
        assert_eq!((&check["Interval"], &check["Timeout"]), (&Data::Duration(5), &Data::Duration(0)));
        assert_eq!(config["Healthcheck"].json(), json!({"Interval": 5}));
    }

    #[test]
    fn nulls_are_of_the_kinds_that_docker_has() {
        let document = json!({
            "ExecIDs": null, "State": {"Health": null}, "Odd": null, "Config": {"ExposedPorts": {"80/tcp": {}}},
            "HostConfig": {"CapAdd": null, "Init": null, "LogConfig": {"Config": {}}},
            "Mounts": [{"Destination": "/a", "RW": true}],
        });
        let Data::Struct(fields) = Data::of(&document) else { panic!() };
        let at = |path: &[&str]| {
            path.iter().fold(Data::Struct(fields.clone()), |value, name| match value {
                Data::Struct(fields) | Data::Map(fields, _) => fields[*name].clone(),
                other => panic!("{other:?}"),
            })
        };
        for (path, expected) in [
            (&["ExecIDs"][..], Data::Nil(Kind::List)),
            (&["State", "Health"], Data::Nil(Kind::Pointer)),
            (&["Odd"], Data::Nothing),
            (&["HostConfig", "CapAdd"], Data::Nil(Kind::List)),
            (&["HostConfig", "Init"], Data::Nil(Kind::Pointer)),
            (&["HostConfig", "LogConfig", "Config"], Data::Map(Arc::default(), Kind::Text)),
            (&["Config", "ExposedPorts", "80/tcp"], Data::Struct(Arc::default())),
            (&["Config", "Entrypoint"], Data::Nil(Kind::List)),
            (&["Config", "Labels"], Data::Nil(Kind::Map)),
        ] {
            assert_eq!(at(path), expected, "{path:?}");
        }
        assert_eq!(
            at(&["Mounts"]).json(),
            json!([{"Destination": "/a", "RW": true, "Source": "", "Mode": "", "Propagation": ""}])
        );
        assert_eq!(at(&["HostConfig"]).json(), json!({"CapAdd": null, "LogConfig": {"Config": {}}}));
    }
}

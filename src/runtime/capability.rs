//! Capabilities by name, and the set that docker gives.

use super::error::RuntimeError;

/// All capabilities in the kernel's order (`linux/capability.h`): a capability's place is its number.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What docker gives a container (moby `oci/caps/defaults.go`).
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A set of capabilities: bit n is capability number n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapSet(pub u64);

impl CapSet {
    /// The set of these names; names that this ferry does not know are left out.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let number = |name| NAMES.iter().position(|known| *known == name);
        Self(names.into_iter().filter_map(number).fold(0, |set, number| set | 1 << number))
    }

    /// The names, in the kernel's order.
    pub fn names(self) -> Vec<&'static str> {
        NAMES.iter().enumerate().filter(|(number, _)| self.0 >> number & 1 == 1).map(|(_, name)| *name).collect()
    }

    /// What this process could give at most: its bounding set.
    pub fn bounding() -> Self {
        let held = std::fs::read_to_string("/proc/self/status").ok();
        let line = held.as_deref().and_then(|status| status.lines().find_map(|line| line.strip_prefix("CapBnd:")));
        let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        Self(bits.unwrap_or(u64::MAX) & ((1 << NAMES.len()) - 1))
    }

    /// The number of the newest capability known here.
    pub const LAST: u32 = NAMES.len() as u32 - 1;
}

/// The set that `--cap-add` and `--cap-drop` ask for. Names count with or without `CAP_`, in any case; `ALL` is all.
pub fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<CapSet, RuntimeError> {
    let parse = |name: &String| -> Result<CapSet, RuntimeError> {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            return Ok(CapSet::bounding());
        }
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        match CapSet::of([full.as_str()]) {
            CapSet(0) => Err(RuntimeError::usage(format!("unknown capability {name:?}"))),
            set => Ok(set),
        }
    };
    if privileged {
        return Ok(CapSet::bounding());
    }
    let is_all = |name: &String| matches!(name.to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL");
    let mut set = if drop.iter().any(is_all) { CapSet(0) } else { CapSet::of(DEFAULT) };
    if add.iter().any(is_all) {
        set = CapSet::bounding();
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set.0 &= !parse(name)?.0;
    }
    for name in add {
        let added = parse(name)?;
        // `--cap-add ALL --cap-drop X` leaves X out.
        if !is_all(name) {
            set.0 |= added.0;
        }
    }
    Ok(CapSet(set.0 & CapSet::bounding().0))
}

//! Which devices a v2 group may use: a BPF program, since v2 has no files for it.

use std::fs::File;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::base::AtPath;
use crate::runtime::error::{RuntimeError, While};
use crate::sys::ebpf::{self, DeviceRule};

/// Attaches the rules to the group at `dir`. The last rule that fits decides, as in v1.
pub fn attach(dir: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), RuntimeError> {
    let rules: Vec<DeviceRule> = rules.iter().map(convert).collect();
    let group = File::open(dir).at("open", dir)?;
    ebpf::attach_device_filter(&group, &rules).trying("restrict the container's devices")
}

fn convert(rule: &LinuxDeviceCgroup) -> DeviceRule {
    let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => Some(ebpf::BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(ebpf::CHARACTER),
        _ => None,
    };
    let access = rule.access().as_deref().unwrap_or("rwm").chars();
    let access = access.fold(0, |set, c| {
        set | match c {
            'm' => ebpf::MKNOD,
            'r' => ebpf::READ,
            'w' => ebpf::WRITE,
            _ => 0,
        }
    });
    DeviceRule { allow: rule.allow(), kind, major: number(rule.major()), minor: number(rule.minor()), access }
}

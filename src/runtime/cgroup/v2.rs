//! cgroups v2, one tree for all controllers.

use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::{Cgroup, devices, write};
use crate::base::{AtPath, PathError};
use crate::runtime::error::RuntimeError;

pub fn create(root: &Path, path: &Path) -> Result<(), PathError> {
    let mut dir = root.to_owned();
    for part in path.components() {
        enable_controllers(&dir);
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.at("create", &dir)?,
        }
    }
    Ok(())
}

/// Gives a group's children all that it has. One at a time: a controller that cannot be given (threads, real-time
/// processes) must not keep the others; whether a limit can be set shows when it is set.
fn enable_controllers(dir: &Path) {
    let have = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let on = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in have.split_whitespace().filter(|name| !on.split_whitespace().any(|on| on == *name)) {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

pub fn set(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), RuntimeError> {
    let Some(dir) = cgroup.v2_dir() else { return Ok(()) };
    let max = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|n| *n != 0);
        if let Some(limit) = limit {
            write(&dir, "memory.max", max(limit))?;
        }
        if let Some(swap) = memory.swap().filter(|n| *n != 0) {
            // The document counts memory and swap together, v2 swap alone. A kernel without swap has no such file.
            let alone = if swap < 0 { -1 } else { swap.saturating_sub(limit.unwrap_or(0)).max(0) };
            if dir.join("memory.swap.max").exists() {
                write(&dir, "memory.swap.max", max(alone))?;
            }
        }
        if let Some(reservation) = memory.reservation().filter(|n| *n != 0) {
            write(&dir, "memory.low", max(reservation))?;
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|n| *n > 0) {
            // 2…262144 shares to a weight of 1…10000, as the OCI runtimes convert them.
            write(&dir, "cpu.weight", 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142)?;
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            let quota = cpu.quota().filter(|n| *n > 0).map_or("max".to_owned(), |n| n.to_string());
            write(&dir, "cpu.max", format!("{quota} {}", cpu.period().filter(|n| *n > 0).unwrap_or(100_000)))?;
        }
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                write(&dir, file, value)?;
            }
        }
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
        if limit > 0 || dir.join("pids.max").exists() {
            write(&dir, "pids.max", value)?;
        }
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|n| *n > 0) {
        // 10…1000 to 1…10000, as the OCI runtimes convert it.
        let converted = 1 + (u32::from(weight).clamp(10, 1000) - 10) * 9_999 / 990;
        write(&dir, "io.bfq.weight", weight).or_else(|_| write(&dir, "io.weight", converted))?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') {
            return Err(RuntimeError::usage(format!("{file:?} is not a control group's file")));
        }
        write(&dir, file, value)?;
    }
    match resources.devices() {
        Some(rules) if !super::in_user_namespace() => devices::attach(&dir, rules),
        _ => Ok(()),
    }
}

//! cgroups v1, one tree a controller.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceType, LinuxResources};

use super::{Cgroup, write};
use crate::base::{AtPath, PathError};
use crate::runtime::error::RuntimeError;

pub fn create(all: &[(Vec<String>, PathBuf)], path: &Path) -> Result<(), PathError> {
    for (names, root) in all {
        let is_cpuset = names.iter().any(|name| name == "cpuset");
        if !is_cpuset {
            let dir = root.join(path);
            fs::create_dir_all(&dir).at("create", &dir)?;
            continue;
        }
        // A cpuset group is born empty and takes no process until it has what its parent has.
        let mut dir = root.clone();
        for part in path.components() {
            let parent = dir.clone();
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made.at("create", &dir)?,
            }
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = dir.join(file);
                if fs::read_to_string(&own).at("read", &own)?.trim().is_empty() {
                    let from = parent.join(file);
                    let value = fs::read_to_string(&from).at("read", &from)?;
                    fs::write(&own, value.trim()).at("write", &own)?;
                }
            }
        }
    }
    Ok(())
}

pub fn set(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), RuntimeError> {
    let dir = |controller: &str| {
        let missing = || RuntimeError::Unsupported(format!("the {controller} control group is not mounted"));
        cgroup.dir(controller).ok_or_else(missing)
    };
    if let Some(rules) = resources.devices() {
        let dir = dir("devices")?;
        for rule in rules {
            let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".to_owned(), |n| n.to_string());
            let kind = match rule.typ() {
                Some(LinuxDeviceType::B) => "b",
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
                _ => "a",
            };
            let access = rule.access().as_deref().unwrap_or("rwm");
            let line = format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()));
            let line = if kind == "a" { "a".to_owned() } else { line };
            write(&dir, if rule.allow() { "devices.allow" } else { "devices.deny" }, line)?;
        }
    }
    if let Some(memory) = resources.memory() {
        memory_limits(cgroup, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        if cpu.shares().is_some() || cpu.quota().is_some() || cpu.period().is_some() {
            let dir = dir("cpu")?;
            if let Some(shares) = cpu.shares().filter(|n| *n > 0) {
                write(&dir, "cpu.shares", shares)?;
            }
            if let Some(period) = cpu.period().filter(|n| *n > 0) {
                write(&dir, "cpu.cfs_period_us", period)?;
            }
            if let Some(quota) = cpu.quota().filter(|n| *n != 0) {
                write(&dir, "cpu.cfs_quota_us", quota)?;
            }
        }
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                write(&dir("cpuset")?, file, value)?;
            }
        }
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
        // No controller and no limit is no failure.
        if limit > 0 || cgroup.dir("pids").is_some() {
            write(&dir("pids")?, "pids.max", value)?;
        }
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|n| *n > 0) {
        let dir = dir("blkio")?;
        write(&dir, "blkio.weight", weight).or_else(|_| write(&dir, "blkio.bfq.weight", weight))?;
    }
    Ok(())
}

fn memory_limits(cgroup: &Cgroup, memory: &oci_spec::runtime::LinuxMemory) -> Result<(), RuntimeError> {
    let limit = memory.limit().filter(|n| *n != 0);
    let swap = memory.swap().filter(|n| *n != 0);
    if limit.is_none() && swap.is_none() && memory.reservation().is_none() && memory.swappiness().is_none() {
        return Ok(());
    }
    let missing = || RuntimeError::Unsupported("the memory control group is not mounted".into());
    let dir = cgroup.dir("memory").ok_or_else(missing)?;
    let write_limit = |value: Option<i64>| value.map_or(Ok(()), |value| write(&dir, "memory.limit_in_bytes", value));
    // Memory and swap together may never be below memory alone: which goes first depends on the direction.
    let swap_now = fs::read_to_string(dir.join("memory.memsw.limit_in_bytes")).ok();
    let swap_now = swap_now.and_then(|text| text.trim().parse::<u64>().ok());
    match (swap, swap_now) {
        (Some(swap), Some(now)) => {
            let grows = swap < 0 || swap as u64 > now;
            if grows {
                write(&dir, "memory.memsw.limit_in_bytes", swap)?;
            }
            write_limit(limit)?;
            if !grows {
                write(&dir, "memory.memsw.limit_in_bytes", swap)?;
            }
        }
        // A kernel that does not count swap: as docker, the limit holds for memory alone.
        _ => write_limit(limit)?,
    }
    if let Some(reservation) = memory.reservation().filter(|n| *n != 0) {
        write(&dir, "memory.soft_limit_in_bytes", reservation)?;
    }
    if let Some(swappiness) = memory.swappiness() {
        write(&dir, "memory.swappiness", swappiness)?;
    }
    if memory.disable_oom_killer() == Some(true) {
        write(&dir, "memory.oom_control", 1)?;
    }
    Ok(())
}

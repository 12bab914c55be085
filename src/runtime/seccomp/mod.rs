//! Seccomp: docker's default profile, profiles in docker's format, and their translation to a filter.
//!
//! `default.json` is the table of `seccomp/default.json` of github.com/moby/profiles (Apache-2.0), unchanged.

use std::collections::BTreeMap;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};
use serde::Deserialize;

use super::capability::CapSet;
use super::error::RuntimeError;
use crate::sys::bpf::{Action, ArchRules, Compare, Instruction, Rules, Test, generate};
use crate::sys::syscalls;

const DEFAULT: &str = include_str!("default.json");
/// What a profile file may be at most, in bytes.
pub const PROFILE_BYTES: u64 = 1 << 20;

/// A profile in docker's format: the OCI runtime's, with conditions.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    syscalls: Vec<ProfileRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileRule {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    args: Vec<LinuxSeccompArg>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<LinuxSeccompArg>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

#[cfg(target_arch = "x86_64")]
const ARCHES: (&[&str], &[Arch]) = (&["amd64"], &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]);
#[cfg(target_arch = "aarch64")]
const ARCHES: (&[&str], &[Arch]) = (&["arm64"], &[Arch::ScmpArchAarch64, Arch::ScmpArchArm]);

/// The default profile for a container that holds `caps`.
pub fn default_profile(caps: CapSet) -> Result<LinuxSeccomp, RuntimeError> {
    profile(DEFAULT.as_bytes(), caps)
}

/// A profile in docker's format, its conditions resolved for this machine and a container that holds `caps`.
pub fn profile(json: &[u8], caps: CapSet) -> Result<LinuxSeccomp, RuntimeError> {
    let malformed = |error: serde_json::Error| RuntimeError::Malformed(format!("seccomp profile: {error}"));
    let profile: Profile = serde_json::from_slice(json).map_err(malformed)?;
    let held = caps.names();
    let kernel = kernel_version();
    let holds = |cap: &String| held.contains(&cap.as_str());
    let here = |arch: &String| ARCHES.0.contains(&arch.as_str());
    let new_enough = |wanted: &str| parse_version(wanted) <= kernel;
    let mut syscalls = Vec::new();
    for rule in profile.syscalls {
        let included = rule.includes.caps.iter().all(holds)
            && (rule.includes.arches.is_empty() || rule.includes.arches.iter().any(here))
            && rule.includes.min_kernel.as_deref().is_none_or(new_enough);
        let excluded = rule.excludes.caps.iter().any(holds)
            || rule.excludes.arches.iter().any(here)
            || rule.excludes.min_kernel.as_deref().is_some_and(new_enough);
        if !included || excluded {
            continue;
        }
        let mut call = LinuxSyscall::default();
        call.set_names(rule.names.into_iter().chain(rule.name).collect());
        call.set_action(rule.action);
        call.set_errno_ret(rule.errno_ret);
        call.set_args((!rule.args.is_empty()).then_some(rule.args));
        syscalls.push(call);
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp.set_default_action(profile.default_action);
    seccomp.set_default_errno_ret(profile.default_errno_ret);
    seccomp.set_architectures(Some(profile.architectures.unwrap_or_else(|| ARCHES.1.to_vec())));
    seccomp.set_syscalls(Some(syscalls));
    Ok(seccomp)
}

fn kernel_version() -> (u32, u32) {
    parse_version(&rustix::system::uname().release().to_string_lossy())
}

fn parse_version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Where an architecture stands in [`syscalls`]'s table, its `AUDIT_ARCH_*`, and the bit its numbers carry.
fn arch(arch: Arch) -> Option<(usize, u32, u32)> {
    match arch {
        Arch::ScmpArchX86_64 => Some((0, 0xc000_003e, 0)),
        Arch::ScmpArchX86 => Some((1, 0x4000_0003, 0)),
        Arch::ScmpArchX32 => Some((2, 0xc000_003e, 0x4000_0000)),
        Arch::ScmpArchAarch64 => Some((3, 0xc000_00b7, 0)),
        Arch::ScmpArchArm => Some((4, 0x4000_0028, 0)),
        _ => None,
    }
}

/// Translates a profile to the filter that the kernel runs.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<Instruction>, RuntimeError> {
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut arches: BTreeMap<u32, ArchRules> = BTreeMap::new();
    let native = ARCHES.1.first().copied();
    let listed = seccomp.architectures().clone().unwrap_or_default();
    for (index, audit_arch, bit) in native.into_iter().chain(listed).filter_map(arch) {
        let mut calls: BTreeMap<u32, Rules> = BTreeMap::new();
        let mut newest = 0;
        for rule in seccomp.syscalls().iter().flatten() {
            let tests = rule.args().iter().flatten().map(test).collect::<Result<Vec<_>, _>>()?;
            let does = action(rule.action(), rule.errno_ret())?;
            for name in rule.names() {
                // A name this table lacks belongs to another architecture or a newer kernel: as libseccomp does.
                let Some(&number) = syscalls::find(name).and_then(|numbers| numbers.by_arch.get(index)) else {
                    continue;
                };
                let Ok(number) = u32::try_from(number) else { continue };
                // The private calls of 32-bit arm lie far above the common range.
                newest = newest.max(if number < 0xf_0000 { number } else { 0 });
                calls.entry(number | bit).or_default().0.push((tests.clone(), does));
            }
        }
        for rules in calls.values_mut() {
            // The kernel's own precedence of filters: an unconditional rule is what remains when no test holds.
            rules.0.sort_by_key(|(tests, _)| tests.is_empty());
        }
        let entry = arches.entry(audit_arch).or_default();
        entry.audit_arch = audit_arch;
        if entry.calls.iter().any(|(number, _)| number & 0x4000_0000 == bit) {
            continue;
        }
        entry.calls.extend(calls);
        entry.calls.sort_by_key(|(number, _)| *number);
        let private = index == 4;
        match bit {
            0 => entry.newest.0 = if private { 0xf_ffff } else { newest },
            _ => entry.newest.1 = Some(newest | bit),
        }
    }
    let arches: Vec<ArchRules> = arches.into_values().collect();
    generate(&arches, default).map_err(|error| RuntimeError::Malformed(error.to_string()))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action, RuntimeError> {
    let errno = errno.and_then(|errno| u16::try_from(errno).ok());
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => Action::ALLOW,
        LinuxSeccompAction::ScmpActErrno => Action::errno(errno.unwrap_or(1)),
        LinuxSeccompAction::ScmpActLog => Action::LOG,
        LinuxSeccompAction::ScmpActTrap => Action::TRAP,
        LinuxSeccompAction::ScmpActKillProcess => Action::KILL_PROCESS,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KILL_THREAD,
        LinuxSeccompAction::ScmpActTrace => Action::trace(errno.unwrap_or(1)),
        other => return Err(RuntimeError::Unsupported(format!("seccomp action {other} is not supported"))),
    })
}

fn test(arg: &LinuxSeccompArg) -> Result<Test, RuntimeError> {
    let value = arg.value();
    let compare = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => Compare::Equal(value),
        LinuxSeccompOperator::ScmpCmpNe => Compare::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Compare::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Compare::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Compare::Greater(value),
        LinuxSeccompOperator::ScmpCmpGe => Compare::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Compare::MaskedEqual { mask: value, value: arg.value_two().unwrap_or(0) }
        }
    };
    match u8::try_from(arg.index()) {
        Ok(argument) if argument < 6 => Ok(Test { argument, compare }),
        _ => Err(RuntimeError::Malformed(format!("seccomp profile: a system call has no argument {}", arg.index()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_compiles_with_and_without_capabilities() {
        for caps in [CapSet(0), CapSet::of(["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]), CapSet(u64::MAX)] {
            let filter = compile(&default_profile(caps).unwrap()).unwrap();
            assert!(filter.len() > 200 && filter.len() < 4096, "{}", filter.len());
        }
    }
}

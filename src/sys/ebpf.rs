//! The one eBPF program ferry needs: the device filter of a v2 control group.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// A block device, in the program's context (`BPF_DEVCG_*` of `linux/bpf.h`).
pub const BLOCK: u32 = 1;
/// A character device.
pub const CHARACTER: u32 = 2;
/// Making a node.
pub const MKNOD: u32 = 1;
/// Reading.
pub const READ: u32 = 2;
/// Writing.
pub const WRITE: u32 = 4;

/// A rule; what is `None` fits everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether what fits is allowed.
    pub allow: bool,
    /// [`BLOCK`] or [`CHARACTER`].
    pub kind: Option<u32>,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
    /// A set of [`MKNOD`], [`READ`], [`WRITE`].
    pub access: u32,
}

fn instruction(code: u8, registers: u8, offset: i16, value: i32) -> u64 {
    let (offset, value) = (u64::from(offset as u16), u64::from(value as u32));
    u64::from(code) | u64::from(registers) << 8 | offset << 16 | value << 32
}

/// The program: rules from the last to the first; the first that fits decides. r1 points to the context.
fn program(rules: &[DeviceRule]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61; // dst = *(u32 *)(src + offset)
    const MOVE: u8 = 0xb7; // dst = value, 64 bits
    const MOVE32_REGISTER: u8 = 0xbc;
    const AND32: u8 = 0x54;
    const SHIFT32: u8 = 0x74;
    const JUMP_NE32: u8 = 0x56;
    const JUMP_NE_REGISTER: u8 = 0x5d;
    const EXIT: u8 = 0x95;
    let register = |dst: u8, src: u8| dst | src << 4;
    let mut code = vec![
        instruction(LOAD_WORD, register(2, 1), 0, 0),
        instruction(AND32, 2, 0, 0xffff), // r2: type
        instruction(LOAD_WORD, register(3, 1), 0, 0),
        instruction(SHIFT32, 3, 0, 16),               // r3: access
        instruction(LOAD_WORD, register(4, 1), 4, 0), // r4: major
        instruction(LOAD_WORD, register(5, 1), 8, 0), // r5: minor
    ];
    for rule in rules.iter().rev() {
        let all = MKNOD | READ | WRITE;
        let checks: Vec<(u8, u32)> = [(2, rule.kind), (4, rule.major), (5, rule.minor)]
            .into_iter()
            .filter_map(|(register, value)| value.map(|value| (register, value)))
            .collect();
        // An allowing rule fits when it covers all that is asked; a denying one when it covers any of it. The latter
        // only ever comes as "deny everything", where both are the same.
        let access = rule.access & all != all;
        let len = checks.len() as i16 + if access { 3 } else { 0 } + 2;
        let mut at = 0;
        for (reg, value) in checks {
            at += 1;
            code.push(instruction(JUMP_NE32, reg, len - at, value as i32));
        }
        if access {
            code.push(instruction(MOVE32_REGISTER, register(1, 3), 0, 0));
            code.push(instruction(AND32, 1, 0, (rule.access & all) as i32));
            at += 3;
            code.push(instruction(JUMP_NE_REGISTER, register(1, 3), len - at, 0));
        }
        code.push(instruction(MOVE, 0, 0, i32::from(rule.allow)));
        code.push(instruction(EXIT, 0, 0, 0));
        if len == 2 {
            // It fits everything: the kernel refuses a program with instructions that nothing leads to.
            return code;
        }
    }
    code.push(instruction(MOVE, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0));
    code
}

fn bpf(command: u32, attributes: &[u64]) -> io::Result<i32> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes are bpf_attr's words for the command; what they point to outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}

/// Attaches a device filter of `rules` (the last that fits decides, none means no) to the v2 group open as `group`.
/// It replaces the one that an earlier call attached with this process still alive; others stay and must agree.
pub fn attach_device_filter(group: impl AsFd, rules: &[DeviceRule]) -> io::Result<()> {
    const PROG_ATTACH: u32 = 8;
    const ATTACH_CGROUP_DEVICE: u64 = 6;
    const ALLOW_MULTI: u64 = 2;
    let loaded = load(rules)?;
    // target_fd, attach_bpf_fd | attach_type, attach_flags
    let target = group.as_fd().as_raw_fd() as u64 | (loaded.as_raw_fd() as u64) << 32;
    bpf(PROG_ATTACH, &[target, ATTACH_CGROUP_DEVICE | ALLOW_MULTI << 32]).map(drop)
}

/// Has the kernel check the program of these rules.
fn load(rules: &[DeviceRule]) -> io::Result<OwnedFd> {
    const PROG_LOAD: u32 = 5;
    const TYPE_CGROUP_DEVICE: u64 = 15;
    let code = program(rules);
    let license = c"Apache-2.0";
    // prog_type, insn_cnt | insns | license | log_level, log_size | log_buf | kern_version, prog_flags
    let load = [TYPE_CGROUP_DEVICE | (code.len() as u64) << 32, code.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0];
    let raw = bpf(PROG_LOAD, &load)?;
    // SAFETY: just opened and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rules_make_a_program_with_instructions_that_nothing_leads_to() {
        let all = MKNOD | READ | WRITE;
        let any = DeviceRule { allow: false, kind: None, major: None, minor: None, access: all };
        let null = DeviceRule { allow: true, kind: Some(CHARACTER), major: Some(1), minor: Some(3), access: all };
        let make = DeviceRule { allow: true, kind: Some(BLOCK), access: MKNOD, ..any };
        let only_reading = DeviceRule { allow: true, access: READ, ..any };
        for rules in [
            &[][..],
            &[any],
            &[any, null, make],
            &[null, any, make],
            &[DeviceRule { allow: true, ..any }],
            &[any, only_reading],
            &[make, only_reading],
        ] {
            let code = program(rules);
            // What a jump leads to, or what follows anything but an exit.
            let mut reached = vec![false; code.len()];
            reached[0] = true;
            for at in 0..code.len() {
                let (op, offset) = (code[at] as u8, (code[at] >> 16) as i16);
                if op != 0x95 {
                    reached[at + 1] = true;
                }
                if matches!(op, 0x56 | 0x5d) {
                    reached[at + 1 + offset as usize] = true;
                }
            }
            assert_eq!(reached.iter().position(|reached| !reached), None, "{rules:?}");
            assert_eq!(code.last().map(|last| *last as u8), Some(0x95), "{rules:?}");
            if rustix::process::geteuid().is_root() {
                load(rules).unwrap();
            }
        }
    }
}

//! Seccomp filters: a generator that knows several errno actions and foreign architectures, and their installation.
//!
//! A filter is a tree of comparisons over the system call number, one tree an architecture, whose leaves are the
//! actions; where an action depends on arguments, a leaf is a chain of tests.

use std::io;

/// One instruction, the kernel's `sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// What happens to a system call: a `SECCOMP_RET_*` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(pub u32);

impl Action {
    /// It is made.
    pub const ALLOW: Self = Self(0x7fff_0000);
    /// It is made, and logged.
    pub const LOG: Self = Self(0x7ffc_0000);
    /// The process is killed.
    pub const KILL_PROCESS: Self = Self(0x8000_0000);
    /// The thread is killed.
    pub const KILL_THREAD: Self = Self(0);
    /// SIGSYS.
    pub const TRAP: Self = Self(0x0003_0000);

    /// It fails with `errno`.
    pub const fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }

    /// A tracer decides.
    pub const fn trace(data: u16) -> Self {
        Self(0x7ff0_0000 | data as u32)
    }
}

/// How an argument is compared, all unsigned 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// `argument & mask == value`.
    MaskedEqual {
        mask: u64,
        value: u64,
    },
}

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub compare: Compare,
}

/// What one system call meets: the first rule whose tests all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<(Vec<Test>, Action)>);

/// The rules of one architecture.
#[derive(Debug, Clone, Default)]
pub struct ArchRules {
    /// `AUDIT_ARCH_*`.
    pub audit_arch: u32,
    /// Rules by system call number, ascending. The numbers of x32 have bit 30 set and share x86-64's architecture.
    pub calls: Vec<(u32, Rules)>,
    /// Numbers above these fail with ENOSYS: calls that the profile's authors did not know, for which programs must
    /// find a kernel without them. One bound for numbers without and one for those with the x32 bit.
    pub newest: (u32, Option<u32>),
}

const LOAD_NUMBER: u32 = 0;
const LOAD_ARCH: u32 = 4;
const ENOSYS: u16 = 38;
const X32_BIT: u32 = 0x4000_0000;
/// The most instructions the kernel takes.
const MOST: usize = 4096;

fn load(offset: u32) -> Instruction {
    Instruction { code: 0x20, jt: 0, jf: 0, k: offset } // BPF_LD | BPF_W | BPF_ABS
}

fn ret(action: Action) -> Instruction {
    Instruction { code: 0x06, jt: 0, jf: 0, k: action.0 }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const AND: u16 = 0x54;

/// Generates the filter. System calls of an architecture that is not listed kill the process.
pub fn generate(arches: &[ArchRules], default: Action) -> io::Result<Vec<Instruction>> {
    let mut program = vec![load(LOAD_ARCH)];
    for arch in arches {
        let body = arch_body(arch, default);
        program.push(jump(JEQ, arch.audit_arch, 1, 0));
        program.push(jump(JA, body.len() as u32, 0, 0));
        program.extend(body);
    }
    program.push(ret(Action::KILL_PROCESS));
    if program.len() > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the seccomp profile is too large for the kernel"));
    }
    Ok(program)
}

fn arch_body(arch: &ArchRules, default: Action) -> Vec<Instruction> {
    // Intervals from each start to the next, neighbours with the same rules merged.
    let plain = |action| Rules(vec![(Vec::new(), action)]);
    let mut starts: Vec<(u32, Rules)> = Vec::new();
    let mut put = |start: u32, rules: Rules| {
        if starts.last().is_some_and(|(last, _)| *last == start) {
            starts.pop();
        }
        if starts.last().is_none_or(|(_, last)| *last != rules) {
            starts.push((start, rules));
        }
    };
    put(0, plain(default));
    let unknown = plain(Action::errno(ENOSYS));
    let (native, x32): (Vec<_>, Vec<_>) = arch.calls.iter().partition(|(number, _)| *number < X32_BIT);
    for (calls, newest) in [(native, Some(arch.newest.0)), (x32, arch.newest.1)] {
        for (number, rules) in calls {
            put(*number, rules.clone());
            put(number + 1, plain(default));
        }
        if let Some(newest) = newest {
            put(newest + 1, unknown.clone());
            if arch.newest.1.is_some() && newest < X32_BIT {
                put(X32_BIT, plain(default));
            }
        }
    }
    let mut body = vec![load(LOAD_NUMBER)];
    tree(&starts, default, &mut body);
    body
}

fn tree(intervals: &[(u32, Rules)], default: Action, out: &mut Vec<Instruction>) {
    match intervals {
        [] => {}
        [(_, rules)] => leaf(rules, default, out),
        _ => {
            let (left, right) = intervals.split_at(intervals.len() / 2);
            let mut below = Vec::new();
            tree(left, default, &mut below);
            let from = right.first().map_or(0, |(start, _)| *start);
            // Conditional jumps reach 255 instructions, the unconditional one any number.
            if let Ok(skip) = u8::try_from(below.len()) {
                out.push(jump(JGE, from, skip, 0));
            } else {
                out.push(jump(JGE, from, 0, 1));
                out.push(jump(JA, below.len() as u32, 0, 0));
            }
            out.extend(below);
            tree(right, default, out);
        }
    }
}

fn leaf(rules: &Rules, default: Action, out: &mut Vec<Instruction>) {
    for (tests, action) in &rules.0 {
        if tests.is_empty() {
            out.push(ret(*action));
            return;
        }
        // Built backwards: what follows a failed test is the end of this rule.
        let mut rule = vec![ret(*action)];
        for test in tests.iter().rev() {
            let mut code = test_code(test, rule.len());
            code.append(&mut rule);
            rule = code;
        }
        out.extend(rule);
    }
    out.push(ret(default));
}

/// Code that goes on to the next instruction when the test holds and otherwise jumps over `rest` more instructions.
fn test_code(test: &Test, rest: usize) -> Vec<Instruction> {
    let offset = 16 + 8 * u32::from(test.argument.min(5));
    let (low, high) = (load(offset), load(offset + 4)); // little-endian, as all of ferry's targets are
    let split = |value: u64| (value as u32, (value >> 32) as u32);
    // A rule has at most a few tests of at most seven instructions: all jumps fit.
    let rest = rest.min(240) as u8;
    match test.compare {
        Compare::Equal(value) => {
            let (l, h) = split(value);
            vec![high, jump(JEQ, h, 0, rest + 2), low, jump(JEQ, l, 0, rest)]
        }
        Compare::NotEqual(value) => {
            let (l, h) = split(value);
            vec![high, jump(JEQ, h, 0, 2), low, jump(JEQ, l, rest, 0)]
        }
        Compare::MaskedEqual { mask, value } => {
            let ((ml, mh), (l, h)) = (split(mask), split(value));
            let (and_h, and_l) = (jump(AND, mh, 0, 0), jump(AND, ml, 0, 0));
            vec![high, and_h, jump(JEQ, h, 0, rest + 3), low, and_l, jump(JEQ, l, 0, rest)]
        }
        Compare::Greater(value) => ordered(high, low, split(value), JGT, true, rest),
        Compare::GreaterOrEqual(value) => ordered(high, low, split(value), JGE, true, rest),
        Compare::LessOrEqual(value) => ordered(high, low, split(value), JGT, false, rest),
        Compare::Less(value) => ordered(high, low, split(value), JGE, false, rest),
    }
}

/// `high:low > value` (or `>=`, by `low_jump`), or, when not `wanted`, its opposite.
fn ordered(
    high: Instruction,
    low: Instruction,
    (l, h): (u32, u32),
    low_jump: u16,
    wanted: bool,
    rest: u8,
) -> Vec<Instruction> {
    let (greater, less) = if wanted { (3, rest + 2) } else { (rest + 3, 2) };
    let (holds, fails) = if wanted { (0, rest) } else { (rest, 0) };
    // high > h decides; high < h decides; high == h leaves it to the low half.
    vec![high, jump(JGT, h, greater, 0), jump(JEQ, h, 0, less), low, jump(low_jump, l, holds, fails)]
}

/// Installs a filter on this process, for good. Needs no_new_privs or CAP_SYS_ADMIN. `flags` are
/// `SECCOMP_FILTER_FLAG_*`.
pub fn install(program: &[Instruction], flags: u32) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = Program { len, filter: program.as_ptr() };
    const SET_MODE_FILTER: libc::c_uint = 1;
    // SAFETY: the structure is sock_fprog and its instructions outlive the call; the kernel checks them.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs a filter as the kernel would, for tests.
#[cfg(test)]
fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        _ => {
            let arg = args[((offset - 16) / 8) as usize];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
    };
    let (mut pc, mut a) = (0usize, 0u32);
    loop {
        let i = program[pc];
        pc += 1;
        let mut to = |holds: bool| pc += usize::from(if holds { i.jt } else { i.jf });
        match i.code {
            0x20 => a = word(i.k),
            0x06 => return i.k,
            AND => a &= i.k,
            JA => pc += i.k as usize,
            JEQ => to(a == i.k),
            JGT => to(a > i.k),
            JGE => to(a >= i.k),
            other => panic!("{other:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_comparison_decides_as_on_64_bits() {
        let values = [0, 1, 38, 39, 40, 0xffff_ffff, 1 << 32, (1 << 32) + 39, u64::MAX];
        type Case = (fn(u64) -> Compare, fn(u64, u64) -> bool);
        let compares: [Case; 7] = [
            (Compare::Equal, |a, v| a == v),
            (Compare::NotEqual, |a, v| a != v),
            (Compare::Less, |a, v| a < v),
            (Compare::LessOrEqual, |a, v| a <= v),
            (Compare::Greater, |a, v| a > v),
            (Compare::GreaterOrEqual, |a, v| a >= v),
            (|v| Compare::MaskedEqual { mask: v, value: v }, |a, v| a & v == v),
        ];
        for (make, expected) in compares {
            for value in values {
                let first = Test { argument: 1, compare: make(value) };
                let second = Test { argument: 5, compare: Compare::Equal(7) };
                let rules = Rules(vec![(vec![first, second], Action::ALLOW), (vec![], Action::errno(38))]);
                let arch = ArchRules { audit_arch: 9, calls: vec![(5, rules)], newest: (400, None) };
                let program = generate(&[arch], Action::errno(1)).unwrap();
                for argument in values {
                    let allowed = run(&program, 9, 5, [0, argument, 0, 0, 0, 7]) == Action::ALLOW.0;
                    assert_eq!(allowed, expected(argument, value), "{:?} of {argument:#x}", make(value));
                    assert_eq!(run(&program, 9, 5, [0, argument, 0, 0, 0, 8]), Action::errno(38).0);
                }
            }
        }
    }

    #[test]
    fn numbers_find_their_rules_and_foreign_architectures_none() {
        let allow = || Rules(vec![(vec![], Action::ALLOW)]);
        let calls: Vec<_> = (0..600).filter(|n| n % 3 == 0).map(|n| (n, allow())).collect();
        let x32: Vec<_> = (0..30).map(|n| (X32_BIT + n * 2, allow())).collect();
        let arch = ArchRules { audit_arch: 9, calls: [calls, x32].concat(), newest: (600, Some(X32_BIT + 100)) };
        let program = generate(&[arch.clone(), ArchRules { audit_arch: 8, ..arch }], Action::errno(1)).unwrap();
        for arch in [8, 9] {
            for number in 0..=600 {
                let expected = if number % 3 == 0 && number < 600 { Action::ALLOW } else { Action::errno(1) };
                assert_eq!(run(&program, arch, number, [0; 6]), expected.0, "{number}");
            }
            assert_eq!(run(&program, arch, 601, [0; 6]), Action::errno(38).0);
            assert_eq!(run(&program, arch, X32_BIT + 2, [0; 6]), Action::ALLOW.0);
            assert_eq!(run(&program, arch, X32_BIT + 3, [0; 6]), Action::errno(1).0);
            assert_eq!(run(&program, arch, X32_BIT + 101, [0; 6]), Action::errno(38).0);
        }
        assert_eq!(run(&program, 7, 0, [0; 6]), Action::KILL_PROCESS.0);
    }
}

//! The one binary that is shipped needs nothing of the host it comes to.

use std::process::Command;

use crate::support::peers::{Machine, RELEASES, succeed};
use crate::support::{ferry, static_ferry};

/// ELF program header types, from elf(5).
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

#[test]
fn the_shipped_binary_asks_for_no_loader_and_no_library() {
    let elf = std::fs::read(static_ferry()).unwrap();
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let number =
        |at: usize, size: usize| elf[at..at + size].iter().rev().fold(0, |all, byte| all << 8 | *byte as usize);
    let (table, entry, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    for header in (0..count).map(|i| table + i * entry) {
        let kind = number(header, 4) as u32;
        assert_ne!(kind, PT_INTERP, "a program interpreter");
        if kind == PT_DYNAMIC {
            // A static-pie has a dynamic section for its own relocations; what it must not have is a DT_NEEDED (1).
            let (at, size) = (number(header + 8, 8), number(header + 32, 8));
            assert!((at..at + size).step_by(16).all(|tag| number(tag, 8) != 1), "a shared library");
        }
    }
}

#[test]
fn the_shipped_binary_runs_in_an_empty_root_and_on_both_releases() {
    let version = succeed(Command::new(ferry()).arg("--version"));
    for release in RELEASES {
        let machine = Machine::start(release);
        let copy = machine.dir().join("ferry");
        std::fs::copy(static_ferry(), &copy).unwrap();
        assert_eq!(machine.run("./ferry", ["--version"]), version);
        assert_eq!(machine.run("chroot", [".", "/ferry", "--version"]), version);
    }
}

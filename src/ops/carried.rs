//! A bundle that brings its ferry along: the binary and a start script beside it, or all in one executable file. The
//! script is a few lines of POSIX shell; it takes the binary to a place that programs can be started from, because
//! media are often mounted without that, and starts it there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{AtPath, BoxFault, Class, Digest, Fault, durable};
use crate::bundle::volume::{self, ENDING, VolumeSet};
use crate::transfer::bootstrap::{BootstrapError, static_elf_machine};

/// The largest binary that is taken for one, in bytes.
const BINARY_BYTES: u64 = 256 << 20;
/// What binaries in an executable bundle are filled up to, in bytes.
const BLOCK: usize = 4096;

/// A binary that cannot be brought along.
#[derive(Debug, thiserror::Error)]
pub enum CarriedError {
    /// Not for a processor whose name is known.
    #[error("{}: is for an unknown processor (ELF machine {machine})", .path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// Its number.
        machine: u16,
    },
    /// Two for one processor.
    #[error("{}: another binary for {machine} is given too", .path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// As `uname -m` says it.
        machine: &'static str,
    },
}

impl Fault for CarriedError {
    fn class(&self) -> Class {
        match self {
            Self::Machine { .. } => Class::Unsupported,
            Self::Twice { .. } => Class::Usage,
        }
    }
}

/// A static ferry for one kind of processor.
#[derive(Debug, Clone)]
pub struct Binary {
    machine: &'static str,
    /// What `uname -m` may say of it, as a shell pattern.
    pattern: &'static str,
    bytes: Vec<u8>,
}

impl Binary {
    /// Reads a binary; one that needs libraries is refused, since the far side may not have them.
    fn read(path: &Path) -> Result<Self, BoxFault> {
        let mut bytes = Vec::new();
        let file = File::open(path).at("open", path)?;
        file.take(BINARY_BYTES).read_to_end(&mut bytes).at("read", path)?;
        let Some(number) = static_elf_machine(&bytes) else {
            return Err(BootstrapError::NotStatic(path.to_owned()).into());
        };
        let (machine, pattern) = match number {
            62 => ("x86_64", "x86_64|amd64"),
            183 => ("aarch64", "aarch64|arm64"),
            40 => ("arm", "arm*"),
            243 => ("riscv64", "riscv64"),
            22 => ("s390x", "s390x"),
            21 => ("ppc64le", "ppc64le"),
            machine => return Err(CarriedError::Machine { path: path.to_owned(), machine }.into()),
        };
        Ok(Self { machine, pattern, bytes })
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

/// The binaries in these files, each for another processor, and `own` unless one of them is for its processor too.
pub fn binaries(own: &Path, paths: &[PathBuf]) -> Result<Vec<Binary>, BoxFault> {
    let mut found: Vec<Binary> = Vec::new();
    for path in paths {
        let binary = Binary::read(path)?;
        if found.iter().any(|other| other.machine == binary.machine) {
            return Err(CarriedError::Twice { path: path.clone(), machine: binary.machine }.into());
        }
        found.push(binary);
    }
    let own = Binary::read(own)?;
    if found.iter().all(|other| other.machine != own.machine) {
        found.insert(0, own);
    }
    Ok(found)
}

/// What a bundle brings along.
#[derive(Debug, Clone, Default)]
pub struct Luggage {
    /// Files that go beside it.
    pub beside: Vec<Beside>,
    /// What makes the bundle an executable file, when it is to be one.
    pub lead: Option<Vec<u8>>,
}

impl Luggage {
    /// How much room it takes, in bytes.
    pub fn len(&self) -> u64 {
        self.beside.iter().map(Beside::len).sum::<u64>() + self.lead.as_ref().map_or(0, |lead| lead.len() as u64)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.beside.is_empty() && self.lead.is_none()
    }

    /// What goes in front of the bundle at `path`; of one in `volumes` the executable goes beside them instead.
    pub fn take_lead(&mut self, path: &Path, volumes: bool) -> Option<Arc<Vec<u8>>> {
        let lead = self.lead.take()?;
        if volumes {
            self.beside.push(executable(path, &lead));
            return None;
        }
        Some(Arc::new(lead))
    }
}

/// What a copy of a bundle becomes.
#[derive(Debug, Clone, Default)]
pub struct Form {
    /// The name of the file that a bundle of one file becomes, when it is another.
    pub name: Option<OsString>,
    /// What makes it an executable.
    pub lead: Option<Arc<Vec<u8>>>,
}

/// How many bytes an executable bundle of one file has besides its volume: with this `lead`, or with its own.
pub fn around(set: &VolumeSet, lead: Option<&Vec<u8>>) -> u64 {
    let own = set.files.iter().flatten().map(|volume| volume.file.start()).max().unwrap_or(0);
    match lead.map_or(own, |lead| lead.len() as u64) {
        0 => 0,
        lead => lead + volume::trailer(b"", 0).len() as u64,
    }
}

impl Luggage {
    /// What the copy of `set` at `to` becomes, a directory or a file: the executable itself, when one is wanted, the bundle
    /// has no more than one volume, and files may be so large. Otherwise the executable goes beside the volumes. In a
    /// directory it is called as the bundle is, without the ending.
    pub fn form_of_copy(&mut self, set: &VolumeSet, to: &Path, max_file: Option<u64>) -> Form {
        let single = set.record.all_volumes() == 1;
        let named = to.file_name().filter(|_| !to.is_dir()).map(OsStr::to_owned);
        let Some(lead) = self.lead.take() else { return Form { name: named, lead: None } };
        let name = set.name();
        let plain = match name.extension() {
            Some(ending) if ending.eq_ignore_ascii_case(&ENDING[1..]) => name.file_stem(),
            _ => name.file_name(),
        };
        let executable = named.clone().unwrap_or_else(|| plain.unwrap_or_default().to_owned());
        let size: u64 = around(set, Some(&lead)) + set.present().iter().map(|(.., len)| len).sum::<u64>();
        if single && max_file.is_none_or(|limit| size <= limit) {
            return Form { name: Some(executable), lead: Some(Arc::new(lead)) };
        }
        self.beside.push(self::executable(Path::new(&executable), &lead));
        let mut volume = executable;
        volume.push(ENDING);
        Form { name: if single { Some(volume) } else { named }, lead: None }
    }
}

/// A file that goes beside a bundle.
#[derive(Debug, Clone)]
pub struct Beside {
    name: OsString,
    bytes: Vec<u8>,
    mode: u32,
}

impl Beside {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes it into `folder`, durably; gives its path and the BLAKE3 of its bytes.
    pub fn write(&self, folder: &Path) -> Result<(PathBuf, blake3::Hash), BoxFault> {
        let path = folder.join(&self.name);
        durable::write(&path, &self.bytes, self.mode)?;
        Ok((path, blake3::hash(&self.bytes)))
    }
}

/// What makes the bundle at `path` start by itself: `ferry.MACHINE` for each binary, and `NAME.sh`.
pub fn beside(path: &Path, binaries: &[Binary]) -> Vec<Beside> {
    let name = path.file_name().unwrap_or_default().to_owned();
    let mut cases = String::new();
    let mut files = Vec::new();
    for binary in binaries {
        let file = format!("ferry.{}", binary.machine);
        cases += &format!("  {}) from={file} sum={} ;;\n", binary.pattern, binary.digest().hex());
        files.push(Beside { name: file.into(), bytes: binary.bytes.clone(), mode: 0o755 });
    }
    let script = script(&cases, r#"cat <"$here/$from""#, r#""$here"/"#, &name);
    let mut start = Path::new(&name).with_extension("").into_os_string();
    start.push(".sh");
    files.push(Beside { name: start, bytes: script, mode: 0o755 });
    files
}

/// What stands in front of the bundle in an executable one: the script and the binaries.
pub fn lead(binaries: &[Binary]) -> Vec<u8> {
    // The numbers in the script depend on its length: it gets room to spare.
    let reserve = 2;
    let mut cases = String::new();
    let mut tail = Vec::new();
    for binary in binaries {
        let skip = reserve + tail.len() / BLOCK;
        tail.extend_from_slice(&binary.bytes);
        let start = tail.len() - binary.bytes.len();
        tail.resize(tail.len().next_multiple_of(BLOCK), 0);
        let (count, sum) = ((tail.len() - start) / BLOCK, Digest::of(&tail[start..]).hex());
        cases += &format!("  {}) from={skip} count={count} sum={sum} ;;\n", binary.pattern);
    }
    let get = r#"dd if="$here/$name" bs=4096 skip="$from" count="$count" 2>/dev/null"#;
    let mut lead = script(&cases, get, r#""$here/$name""#, OsStr::new(""));
    lead.resize(reserve * BLOCK, b'\n');
    lead.extend_from_slice(&tail);
    lead
}

/// An executable that does not hold its volumes: they lie beside it.
fn executable(path: &Path, lead: &[u8]) -> Beside {
    let bytes = [lead, &volume::trailer(lead, 0)].concat();
    Beside { name: path.file_name().unwrap_or_default().to_owned(), bytes, mode: 0o755 }
}

/// The script; `cases` choose by processor, `get` prints the binary, `bundle` is what it is started on (`name` appended).
fn script(cases: &str, get: &str, bundle: &str, name: &OsStr) -> Vec<u8> {
    let quoted = format!("'{}'", name.to_string_lossy().replace('\'', r"'\''"));
    let bundle = if name.is_empty() { bundle.to_owned() } else { format!("{bundle}{quoted}") };
    format!(
        r#"#!/bin/sh
# Loads the images of a ferry bundle into this host's store. With arguments it does what they say: they are ferry's, and
# an argument {{}} stands for the bundle. Where programs cannot be started from this medium: sh THIS-FILE [ARGUMENT]...
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P)
name=$(basename -- "$0")
case $(uname -m) in
{cases}  *) echo "$name: brings no ferry for $(uname -m)" >&2; exit 10 ;;
esac
work=
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
for dir in "${{TMPDIR:-/tmp}}" /var/tmp /run /dev/shm "${{HOME:-/}}"; do
  work=$(mktemp -d "$dir/ferry.XXXXXX" 2>/dev/null) || {{ work=; continue; }}
  if {get} >"$work/ferry" && chmod 700 "$work/ferry"; then
    if command -v sha256sum >/dev/null && [ "$(sha256sum <"$work/ferry" | cut -c1-64)" != "$sum" ]; then
      echo "$name: its ferry is damaged" >&2
      exit 6
    fi
    if "$work/ferry" version >/dev/null 2>&1; then break; fi
  fi
  rm -rf -- "$work"
  work=
done
if [ -z "$work" ]; then
  echo "$name: found no directory that ferry can be started from; TMPDIR may name one" >&2
  exit 1
fi
status=0
"$work/ferry" carried {bundle} "$@" || status=$?
exit "$status"
"#
    )
    .into_bytes()
}

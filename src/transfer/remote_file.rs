//! A file on another host, read in place: what is asked for crosses, and little else. The far side needs nothing but a
//! shell, `dd`, `head` and `wc`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use super::remote::{Process, Remote, RemoteError, quote};
use crate::base::read_at::ReadAt;

/// What is asked for at least, in bytes.
const BLOCK: u64 = 64 << 10;
/// How much is asked for at once at most, in blocks.
const AT_ONCE: u64 = 64;
/// How far is read ahead at most, in blocks, when one small read follows on another. Who reads much at once knows what it
/// needs.
const AHEAD: u64 = 16;
/// What is a small read, in blocks: one that may begin in the middle of a block.
const SMALL: u64 = 2;
/// How many blocks are kept.
const KEPT: usize = 128;
/// Precedes the file's size.
const MARK: &str = "@ferry-file ";
/// How the script ends where there is no file to read.
const NO_FILE: i32 = 3;

/// A file on another host, of a fixed length.
pub struct RemoteFile {
    size: u64,
    state: Mutex<State>,
    /// Ends with the connection.
    remote: Mutex<Box<dyn Remote>>,
}

struct State {
    process: Process,
    blocks: BTreeMap<u64, Vec<u8>>,
    order: VecDeque<u64>,
    /// The block behind the last read, and how many were read at once.
    next: u64,
    ahead: u64,
    /// A failure leaves answers on the line that nobody knows the place of.
    broken: bool,
}

impl RemoteFile {
    /// Opens `path`; where that is the name of a bundle in volumes, its first one.
    pub fn open(mut remote: Box<dyn Remote>, path: &str) -> Result<Self, RemoteError> {
        let host = remote.host().to_owned();
        // A file that has become shorter gives zeros, which no digest takes for its bytes, and no wait without end.
        let script = format!(
            "f={file}; [ ! -d \"$f\" ] || {{ echo \"$f: is a directory; name a file in it, of a bundle any volume\" >&2; \
             exit {NO_FILE}; }}; [ -f \"$f\" ] || for v in \"${{f%.ferry}}\".[0-9][0-9][0-9]*.ferry; do \
             [ ! -f \"$v\" ] || {{ f=$v; break; }}; done; \
             [ -f \"$f\" ] || {{ echo \"$f: no such file\" >&2; exit {NO_FILE}; }}; n=$(wc -c <\"$f\") || exit 1; \
             echo \"{MARK}$n\"; while read -r s c; do {{ dd if=\"$f\" bs={BLOCK} skip=\"$s\" count=\"$c\" 2>/dev/null; \
             cat /dev/zero; }} | head -c \"$((c * {BLOCK}))\"; done",
            file = quote(path),
        );
        let mut process = remote.start(&format!("exec sh -c {}", quote(&script)))?;
        let size = match greeting(&mut process.stdout) {
            Some(size) => size,
            None => {
                let (code, stderr) = process.wait()?;
                if code == NO_FILE {
                    return Err(RemoteError::NoFile { host, reason: stderr });
                }
                return Err(RemoteError::Command { host, what: format!("reading {path}"), code, stderr });
            }
        };
        let (blocks, order) = (BTreeMap::new(), VecDeque::new());
        let state = State { process, blocks, order, next: 0, ahead: 1, broken: false };
        Ok(Self { size, state: Mutex::new(state), remote: Mutex::new(remote) })
    }

    /// Lets the file go, and gives the host back.
    pub fn close(self) -> Result<Box<dyn Remote>, RemoteError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.process.wait()?;
        Ok(self.remote.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The size that the far side states, behind what login scripts print.
fn greeting(from: &mut dyn Read) -> Option<u64> {
    let (mut line, mut seen) = (Vec::new(), 0);
    let mut byte = [0];
    while seen < super::wire::NOISE_BYTES && from.read(&mut byte).ok()? == 1 {
        seen += 1;
        if byte[0] != b'\n' {
            line.push(byte[0]);
            continue;
        }
        if let Some(size) = String::from_utf8_lossy(&line).strip_prefix(MARK) {
            return size.trim().parse().ok();
        }
        line.clear();
    }
    None
}

impl State {
    /// Takes blocks from `from` on, at least `count` of them, as far as the file goes.
    fn fetch(&mut self, from: u64, count: u64, all: u64) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.ahead = if from == self.next && count <= SMALL { (self.ahead * 2).min(AHEAD) } else { 1 };
        let count = count.max(self.ahead).min(all - from);
        self.broken = true;
        let stdin = self.process.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{from} {count}")?;
        stdin.flush()?;
        for number in from..from + count {
            let mut block = vec![0; BLOCK as usize];
            self.process.stdout.read_exact(&mut block)?;
            if self.blocks.insert(number, block).is_none() {
                self.order.push_back(number);
            }
        }
        self.broken = false;
        self.next = from + count;
        Ok(())
    }

    fn tidy(&mut self) {
        while self.order.len() > KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.blocks.remove(&oldest);
            }
        }
    }
}

impl ReadAt for RemoteFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.size.div_ceil(BLOCK);
        while !buf.is_empty() {
            let number = offset / BLOCK;
            if !state.blocks.contains_key(&number) {
                let wanted = (offset + buf.len() as u64).div_ceil(BLOCK) - number;
                state.fetch(number, wanted.min(AT_ONCE), all)?;
            }
            let Some(block) = state.blocks.get(&number) else { return Err(io::ErrorKind::BrokenPipe.into()) };
            let from = (offset % BLOCK) as usize;
            let n = buf.len().min(block.len() - from);
            buf[..n].copy_from_slice(&block[from..from + n]);
            buf = &mut std::mem::take(&mut buf)[n..];
            offset += n as u64;
            state.tidy();
        }
        Ok(())
    }
}

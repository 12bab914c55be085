//! gzip on all cores: blocks of a fixed size are deflated by themselves, each with the 32 KiB before it as dictionary,
//! and joined by sync flushes into one member, as pigz does. The bytes depend on the input and the level alone.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::compression::{EncodeOptions, Encoder};

/// Large enough that the dictionary and the flush cost nothing, small enough for many cores.
const BLOCK: usize = 512 << 10;
/// The reach of deflate's back references.
const WINDOW: usize = 32 << 10;

/// A block's bytes and the checksum of what they stand for.
type Deflated = io::Result<(Vec<u8>, Crc)>;

struct Job {
    data: Arc<Vec<u8>>,
    before: Option<Arc<Vec<u8>>>,
    last: bool,
    done: SyncSender<Deflated>,
}

/// A gzip member in the making.
pub(super) struct ParallelGzip<W: Write> {
    out: W,
    block: Vec<u8>,
    before: Option<Arc<Vec<u8>>>,
    jobs: Option<SyncSender<Job>>,
    waiting: VecDeque<Receiver<Deflated>>,
    workers: Vec<JoinHandle<()>>,
    depth: usize,
    crc: Crc,
}

impl<W: Write> ParallelGzip<W> {
    pub(super) fn new(mut out: W, options: EncodeOptions) -> io::Result<Self> {
        let level = Compression::new(options.level.unwrap_or(6).clamp(1, 9).unsigned_abs());
        // No name, no time, no system: nothing of this host.
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        let threads = options.threads.max(1);
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let workers = (0..threads).map(|_| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                loop {
                    // The guard is gone before the work begins.
                    let next = queue.lock().unwrap_or_else(|e| e.into_inner()).recv();
                    let Ok(job) = next else { break };
                    // Nobody waits any more when the writer was dropped.
                    let _ = job.done.send(deflate(&job, level));
                }
            })
        });
        let workers = workers.collect();
        Ok(Self {
            out,
            block: Vec::with_capacity(BLOCK),
            before: None,
            jobs: Some(jobs),
            waiting: VecDeque::new(),
            workers,
            depth: threads * 2,
            crc: Crc::new(),
        })
    }

    fn submit(&mut self, last: bool) -> io::Result<()> {
        let data = Arc::new(std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK)));
        let (done, result) = sync_channel(1);
        let job = Job { data: Arc::clone(&data), before: self.before.replace(data), last, done };
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        self.waiting.push_back(result);
        if self.waiting.len() > self.depth { self.collect() } else { Ok(()) }
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(result) = self.waiting.pop_front() else { return Ok(()) };
        let (bytes, crc) = result.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        self.crc.combine(&crc);
        self.out.write_all(&bytes)
    }
}

fn deflate(job: &Job, level: Compression) -> io::Result<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(&job.data);
    let mut state = Compress::new(level, false);
    if let Some(before) = &job.before {
        state.set_dictionary(&before[before.len().saturating_sub(WINDOW)..])?;
    }
    let mut out = Vec::with_capacity(job.data.len() / 2 + 1024);
    let flush = if job.last { FlushCompress::Finish } else { FlushCompress::Sync };
    loop {
        let taken = usize::try_from(state.total_in()).unwrap_or(usize::MAX).min(job.data.len());
        out.reserve(64 << 10);
        let status = state.compress_vec(&job.data[taken..], &mut out, flush)?;
        let all = state.total_in() as usize == job.data.len();
        // A sync flush is complete when it leaves room in the output.
        if status == Status::StreamEnd || (!job.last && all && out.len() < out.capacity()) {
            return Ok((out, crc));
        }
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&buf[..n]);
        if self.block.len() == BLOCK {
            self.submit(false)?;
        }
        Ok(n)
    }

    /// What is in a block stays there: a flush would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Send> Encoder for ParallelGzip<W> {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.submit(true)?;
        while !self.waiting.is_empty() {
            self.collect()?;
        }
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        self.out.flush()
    }
}

impl<W: Write> Drop for ParallelGzip<W> {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A worker that panicked has already failed its receiver.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::compression::{Compression, DecodeLimits, detect};
    use super::*;

    #[test]
    fn the_same_input_gives_the_same_bytes_on_any_number_of_threads_and_comes_back() {
        let mut seed = 7_u32;
        let data: Vec<u8> = (0..3_000_000)
            .map(|i| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 3 == 0 { (seed >> 29) as u8 } else { (i / 1000) as u8 }
            })
            .collect();
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, data.len()] {
            for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
                let mut results = Vec::new();
                for threads in [1, 2, 5] {
                    let mut out = Vec::new();
                    let mut encoder = compression.encoder(&mut out, EncodeOptions { level: None, threads }).unwrap();
                    encoder.write_all(&data[..length]).unwrap();
                    encoder.finish().unwrap();
                    results.push(out);
                }
                assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{compression:?} {length}");
                let mut back = Vec::new();
                let reader = Box::new(results[0].as_slice());
                if length > 1 {
                    assert_eq!(detect(&results[0]), compression);
                }
                compression.decoder(reader, &DecodeLimits::default()).unwrap().read_to_end(&mut back).unwrap();
                assert!(back == data[..length], "{compression:?} {length}");
            }
        }
    }
}

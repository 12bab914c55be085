//! The Reed-Solomon code over blocks, column by column, so that memory is a budget and not the size of a set.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRate, LowRate, Rate, RateDecoder, RateEncoder};

use super::error::VolumeError;
use crate::base::Ctx;

/// What the work may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of memory for symbols, over all threads.
    pub memory: u64,
    /// Threads.
    pub threads: usize,
}

impl Default for Budget {
    /// 128 MiB, and as many threads as there are processors. Parity comes after compression, some of whose memory the allocator
    /// keeps, and both together must stay below 300 MiB.
    fn default() -> Self {
        Self { memory: 128 << 20, threads: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

/// Which form of the code, by the number of recovery symbols: the two give other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Few recovery symbols: the parity of data blocks.
    High,
    /// Many: the recovery shards of tables.
    Low,
}

/// The shape of a code: symbol `n` is number `n / stripes` of stripe `n % stripes`.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// See [`Form`].
    pub form: Form,
    /// All originals.
    pub originals: u64,
    /// All recovery symbols, a multiple of `stripes`.
    pub recovery: u64,
    /// How many code words there are.
    pub stripes: u64,
    /// Bytes of a symbol, a multiple of 64.
    pub symbol: u64,
}

/// Reads bytes of a symbol: its number, the offset in it.
pub type ReadSymbol<'a> = dyn Fn(u64, u64, &mut [u8]) -> Result<(), VolumeError> + Sync + 'a;
/// Writes bytes of a symbol: its number, the offset in it.
pub type WriteSymbol<'a> = dyn Fn(u64, u64, &[u8]) -> Result<(), VolumeError> + Sync + 'a;

/// What is missing of a code's symbols, each list in order.
#[derive(Debug, Clone, Copy)]
pub struct Erased<'a> {
    /// Originals.
    pub originals: &'a [u64],
    /// Recovery symbols.
    pub recovery: &'a [u64],
}

impl Shape {
    fn per_stripe(&self) -> (usize, usize) {
        (self.originals.div_ceil(self.stripes) as usize, (self.recovery / self.stripes) as usize)
    }

    /// One column of one stripe each, in an order that goes forward in the files.
    fn tasks(&self, width: u64, wanted: impl Fn(u64) -> bool) -> Vec<(u64, u64, usize)> {
        let columns = (0..self.symbol).step_by(width as usize);
        let column = |at: u64| width.min(self.symbol - at) as usize;
        let stripes = (0..self.stripes).filter(|stripe| wanted(*stripe));
        stripes.flat_map(|stripe| columns.clone().map(move |at| (stripe, at, column(at)))).collect()
    }

    /// The width of a column and the threads for `symbols` symbols in memory at once.
    fn width(&self, symbols: u64, budget: Budget) -> (u64, usize) {
        // A column narrower than a page makes the medium read the page again for the next one.
        const PAGE: u64 = 4_096;
        let fits = |threads: u64| budget.memory / (threads * symbols.max(1));
        let mut threads = budget.threads.max(1) as u64;
        while threads > 1 && fits(threads) < PAGE.min(self.symbol) {
            threads -= 1;
        }
        let width = fits(threads).min(self.symbol).max(64);
        // Nor does it reach into two pages.
        let unit = if width >= PAGE { PAGE } else { 1 << width.ilog2() };
        (width / unit * unit, threads as usize)
    }
}

/// Computes the recovery symbols of the stripes that `wanted` names.
pub fn encode(
    shape: Shape,
    wanted: &(dyn Fn(u64) -> bool + Sync),
    read: &ReadSymbol<'_>,
    write: &WriteSymbol<'_>,
    budget: Budget,
    ctx: &Ctx,
) -> Result<(), VolumeError> {
    match shape.form {
        Form::High => encode_as::<HighRate<DefaultEngine>>(shape, wanted, read, write, budget, ctx),
        Form::Low => encode_as::<LowRate<DefaultEngine>>(shape, wanted, read, write, budget, ctx),
    }
}

fn encode_as<R: Rate<DefaultEngine>>(
    shape: Shape,
    wanted: &(dyn Fn(u64) -> bool + Sync),
    read: &ReadSymbol<'_>,
    write: &WriteSymbol<'_>,
    budget: Budget,
    ctx: &Ctx,
) -> Result<(), VolumeError> {
    let (originals, recovery) = shape.per_stripe();
    let in_memory = match shape.form {
        Form::High => originals.next_multiple_of(recovery.next_power_of_two()),
        Form::Low => recovery.next_multiple_of(originals.next_power_of_two()),
    };
    let (width, threads) = shape.width(in_memory as u64, budget);
    let tasks = shape.tasks(width, wanted);
    over(&tasks, threads, |next| {
        let mut buffer = vec![0; width as usize];
        let mut encoder = R::encoder(originals, recovery, width as usize, DefaultEngine::new(), None).map_err(code)?;
        while let Some((stripe, at, len)) = next() {
            ctx.check()?;
            encoder.reset(originals, recovery, len).map_err(code)?;
            for i in 0..originals as u64 {
                let n = i * shape.stripes + stripe;
                let symbol = &mut buffer[..len];
                if n < shape.originals {
                    read(n, at, symbol)?
                } else {
                    symbol.fill(0)
                }
                encoder.add_original_shard(&*symbol).map_err(code)?;
            }
            let result = encoder.encode().map_err(code)?;
            for (i, symbol) in result.recovery_iter().enumerate() {
                write(i as u64 * shape.stripes + stripe, at, symbol)?;
            }
        }
        Ok(())
    })
}

/// Computes the originals that are `erased`. Every stripe must have as many recovery symbols left as originals erased.
pub fn decode(
    shape: Shape,
    erased: Erased<'_>,
    read: &ReadSymbol<'_>,
    read_recovery: &ReadSymbol<'_>,
    write: &WriteSymbol<'_>,
    budget: Budget,
    ctx: &Ctx,
) -> Result<(), VolumeError> {
    match shape.form {
        Form::High => decode_as::<HighRate<DefaultEngine>>(shape, erased, read, read_recovery, write, budget, ctx),
        Form::Low => decode_as::<LowRate<DefaultEngine>>(shape, erased, read, read_recovery, write, budget, ctx),
    }
}

fn decode_as<R: Rate<DefaultEngine>>(
    shape: Shape,
    erased: Erased<'_>,
    read: &ReadSymbol<'_>,
    read_recovery: &ReadSymbol<'_>,
    write: &WriteSymbol<'_>,
    budget: Budget,
    ctx: &Ctx,
) -> Result<(), VolumeError> {
    let (originals, recovery) = shape.per_stripe();
    let in_memory = match shape.form {
        Form::High => recovery.next_power_of_two() + originals,
        Form::Low => originals.next_power_of_two() + recovery,
    };
    let (width, threads) = shape.width(in_memory.next_power_of_two() as u64, budget);
    let mut lost = vec![0_usize; shape.stripes as usize];
    for n in erased.originals {
        lost[(n % shape.stripes) as usize] += 1;
    }
    let tasks = shape.tasks(width, |stripe| lost[stripe as usize] > 0);
    over(&tasks, threads, |next| {
        let mut buffer = vec![0; width as usize];
        let mut decoder = R::decoder(originals, recovery, width as usize, DefaultEngine::new(), None).map_err(code)?;
        while let Some((stripe, at, len)) = next() {
            ctx.check()?;
            decoder.reset(originals, recovery, len).map_err(code)?;
            let symbol = &mut buffer[..len];
            for i in 0..originals as u64 {
                let n = i * shape.stripes + stripe;
                if n >= shape.originals {
                    symbol.fill(0);
                } else if erased.originals.binary_search(&n).is_ok() {
                    continue;
                } else {
                    read(n, at, symbol)?;
                }
                decoder.add_original_shard(i as usize, &*symbol).map_err(code)?;
            }
            let mut needed = lost[stripe as usize];
            for i in 0..recovery as u64 {
                let q = i * shape.stripes + stripe;
                if needed > 0 && erased.recovery.binary_search(&q).is_err() {
                    read_recovery(q, at, symbol)?;
                    decoder.add_recovery_shard(i as usize, &*symbol).map_err(code)?;
                    needed -= 1;
                }
            }
            let result = decoder.decode().map_err(code)?;
            for (i, symbol) in result.restored_original_iter() {
                write(i as u64 * shape.stripes + stripe, at, symbol)?;
            }
        }
        Ok(())
    })
}

/// The limits of the code are checked when a set is laid out or opened; what is left is a set that lies.
fn code(error: reed_solomon_simd::Error) -> VolumeError {
    VolumeError::Lost(error.to_string())
}

/// Runs `work` on threads that share `tasks`; the first error ends all.
fn over<T: Copy + Send + Sync>(
    tasks: &[T],
    threads: usize,
    work: impl Fn(&mut dyn FnMut() -> Option<T>) -> Result<(), VolumeError> + Sync,
) -> Result<(), VolumeError> {
    let queue = Mutex::new(tasks.iter().copied());
    let failed = AtomicBool::new(false);
    let worker = || {
        let mut next = || {
            if failed.load(Ordering::Relaxed) {
                return None;
            }
            queue.lock().unwrap_or_else(|e| e.into_inner()).next()
        };
        work(&mut next).inspect_err(|_| failed.store(true, Ordering::Relaxed))
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(tasks.len())).map(|_| scope.spawn(worker)).collect();
        let mut result = if tasks.is_empty() { Ok(()) } else { worker() };
        for other in others {
            let ended = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })
}

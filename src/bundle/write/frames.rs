//! Frames: read, compressed in parallel, written in order.

use std::io::Write;
use std::ops::Range;

use super::recipes::Recipes;
use super::{Job, Numbers};
use crate::base::{BoxFault, ContentId, Spare};
use crate::bundle::delta::Against;
use crate::bundle::error::{BundleError, Doing};
use crate::bundle::index::*;
use crate::bundle::parallel::in_order;
use crate::bundle::plan::{self, Plan};
use crate::bundle::{frame, layout};
use crate::image::Extent;
use crate::sys::memory;

impl Job<'_> {
    /// Reads the objects of one frame, each checked against its ID.
    fn read_frame(&self, plan: &Plan, frame: &Range<usize>, raw: &mut Vec<u8>) -> Result<(), BoxFault> {
        raw.clear();
        let mut last: Option<(u32, Extent)> = None;
        for object in &plan.objects[frame.clone()] {
            let extent = match &last {
                Some((content, extent)) if *content == object.content => extent.clone(),
                _ => self.extent(object.content)?,
            };
            let from = raw.len();
            raw.resize(from + object.size as usize, 0);
            extent
                .read_exact_at(&mut raw[from..], object.offset)
                .doing(|| format!("read {}", self.describe(object.content)))?;
            if ContentId::of(&raw[from..]) != plan.id(object, &self.catalog) {
                return Err(BundleError::Changed { what: self.describe(object.content) }.into());
            }
            last = Some((object.content, extent));
        }
        Ok(())
    }

    /// Compresses the frames in parallel and writes them in order; gives what the index says of each, and the recipes. Those
    /// are a piece of work like a frame, and the first: their best compression takes long, and memory as well. What is
    /// known of the contents takes `held` bytes meanwhile.
    pub(super) fn put_frames<W: Write>(
        &self,
        plan: &Plan,
        numbers: &Numbers,
        held: u64,
        recipes: &(dyn Fn() -> Result<Recipes, BoxFault> + Sync),
        stream: &mut layout::StreamWriter<W>,
    ) -> Result<(Vec<FrameRecord>, Recipes), BoxFault> {
        enum Made {
            Recipes(Recipes),
            Frame(Vec<u8>),
        }
        let level = self.options.level;
        let reading = self.bases.iter().filter_map(|known| known.contents.as_ref()).map(|contents| contents.memory());
        let budget = self.options.memory.saturating_sub(held + reading.max().unwrap_or(0));
        let of_frame =
            |frame: &Range<usize>| plan.objects[frame.clone()].iter().map(|object| u64::from(object.size)).sum();
        let longest = plan.frames.iter().map(of_frame).max().unwrap_or(0);
        let prefix = plan.prefixes.iter().map(|prefix| plan::bytes(prefix)).max().unwrap_or(0);
        let workers = (budget / level.frame_cost(longest, prefix)).max(1).min(self.options.threads.max(1) as u64);
        let total = plan.objects.iter().map(|object| u64::from(object.size)).sum();
        let task = self.ctx.begin("Compressing", "contents", Some(total));
        // Two buffers a worker, whatever the number of frames.
        let (spare_raw, spare_out): (Spare, Spare) = Default::default();
        let make = |work: usize| -> Result<Made, BoxFault> {
            let Some(at) = work.checked_sub(1) else { return Ok(Made::Recipes(recipes()?)) };
            let mut raw = spare_raw.take(longest as usize);
            let mut out = spare_out.take(frame::bound(longest as usize));
            self.read_frame(plan, &plan.frames[at], &mut raw)?;
            let prefix = self.read_prefix(&plan.prefixes[at])?;
            frame::compress_to(&mut out, level, &raw, &prefix).doing(|| format!("compress frame {at}"))?;
            task.advance(raw.len() as u64)?;
            spare_raw.give_back(raw);
            Ok(Made::Frame(out))
        };
        let (mut records, mut made) = (Vec::new(), Recipes::default());
        in_order(workers as usize, plan.frames.len() + 1, &make, &mut |work, done| {
            let stored = match done {
                Made::Frame(stored) => stored,
                Made::Recipes(recipes) => {
                    made = recipes;
                    return Ok(());
                }
            };
            let check = stream.put(&stored)?;
            let objects = plan.frames[work - 1].len() as u32;
            let part = |part: &Against| PrefixPart {
                content: numbers.base[&part.version.id],
                offset: part.from,
                length: (part.to - part.from) as u32,
            };
            let prefix = plan.prefixes[work - 1].iter().map(part).collect();
            records.push(FrameRecord { stored: stored.len() as u64, check, objects, prefix });
            spare_out.give_back(stored);
            Ok(())
        })?;
        // What comes next, the index and parity, takes as much again.
        spare_raw.into_buffers().into_iter().chain(spare_out.into_buffers()).for_each(memory::free);
        task.complete();
        Ok((records, made))
    }
}

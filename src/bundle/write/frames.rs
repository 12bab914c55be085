//! Frames: read, compressed in parallel, written in order.

use std::io::Write;
use std::ops::Range;
use std::sync::Mutex;

use super::{Job, Numbers};
use crate::base::{BoxFault, ContentId};
use crate::bundle::delta::Against;
use crate::bundle::error::{BundleError, Doing};
use crate::bundle::index::*;
use crate::bundle::parallel::{in_order, lock};
use crate::bundle::plan::Plan;
use crate::bundle::{frame, layout};
use crate::image::Extent;

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
            if ContentId::of(&raw[from..]) != object.id {
                return Err(BundleError::Changed { what: self.describe(object.content) }.into());
            }
            last = Some((object.content, extent));
        }
        Ok(())
    }

    /// Compresses the frames in parallel and writes them in order; gives what the index says of each.
    pub(super) fn put_frames<W: Write>(
        &self,
        plan: &Plan,
        numbers: &Numbers,
        stream: &mut layout::StreamWriter<W>,
    ) -> Result<Vec<FrameRecord>, BoxFault> {
        let level = self.options.level;
        let cost = level.frame_cost(0);
        let workers = (self.options.memory / cost).max(1).min(self.options.threads.max(1) as u64);
        // What is left of the memory holds frames that are finished before their turn, however badly they compress.
        let waiting = self.options.memory.saturating_sub(workers * cost) / level.frame_bytes() as u64;
        let total = plan.objects.iter().map(|object| u64::from(object.size)).sum();
        let task = self.ctx.begin("Compressing", "contents", Some(total));
        // The kernel clears every page that it gives: one buffer a worker is enough.
        let spare: Mutex<Vec<Vec<u8>>> = Mutex::default();
        let compress = |at: usize| -> Result<Vec<u8>, BoxFault> {
            let mut raw = lock(&spare).pop().unwrap_or_else(|| Vec::with_capacity(level.frame_bytes()));
            self.read_frame(plan, &plan.frames[at], &mut raw)?;
            let prefix = self.read_prefix(&plan.prefixes[at])?;
            let stored = frame::compress(level, &raw, &prefix).doing(|| format!("compress frame {at}"))?;
            task.advance(raw.len() as u64)?;
            lock(&spare).push(raw);
            Ok(stored)
        };
        let mut records = Vec::new();
        in_order(workers as usize, (workers + waiting) as usize, plan.frames.len(), &compress, &mut |at, stored| {
            let check = stream.put(&stored)?;
            let objects = plan.frames[at].len() as u32;
            let part = |part: &Against| PrefixPart {
                content: numbers.base[&part.version.id],
                offset: part.from,
                length: (part.to - part.from) as u32,
            };
            let prefix = plan.prefixes[at].iter().map(part).collect();
            records.push(FrameRecord { stored: stored.len() as u64, check, objects, prefix });
            Ok(())
        })?;
        task.complete();
        Ok(records)
    }
}

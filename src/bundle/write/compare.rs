//! Changed contents: which version of them a base has, and whether the difference to it is smaller than they are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Job;
use crate::base::{BoxFault, ContentId, lock};
use crate::bundle::base::{BaseContents, KnownBase, Version};
use crate::bundle::delta::{Against, Alignment, FINE};
use crate::bundle::error::{BundleError, Doing};
use crate::bundle::frame;
use crate::bundle::parallel::in_parallel;
use crate::bundle::plan::{self, Chunk, Grain, Object, Plan};

/// Versions below this size, in bytes, are compared as a whole.
const WHOLE: u64 = 2 * plan::WHOLE;
/// What a range costs in the index, in bytes: its content's ID and size, its place.
const RANGE_COST: usize = 24;
/// How many objects one piece of work compares.
const AT_ONCE: usize = 64;

impl Job<'_> {
    /// The version of a content's path in a base whose contents are at hand.
    fn version(&self, content: u32) -> Option<(Version, &dyn BaseContents)> {
        let found = &self.catalog.entries[content as usize].found;
        let path = plan::sort_path(&found.path);
        let version = |known: &'_ KnownBase| known.version(path, found.size);
        self.bases.iter().rev().find_map(|known| Some((version(known)?, &**known.contents.as_ref()?)))
    }

    /// What each object of the plan is compressed against: nothing where no base has a version of it, and where it is
    /// no smaller as a difference than by itself.
    pub(super) fn differences(
        &self,
        plan: &Plan,
        chunks: &HashMap<u32, Vec<Chunk>>,
    ) -> Result<Vec<Vec<Against>>, BoxFault> {
        let mut against = vec![Vec::new(); plan.objects.len()];
        if self.bases.iter().all(KnownBase::is_out_of_reach) {
            return Ok(against);
        }
        let aligned = self.align(plan, chunks)?;
        let changed = plan.objects.iter().enumerate().filter_map(|(at, object)| {
            let ranges = match aligned.get(&object.content) {
                Some(alignment) => alignment.ranges(object.offset, object.size),
                None => self.version(object.content).map(|(version, _)| whole(version)).into_iter().collect(),
            };
            (!ranges.is_empty()).then_some((at, ranges))
        });
        let changed: Vec<(usize, Vec<Against>)> = changed.collect();
        let smaller = Mutex::new(Vec::new());
        in_parallel(self.options.threads, changed.len().div_ceil(AT_ONCE), &|batch| {
            self.ctx.check()?;
            let batch = &changed[batch * AT_ONCE..changed.len().min((batch + 1) * AT_ONCE)];
            for (at, ranges) in batch {
                if self.is_smaller(&plan.objects[*at], ranges)? {
                    lock(&smaller).push(*at);
                }
            }
            Ok(())
        })?;
        let mut smaller = smaller.into_inner().unwrap_or_else(PoisonError::into_inner);
        smaller.sort_unstable();
        for (at, ranges) in changed {
            if smaller.binary_search(&at).is_ok() {
                against[at] = ranges;
            }
        }
        Ok(against)
    }

    /// Whether an object is smaller as the difference to `ranges` than by itself, all that the ranges cost included.
    fn is_smaller(&self, object: &Object, ranges: &[Against]) -> Result<bool, BoxFault> {
        let extent = self.extent(object.content)?;
        let mut raw = vec![0; object.size as usize];
        let doing = || format!("read {}", self.describe(object.content));
        extent.read_exact_at(&mut raw, object.offset).doing(doing)?;
        let prefix = self.read_prefix(ranges)?;
        let size = |prefix: &[u8]| frame::estimate(&raw, prefix).doing(|| "compare with the base".into());
        Ok(size(&prefix)? + RANGE_COST * ranges.len() < size(&[])?)
    }

    /// Finds where the pieces of contents lie in their base versions, where either is large.
    fn align(&self, plan: &Plan, chunks: &HashMap<u32, Vec<Chunk>>) -> Result<HashMap<u32, Alignment>, BoxFault> {
        let is_far = |content: &u32| {
            let version = self.version(*content);
            version.is_some_and(|(version, _)| chunks.contains_key(content) || version.size >= WHOLE)
        };
        let stored = (0..self.catalog.entries.len() as u32).filter(|at| !plan.contents[*at as usize].is_empty());
        let far: Vec<u32> = stored.filter(is_far).collect();
        let done = Mutex::new(HashMap::new());
        in_parallel(self.options.threads, far.len(), &|at| {
            self.ctx.check()?;
            let content = far[at];
            let Some((version, base)) = self.version(content) else { return Ok(()) };
            let doing = || format!("read the base version of {}", self.describe(content));
            let alignment = match chunks.get(&content) {
                Some(chunks) => Alignment::new(chunks, &Grain::STORED, base, version).doing(doing)?,
                None => Alignment::new(&self.fine(content)?, &FINE, base, version).doing(doing)?,
            };
            lock(&done).insert(content, alignment);
            Ok(())
        })?;
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The pieces of a content that is stored whole.
    fn fine(&self, content: u32) -> Result<Vec<Chunk>, BoxFault> {
        let found = &self.catalog.entries[content as usize].found;
        let (id, pieces) = plan::chunk(&self.extent(content)?, found.size, &FINE)
            .doing(|| format!("read {}", self.describe(content)))?;
        self.unchanged(content, &id)?;
        Ok(pieces)
    }

    /// A content must be what it was in the first pass.
    pub(super) fn unchanged(&self, content: u32, id: &ContentId) -> Result<(), BundleError> {
        match &self.catalog.entries[content as usize].found.id {
            expected if expected == id => Ok(()),
            _ => Err(BundleError::Changed { what: self.describe(content) }),
        }
    }

    /// The bytes a frame is compressed against.
    pub(super) fn read_prefix(&self, prefix: &[Against]) -> Result<Vec<u8>, BoxFault> {
        let mut bytes = Vec::new();
        for part in prefix {
            let from = bytes.len();
            bytes.resize(from + (part.to - part.from) as usize, 0);
            let holder = self.bases.iter().filter_map(|known| known.contents.as_ref());
            let holder = holder.into_iter().find(|contents| contents.size_of(&part.version.id).is_some());
            let absent = || BundleError::Absent { what: "base version of a content".into() };
            holder.ok_or_else(absent)?.read_at(&part.version.id, part.from, &mut bytes[from..])?;
        }
        Ok(bytes)
    }
}

fn whole(version: Version) -> Against {
    Against { version, from: 0, to: version.size }
}

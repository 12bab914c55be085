//! Changed contents: which version of them a base has, and whether the difference to it is smaller than they are.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::Job;
use crate::base::{BoxFault, ContentId, lock};
use crate::bundle::base::{BaseContents, BaseReader, KnownBase, Version};
use crate::bundle::delta::{Against, Alignment, FINE};
use crate::bundle::error::{BundleError, Doing};
use crate::bundle::frame;
use crate::bundle::parallel::in_parallel;
use crate::bundle::plan::{self, Chunk, Grain, Plan};

/// Where contents are cut, by their numbers.
type Chunks = HashMap<u32, Vec<Chunk>>;

/// Versions below this size, in bytes, are compared as a whole.
const WHOLE: u64 = 2 * plan::WHOLE;
/// What a range costs in the index, in bytes: its content's ID and size, its place.
const RANGE_COST: usize = 24;
/// How much one piece of work compares, in bytes; more where a single object is.
const AT_ONCE: u64 = 4 << 20;

/// What is large, cut into chunks.
pub(super) struct Cut {
    /// Of each content that is stored in chunks.
    pub chunks: HashMap<u32, Vec<Chunk>>,
    /// Of each content that is compared with a base version piece by piece.
    pub aligned: HashMap<u32, Alignment>,
}

impl Job<'_> {
    /// The version of a content's path in a base whose contents are at hand.
    fn version(&self, content: u32) -> Option<(Version, &dyn BaseContents)> {
        let found = self.catalog.content(content);
        let path = plan::sort_path(found.path);
        let version = |known: &'_ KnownBase| known.version(path, found.size);
        self.bases.iter().rev().find_map(|known| Some((version(known)?, &**known.contents.as_ref()?)))
    }

    /// The version that a content is compared with piece by piece, since either is large.
    fn large_version(&self, content: u32) -> Option<(Version, &dyn BaseContents)> {
        self.version(content).filter(|(version, _)| self.is_large(content) || version.size >= WHOLE)
    }

    fn is_large(&self, content: u32) -> bool {
        self.catalog.content(content).size >= plan::WHOLE
    }

    /// Cuts what is large into chunks, in parallel: contents, each checked against its ID, and beside them the versions
    /// that they are changes of.
    pub(super) fn cut(&self) -> Result<Cut, BoxFault> {
        let stored = (0..self.catalog.len() as u32).filter(|content| !self.in_base(*content));
        let mut work = Vec::new();
        for content in stored {
            let version = self.large_version(content);
            if version.is_some() || self.is_large(content) {
                work.push((content, None));
            }
            work.extend(version.map(|version| (content, Some(version))));
        }
        let grain = |content: u32| if self.is_large(content) { Grain::STORED } else { FINE };
        let done: Mutex<(Chunks, Chunks)> = Mutex::default();
        in_parallel(self.options.threads, work.len(), &|at| {
            self.ctx.check()?;
            let (content, version) = work[at];
            if let Some((version, contents)) = version {
                let doing = || format!("read the base version of {}", self.describe(content));
                let chunks = grain(content).cut(BaseReader { contents, version, at: 0 }).doing(doing)?;
                lock(&done).1.insert(content, chunks);
                return Ok(());
            }
            let size = self.catalog.content(content).size;
            let (id, chunks) = plan::chunk(&self.extent(content)?, size, &grain(content))
                .doing(|| format!("read {}", self.describe(content)))?;
            self.unchanged(content, &id)?;
            lock(&done).0.insert(content, chunks);
            Ok(())
        })?;
        let (mut chunks, versions) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let align = |(content, version): (u32, Version)| {
            let (own, theirs) = (chunks.get(&content)?, versions.get(&content)?);
            Some((content, Alignment::new(own, &grain(content), theirs, version)))
        };
        let versioned = work.iter().filter_map(|(content, version)| Some((*content, (*version)?.0)));
        let aligned = versioned.filter_map(align).collect();
        chunks.retain(|content, _| self.is_large(*content));
        Ok(Cut { chunks, aligned })
    }

    /// What each object of the plan is compressed against: nothing where no base has a version of it, and where it is
    /// no smaller as a difference than by itself.
    pub(super) fn differences(
        &self,
        plan: &Plan,
        aligned: &HashMap<u32, Alignment>,
    ) -> Result<Vec<Vec<Against>>, BoxFault> {
        let mut against = vec![Vec::new(); plan.objects.len()];
        if self.bases.iter().all(KnownBase::is_out_of_reach) {
            return Ok(against);
        }
        let changed = plan.objects.iter().enumerate().filter_map(|(at, object)| {
            let ranges = match aligned.get(&object.content) {
                Some(alignment) => alignment.ranges(object.offset, object.size),
                None => self.version(object.content).map(|(version, _)| whole(version)).into_iter().collect(),
            };
            (!ranges.is_empty()).then_some((at, ranges))
        });
        let changed: Vec<(usize, Vec<Against>)> = changed.collect();
        let bytes = |(at, ranges): &(usize, Vec<Against>)| u64::from(plan.objects[*at].size) + plan::bytes(ranges);
        let batches = batches(&changed, bytes);
        let smaller = Mutex::new(Vec::new());
        in_parallel(self.options.threads, batches.len(), &|batch| {
            self.ctx.check()?;
            let found = self.smaller(plan, &changed[batches[batch].clone()])?;
            lock(&smaller).extend(found);
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

    /// Those of some objects that are smaller as the difference to their ranges than by themselves, all that the ranges
    /// cost included.
    fn smaller(&self, plan: &Plan, changed: &[(usize, Vec<Against>)]) -> Result<Vec<usize>, BoxFault> {
        let read = |(at, ranges): &(usize, Vec<Against>)| -> Result<_, BoxFault> {
            let object = &plan.objects[*at];
            let mut raw = vec![0; object.size as usize];
            let doing = || format!("read {}", self.describe(object.content));
            self.extent(object.content)?.read_exact_at(&mut raw, object.offset).doing(doing)?;
            Ok((*at, ranges.len(), raw, self.read_prefix(ranges)?))
        };
        let changed = changed.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let doing = || "compare with the base".to_owned();
        let mut estimator = frame::Estimator::new().doing(doing)?;
        let mut smaller = Vec::new();
        for (at, ranges, raw, prefix) in &changed {
            let by_itself = estimator.size(raw, &[]).doing(doing)?;
            if estimator.size(raw, prefix).doing(doing)? + RANGE_COST * ranges < by_itself {
                smaller.push(*at);
            }
        }
        Ok(smaller)
    }

    /// A content must be what it was in the first pass.
    pub(super) fn unchanged(&self, content: u32, id: &ContentId) -> Result<(), BundleError> {
        if self.catalog.content(content).id == *id {
            return Ok(());
        }
        Err(BundleError::Changed { what: self.describe(content) })
    }

    /// The bytes a frame is compressed against.
    pub(super) fn read_prefix(&self, prefix: &[Against]) -> Result<Vec<u8>, BoxFault> {
        // zstd gives other bytes where a prefix lies right before what is compressed: one byte more, and it never does.
        let mut bytes = Vec::with_capacity(plan::bytes(prefix) as usize + 1);
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

/// Neighbours together, up to [`AT_ONCE`].
fn batches<T>(things: &[T], bytes: impl Fn(&T) -> u64) -> Vec<Range<usize>> {
    let (mut batches, mut from, mut size) = (Vec::new(), 0, 0);
    for (at, thing) in things.iter().enumerate() {
        let of_thing = bytes(thing);
        if at > from && size + of_thing > AT_ONCE {
            batches.push(from..at);
            (from, size) = (at, 0);
        }
        size += of_thing;
    }
    if from < things.len() {
        batches.push(from..things.len());
    }
    batches
}

fn whole(version: Version) -> Against {
    Against { version, from: 0, to: version.size }
}

//! What is new to a schedule: objects that no completed job of it has read as they are now.
//!
//! In: objects as they are listed. Out: whether each was covered. The record is looked at a block at a time, in the order of the listing,
//! so that memory does not grow with it. What a completed job read is added to it here, before the next one is planned: jobs of one
//! schedule do not overlap, and adding twice does no harm.

use super::{Error, Planner, list::Found};
use crate::{
    db::Store,
    domain::{
        ChunkState, Job, ScheduleId,
        covered::{Block, Entry},
    },
};

/// Chunks read at a time; each holds a few hundred objects as a rule.
const PAGE: u32 = 64;
/// Objects added in one transaction, about.
const BATCH: usize = 20_000;

/// Tells new objects from covered ones.
#[derive(Debug)]
pub(super) struct Fresh<'p> {
    store: &'p dyn Store,
    schedule: &'p ScheduleId,
    block: Option<Block>,
}

impl<'p> Fresh<'p> {
    /// Begins at no place in particular.
    pub(super) fn new(planner: &'p Planner, schedule: &'p ScheduleId) -> Self {
        Self { store: &*planner.store, schedule, block: None }
    }

    /// Whether a completed job of the schedule has read this object as it is.
    pub(super) async fn is_covered(&mut self, found: &Found) -> Result<bool, Error> {
        let object = Entry::new(found.bucket.uri(&found.meta.key).to_string(), found.meta.size, found.meta.etag.as_deref());
        let block = match self.block.take().filter(|block| block.spans(&object.name)) {
            Some(block) => block,
            None => self.store.covered_block(self.schedule, &object.name).await?,
        };
        Ok(self.block.insert(block).covers(&object))
    }
}

/// What a completed job read, on its way into the record.
#[derive(Debug)]
pub(super) struct Covering<'p> {
    store: &'p dyn Store,
    schedule: &'p ScheduleId,
    job: Option<Job>,
    from: u64,
    entries: Vec<Entry>,
}

impl<'p> Covering<'p> {
    /// Begins with the oldest completed job that is not in the record.
    pub(super) fn new(planner: &'p Planner, schedule: &'p ScheduleId) -> Self {
        Self { store: &*planner.store, schedule, job: None, from: 0, entries: Vec::new() }
    }

    /// Adds some more; false once every completed job is in the record.
    pub(super) async fn next_step(&mut self) -> Result<bool, Error> {
        let job = match self.job.take() {
            Some(job) => job,
            None => {
                let Some(id) = self.store.job_to_cover(self.schedule).await? else { return Ok(false) };
                let Some(job) = self.store.job(&id).await? else { return Ok(false) };
                self.from = 0;
                job
            }
        };
        let page = self.store.chunks(&job.id, self.from, PAGE).await?;
        let ended = page.last().map(|last| self.from = last.id.seq + 1).is_none();
        for input in page.iter().filter(|chunk| chunk.state == ChunkState::Done).flat_map(|chunk| &chunk.inputs) {
            let location = input.bucket.as_ref().unwrap_or(&job.spec.input.uri).with_path(&input.key);
            self.entries.push(Entry::new(location.to_string(), input.size, input.etag.as_deref()));
        }
        if ended || self.entries.len() >= BATCH {
            let mut entries = std::mem::take(&mut self.entries);
            // A manifest names objects in any order, and of one object there are several slices.
            entries.sort_unstable();
            entries.dedup();
            self.store.cover(self.schedule, entries).await?;
        }
        if ended {
            self.store.job_is_covered(&job.id).await?;
        } else {
            self.job = Some(job);
        }
        Ok(true)
    }
}

//! What is new to a schedule: objects that no completed job of it has read as they are now.
//!
//! In: objects as they are listed. Out: whether each was covered. The record is looked at a block at a time, in the order of the listing,
//! so that memory does not grow with it. What a completed job read is added to it here, before the next one is planned, and what a job read
//! that was retried and came to something else is taken out: jobs of one schedule do not overlap, and doing so twice does no harm.

use super::{Error, Planner, list::Found};
use crate::{
    db::Store,
    domain::{
        Job, ScheduleId,
        covered::{Block, Change, Entry},
    },
};

/// Chunks read at a time; each holds a few hundred objects as a rule.
const PAGE: u32 = 64;
/// Objects added at once, about. Where names are random every block of the record gets some each time, and is written anew.
const BATCH: usize = 100_000;

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
            None => {
                // Deleting a schedule cancels the jobs that would ask; one that was retried since asks all the same.
                let block = self.store.covered_block(self.schedule, &object.name).await?;
                block.ok_or_else(|| Error::Job(self.schedule.deleted()))?
            }
        };
        Ok(self.block.insert(block).covers(&object))
    }
}

/// What jobs read that have ended, on its way into the record, or out of it.
#[derive(Debug)]
pub(super) struct Covering<'p> {
    store: &'p dyn Store,
    schedule: &'p ScheduleId,
    job: Option<(Job, Change)>,
    from: u64,
    entries: Vec<Entry>,
}

impl<'p> Covering<'p> {
    /// Begins with the oldest job of which the record does not say what it should.
    pub(super) fn new(planner: &'p Planner, schedule: &'p ScheduleId) -> Self {
        Self { store: &*planner.store, schedule, job: None, from: 0, entries: Vec::new() }
    }

    /// Takes a step; false once the record says of every job what it should.
    pub(super) async fn next_step(&mut self) -> Result<bool, Error> {
        let (job, change) = match self.job.take() {
            Some(begun) => begun,
            None => {
                let Some((id, change)) = self.store.job_to_cover(self.schedule).await? else { return Ok(false) };
                let Some(job) = self.store.job(&id).await? else { return Ok(false) };
                self.from = 0;
                (job, change)
            }
        };
        let page = self.store.chunks(&job.id, self.from, PAGE).await?;
        let ended = page.last().map(|last| self.from = last.id.seq + 1).is_none();
        // All chunks of a job were done when it completed, whatever they have come to since.
        for input in page.iter().flat_map(|chunk| &chunk.inputs) {
            let location = input.bucket.as_ref().unwrap_or(&job.spec.input.uri).with_path(&input.key);
            self.entries.push(Entry::new(location.to_string(), input.size, input.etag.as_deref()));
        }
        if ended || self.entries.len() >= BATCH {
            let mut entries = std::mem::take(&mut self.entries);
            // A manifest names objects in any order, and of one object there are several slices.
            entries.sort_unstable();
            entries.dedup();
            self.store.cover(self.schedule, &job.id, change, entries).await?;
        }
        if ended {
            self.store.job_is_covered(&job.id, change).await?;
        } else {
            self.job = Some((job, change));
        }
        Ok(true)
    }
}

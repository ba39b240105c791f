//! The planning loop of one job: list → pin → cut → append.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Planner,
    cut::{Cut, Cutter},
    fresh::{Covering, Fresh},
    gather::Gatherer,
    list::{self, Found},
    manifest::Manifest,
};
use crate::{
    db::{JobLease, Written},
    domain::{
        Job, ObjectSlice, Problem,
        job::{PartialObject, PlanCursor},
        spec::{InputKind, Layout},
    },
    objects::Stores,
};

/// Chunks appended in one transaction at most.
const APPEND_CHUNKS: usize = 64;
/// How long chunks wait for company: the first ones hardly at all, as nobody has anything to do before they come; each time twice as long as
/// before, up to the second of these.
const APPEND_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Plans a job from its cursor on.
pub(super) async fn plan(planner: &Planner, stores: &Stores, lease: &JobLease, job: &Job, stop: &CancellationToken) -> Result<(), Error> {
    let input = &job.spec.input;
    let bucket = stores.open(&input.uri)?;
    let cutter = Cutter::new(&job.spec, planner.options.chunk_bytes);
    let mut appender = Appender::new(planner, lease, job.plan.clone());
    let most_objects = if job.spec.output.layout == Layout::Mirror { 1 } else { planner.options.chunk_objects };
    let mut gatherer = Gatherer::new(planner.options.chunk_bytes, most_objects, job.spec.execution.chunk_records);
    let mut seen = job.plan.clone();

    let fire = job.fire.as_ref().filter(|fire| fire.only_new);
    let mut fresh = None;
    if let Some(fire) = fire {
        let mut covering = Covering::new(planner, &fire.schedule);
        while covering.next_step().await? {
            if stop.is_cancelled() {
                return Err(Error::Stopping);
            }
            appender.keep_lease().await?;
        }
        fresh = Some(Fresh::new(planner, &fire.schedule));
    }
    let mut objects = match input.kind {
        InputKind::Objects => list::objects(&bucket, input, job.plan.after_key.as_deref()).await,
        InputKind::Manifest => {
            let manifest = Manifest::open(stores, &job.spec, job.plan.manifest.as_ref()).await?;
            // Whole before any of it is planned: a manifest with a fault is the caller's to mend, and costs no work.
            if job.plan.manifest.is_none() {
                let mut lines = manifest.check().await?;
                while lines.next_step().await? {
                    if stop.is_cancelled() {
                        return Err(Error::Stopping);
                    }
                    appender.keep_lease().await?;
                }
            }
            seen.manifest = Some(manifest.cursor().clone());
            manifest.objects().await?
        }
    };
    while let Some(object) = objects.try_next().await? {
        if stop.is_cancelled() {
            return Err(Error::Stopping);
        }
        appender.keep_lease().await?;
        if let Some(fresh) = &mut fresh
            && fresh.is_covered(&object).await?
        {
            pass_over(&mut seen, &object);
            continue;
        }
        match cutter.cut(&object).await? {
            Cut::Whole { slice, records } => {
                if let Some(chunk) = gatherer.push(slice, records) {
                    appender.push(chunk, seen.clone()).await?;
                }
                pin(&mut seen, &object);
            }
            Cut::Slices(slices) => {
                let before = seen.clone();
                pin(&mut seen, &object);
                if let Some(chunk) = gatherer.take() {
                    appender.push(chunk, before.clone()).await?;
                }
                append_slices(&mut appender, &before, &object, slices).await?;
                appender.cursor = seen.clone();
            }
        }
    }
    if let Some(chunk) = gatherer.take() {
        appender.push(chunk, seen.clone()).await?;
    }
    // An input all of which was covered is none to complain of.
    if seen.objects == 0 && seen.covered == 0 {
        return Err(Error::Job(list::nothing_found(input, &bucket).await));
    }
    seen.done = true;
    appender.finish(seen).await
}

/// Adds an object to the snapshot: its digest is a chain, so that it can be carried in the cursor.
fn pin(seen: &mut PlanCursor, found: &Found) {
    let object = &found.meta;
    let mut digest = Sha256::new();
    digest.update(&seen.digest);
    digest.update(found.name());
    digest.update(format!("\0{}\0{}\n", object.size, object.etag.as_deref().unwrap_or_default()));
    // Into the text of the one before: of very many objects, a text a byte would be a fair part of planning.
    seen.digest.clear();
    for byte in digest.finalize() {
        seen.digest.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    move_past(seen, found);
    seen.objects += 1;
    seen.bytes += object.size;
}

/// Leaves out an object that an earlier run of the schedule covered: it is no part of the snapshot.
fn pass_over(seen: &mut PlanCursor, found: &Found) {
    move_past(seen, found);
    seen.covered += 1;
}

fn move_past(seen: &mut PlanCursor, found: &Found) {
    match &mut seen.manifest {
        Some(manifest) => manifest.lines = found.line,
        None => seen.after_key = Some(found.meta.key.clone()),
    }
    seen.partial = None;
}

/// Appends the slices of one large object, except those that an earlier planner has written.
async fn append_slices(
    appender: &mut Appender<'_>,
    before: &PlanCursor,
    found: &Found,
    mut slices: futures::stream::BoxStream<'_, Result<ObjectSlice, Error>>,
) -> Result<(), Error> {
    let (name, etag) = (found.name(), &found.meta.etag);
    let written = match &before.partial {
        Some(partial) if partial.key == name && partial.etag != *etag => {
            let detail = format!("{name} was overwritten while its chunks were being cut");
            return Err(Error::Job(Problem::new("input_changed", "The input changed while the job ran", detail)));
        }
        Some(partial) if partial.key == name => partial.chunks,
        _ => 0,
    };
    let mut cut = 0;
    while let Some(slice) = slices.try_next().await? {
        cut += 1;
        if cut > written {
            let partial = PartialObject { key: name.clone(), etag: etag.clone(), chunks: cut };
            appender.push(vec![slice], PlanCursor { partial: Some(partial), ..before.clone() }).await?;
        }
    }
    Ok(())
}

/// Appends chunks together with the cursor that stands for them.
struct Appender<'p> {
    planner: &'p Planner,
    lease: &'p JobLease,
    cursor: PlanCursor,
    waiting: Vec<Vec<ObjectSlice>>,
    written: Instant,
    patience: Duration,
    next_seq: u64,
}

impl<'p> Appender<'p> {
    fn new(planner: &'p Planner, lease: &'p JobLease, cursor: PlanCursor) -> Self {
        let (written, patience) = (Instant::now(), APPEND_AFTER.0);
        Self { planner, lease, next_seq: cursor.next_seq, cursor, waiting: Vec::new(), written, patience }
    }

    /// Adds a chunk; `cursor` is where planning would go on after it.
    async fn push(&mut self, chunk: Vec<ObjectSlice>, cursor: PlanCursor) -> Result<(), Error> {
        self.waiting.push(chunk);
        self.cursor = cursor;
        if self.waiting.len() >= APPEND_CHUNKS || self.written.elapsed() > self.patience {
            self.write().await?;
            self.patience = APPEND_AFTER.1.min(self.patience * 2);
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), Error> {
        let chunks = std::mem::take(&mut self.waiting);
        self.next_seq += chunks.len() as u64;
        self.cursor.next_seq = self.next_seq;
        let ttl = self.planner.options.lease_ttl;
        match self.planner.store.append_chunks(self.lease, ttl, chunks, &self.cursor).await? {
            Written::Done => {}
            Written::Fenced => return Err(Error::Fenced),
        }
        self.written = Instant::now();
        self.planner.wake.notify_waiters();
        Ok(())
    }

    /// Renews the lease where nothing was written for a while.
    async fn keep_lease(&mut self) -> Result<(), Error> {
        let ttl = self.planner.options.lease_ttl;
        if self.written.elapsed() * 3 < ttl {
            return Ok(());
        }
        if !self.waiting.is_empty() {
            return self.write().await;
        }
        match self.planner.store.renew_job(self.lease, ttl).await? {
            Written::Done => {
                self.written = Instant::now();
                Ok(())
            }
            Written::Fenced => Err(Error::Fenced),
        }
    }

    async fn finish(mut self, cursor: PlanCursor) -> Result<(), Error> {
        self.cursor = cursor;
        self.write().await
    }
}

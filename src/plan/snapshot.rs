//! The planning loop of one job: list → pin → cut → append.

use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Planner,
    cut::{Cut, Cutter},
    gather::Gatherer,
};
use crate::{
    db::{JobLease, Written},
    domain::{
        Job, ObjectSlice, Problem,
        job::{PartialObject, PlanCursor},
        spec::InputSpec,
    },
    objects::{Bucket, ObjectMeta},
};

/// Chunks appended in one transaction at most.
const APPEND_CHUNKS: usize = 64;
/// Chunks wait no longer than this for company.
const APPEND_SECONDS: f64 = 0.5;

/// Plans a job from its cursor on.
pub(super) async fn plan(planner: &Planner, lease: &JobLease, job: &Job, stop: &CancellationToken) -> Result<(), Error> {
    let input = &job.spec.input;
    let bucket = planner.stores.open(&input.uri)?;
    let filter = Filter::new(input);
    let cutter = Cutter::new(bucket.clone(), &job.spec, planner.options.chunk_bytes);
    let mut appender = Appender::new(planner, lease, job.plan.clone());
    let mut gatherer = Gatherer::new(planner.options.chunk_bytes, planner.options.chunk_objects, job.spec.execution.chunk_records);
    let mut seen = job.plan.clone();

    let mut objects = if input.uri.is_prefix() {
        bucket.list(input.uri.path(), job.plan.after_key.as_deref())
    } else if job.plan.after_key.is_some() {
        stream::empty().boxed()
    } else {
        stream::iter([bucket.head(input.uri.path()).await]).boxed()
    };
    while let Some(object) = objects.try_next().await? {
        if stop.is_cancelled() {
            return Err(Error::Stopping);
        }
        appender.keep_lease().await?;
        if !filter.takes(&object) {
            continue;
        }
        let before = seen.clone();
        pin(&mut seen, &object);
        match cutter.cut(&object).await? {
            Cut::Whole { slice, records } => {
                if let Some(chunk) = gatherer.push(slice, records) {
                    appender.push(chunk, before).await?;
                }
            }
            Cut::Slices(slices) => {
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
    if seen.objects == 0 {
        return Err(Error::Job(nothing_found(input, &bucket).await));
    }
    seen.done = true;
    appender.finish(seen).await
}

/// Adds an object to the snapshot: its digest is a chain, so that it can be carried in the cursor.
fn pin(seen: &mut PlanCursor, object: &ObjectMeta) {
    let mut digest = Sha256::new();
    digest.update(&seen.digest);
    digest.update(&object.key);
    digest.update(format!("\0{}\0{}\n", object.size, object.etag.as_deref().unwrap_or_default()));
    seen.digest = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    seen.after_key = Some(object.key.clone());
    seen.objects += 1;
    seen.bytes += object.size;
    seen.partial = None;
}

/// Appends the slices of one large object, except those that an earlier planner has written.
async fn append_slices(
    appender: &mut Appender<'_>,
    before: &PlanCursor,
    object: &ObjectMeta,
    mut slices: futures::stream::BoxStream<'_, Result<ObjectSlice, Error>>,
) -> Result<(), Error> {
    let written = match &before.partial {
        Some(partial) if partial.key == object.key && partial.etag != object.etag => {
            let detail = format!("{} was overwritten while its chunks were being cut", object.key);
            return Err(Error::Job(Problem::new("input_changed", "The input changed while the job ran", detail)));
        }
        Some(partial) if partial.key == object.key => partial.chunks,
        _ => 0,
    };
    let mut cut = 0;
    while let Some(slice) = slices.try_next().await? {
        cut += 1;
        if cut > written {
            let partial = PartialObject { key: object.key.clone(), etag: object.etag.clone(), chunks: cut };
            appender.push(vec![slice], PlanCursor { partial: Some(partial), ..before.clone() }).await?;
        }
    }
    Ok(())
}

/// Which objects below the prefix are input.
pub(super) struct Filter {
    prefix: String,
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Filter {
    pub(super) fn new(input: &InputSpec) -> Self {
        let prefix = if input.uri.is_prefix() { input.uri.path().to_owned() } else { String::new() };
        Self { prefix, include: (!input.include.is_empty()).then(|| globs(&input.include)), exclude: globs(&input.exclude) }
    }

    /// Names that begin with `_` or `.` (`_SUCCESS`, `.crc`) are markers by the convention of Hadoop and Spark, and no input unless
    /// `include` names them; so are empty objects without a known extension, which stand for folders.
    pub(super) fn takes(&self, object: &ObjectMeta) -> bool {
        let name = object.key.strip_prefix(&self.prefix).unwrap_or(&object.key);
        if self.exclude.is_match(name) {
            return false;
        }
        match &self.include {
            Some(include) => include.is_match(name),
            None if self.prefix.is_empty() => true,
            None => {
                let marker = name.split('/').any(|segment| segment.starts_with(['_', '.']));
                let folder = object.size == 0 && !name.rsplit('/').next().unwrap_or(name).contains('.');
                !marker && !folder
            }
        }
    }
}

/// Globs were compiled once at acceptance already; one that does not compile now matches nothing.
fn globs(patterns: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        if let Ok(glob) = GlobBuilder::new(pattern).literal_separator(true).build() {
            set.add(glob);
        }
    }
    set.build().unwrap_or_default()
}

/// Says what to do about a prefix in which nothing is input.
pub(super) async fn nothing_found(input: &InputSpec, bucket: &Bucket) -> Problem {
    let title = "The input prefix holds no object";
    let below = bucket.list(input.uri.path(), None).take(1).try_next().await;
    let detail = match below {
        Ok(Some(object)) => format!(
            "{} holds objects (the first is {:?}), but input.include and input.exclude leave none of them; names that begin with '_' or '.' count only when input.include names them",
            input.uri, object.key
        ),
        _ => format!("nothing lies below {}; check the bucket, the prefix and its letter case", input.uri),
    };
    Problem::new("input_empty", title, detail)
}

/// Appends chunks together with the cursor that stands for them.
struct Appender<'p> {
    planner: &'p Planner,
    lease: &'p JobLease,
    cursor: PlanCursor,
    waiting: Vec<Vec<ObjectSlice>>,
    written: Instant,
    next_seq: u64,
}

impl<'p> Appender<'p> {
    fn new(planner: &'p Planner, lease: &'p JobLease, cursor: PlanCursor) -> Self {
        Self { planner, lease, next_seq: cursor.next_seq, cursor, waiting: Vec::new(), written: Instant::now() }
    }

    /// Adds a chunk; `cursor` is where planning would go on after it.
    async fn push(&mut self, chunk: Vec<ObjectSlice>, cursor: PlanCursor) -> Result<(), Error> {
        self.waiting.push(chunk);
        self.cursor = cursor;
        if self.waiting.len() >= APPEND_CHUNKS || self.written.elapsed().as_secs_f64() > APPEND_SECONDS {
            self.write().await?;
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

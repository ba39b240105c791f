//! What a job would read, from the first page of its listing: for a dry run.
//!
//! In: a definition. Out: its first objects, and how many objects, bytes, records and chunks there are, as far as a few requests tell.
//! Reads footers and heads of a few objects only; scans none, and writes nothing.

use std::time::Duration;

use futures::TryStreamExt;

use super::{
    Error, Options,
    cut::{Cutter, head, record_bytes, slice_of, whole_up_to},
    gather::Gatherer,
    list::{self, Found},
    manifest::Manifest,
};
use crate::{
    domain::{
        JobSpec, ObjectSlice, Problem, Slice,
        spec::{InputCompression, InputFormat, InputKind, Layout},
    },
    objects::{self, Stores},
    runner::decode::sniff,
};

/// Input objects in the first page.
const PAGE: usize = 1000;
/// How long they are looked for: globs may pass over very many.
const PATIENCE: Duration = Duration::from_secs(10);
/// Objects whose records are counted or estimated; the others are taken to be like them.
const PROBED: usize = 8;

/// What a job would read.
#[derive(Debug)]
pub struct Preview {
    /// Input objects of the first page, in input order.
    pub objects: Vec<ObjectSlice>,
    /// Whether there are no others.
    pub all: bool,
    /// How much there is in them.
    pub estimate: Estimate,
    /// Why the job would fail at once: nothing is input.
    pub problem: Option<Problem>,
}

/// How much there is in the objects of a preview.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimate {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their records; `None` when nothing tells, as for compressed texts.
    pub records: Option<u64>,
    /// Whether `records` was counted rather than estimated.
    pub records_exact: bool,
    /// Chunks they would be cut into.
    pub chunks: u64,
    /// Whether `chunks` is what the planner would make.
    pub chunks_exact: bool,
}

/// Lists the first page of a job's input and estimates what is in it.
///
/// # Errors
/// Those of the store.
pub async fn preview(stores: &Stores, spec: &JobSpec, options: &Options) -> objects::Result<Preview> {
    let (mut found, mut all, mut problem) = (Vec::new(), false, None);
    // Out of time: what was found by then is the first page.
    match tokio::time::timeout(PATIENCE, first_page(stores, spec, &mut found)).await {
        Ok(Ok(ended)) => all = ended,
        Ok(Err(Error::Objects(error))) => return Err(error),
        Ok(Err(Error::Job(why))) => problem = Some(why),
        Ok(Err(Error::Fenced | Error::Stopping | Error::Database(_))) | Err(_) => {}
    }
    if found.is_empty() && all {
        let bucket = stores.open(&spec.input.uri)?;
        problem = problem.or(Some(list::nothing_found(&spec.input, &bucket).await));
    }
    let cutter = Cutter::new(spec, options.chunk_bytes);
    let objects: Vec<ObjectSlice> = found
        .iter()
        .map(|object| {
            let (format, compression) = cutter.kind_by_name(&object.meta.key);
            slice_of(object, format, compression, Slice::Whole)
        })
        .collect();
    let estimate = estimate(&cutter, &found, &objects, spec, options).await;
    Ok(Preview { objects, all, estimate, problem })
}

/// Finds the first objects; whether there are no others.
async fn first_page(stores: &Stores, spec: &JobSpec, found: &mut Vec<Found>) -> Result<bool, Error> {
    let input = &spec.input;
    let mut objects = match input.kind {
        InputKind::Objects => list::objects(&stores.open(&input.uri)?, input, None).await,
        InputKind::Manifest => Manifest::open(stores, spec, None).await?.objects().await?,
    };
    while found.len() < PAGE {
        match objects.try_next().await? {
            Some(object) => found.push(object),
            None => return Ok(true),
        }
    }
    Ok(false)
}

async fn estimate(cutter: &Cutter, found: &[Found], objects: &[ObjectSlice], spec: &JobSpec, options: &Options) -> Estimate {
    let mirrored = spec.output.layout == Layout::Mirror;
    let most = spec.execution.chunk_records.filter(|_| !mirrored);
    let bytes: u64 = objects.iter().map(|o| o.size).sum();
    let mut probed = Probed { bytes: 0, records: 0, counted: true };
    for (found, object) in found.iter().zip(objects).take(PROBED) {
        probed.add(cutter, found, object).await;
    }
    let records = (probed.bytes > 0).then(|| (u128::from(probed.records) * u128::from(bytes) / u128::from(probed.bytes)) as u64);
    // Mirrored, each object is a chunk.
    let (chunks, uncut) = if mirrored { (objects.len() as u64, true) } else { chunks(objects, most, &probed, options) };
    Estimate {
        objects: objects.len() as u64,
        bytes,
        records: if objects.is_empty() { Some(0) } else { records },
        records_exact: probed.counted && objects.len() <= PROBED,
        chunks,
        chunks_exact: uncut && most.is_none(),
    }
}

/// The records of a few objects.
struct Probed {
    bytes: u64,
    records: u64,
    /// Whether all of them were counted.
    counted: bool,
}

impl Probed {
    /// Parquet says how many rows it has; of a text the length of the first lines is known; a picture is one record. What cannot be read,
    /// and an archive, tells nothing.
    async fn add(&mut self, cutter: &Cutter, found: &Found, object: &ObjectSlice) {
        let head = head(found).await.unwrap_or_default();
        let format = match object.format {
            InputFormat::Auto => sniff::format_of(&head[..head.len().min(sniff::HEAD_BYTES)]).unwrap_or_default(),
            known => known,
        };
        match format {
            InputFormat::Image | InputFormat::Text => {
                self.bytes += object.size;
                self.records += 1;
                return;
            }
            InputFormat::Tar => {
                self.counted = false;
                return;
            }
            _ => {}
        }
        // An estimate may do without what the store does not give now.
        let counted = if format == InputFormat::Parquet { cutter.row_groups(&found.bucket, object).await.ok().flatten() } else { None };
        self.counted &= counted.is_some();
        let plain = format != InputFormat::Parquet && sniff::compression_of(&head) == InputCompression::None;
        if let Some(groups) = counted {
            self.bytes += object.size;
            self.records += groups.iter().map(|group| group.rows).sum::<u64>();
        } else if plain && !head.is_empty() {
            self.bytes += object.size;
            self.records += object.size / record_bytes(&head);
        }
    }

    /// Records in so many bytes.
    fn records_in(&self, bytes: u64) -> u64 {
        if self.bytes == 0 { 0 } else { (u128::from(self.records) * u128::from(bytes) / u128::from(self.bytes)) as u64 }
    }
}

/// About how many chunks the objects make, and whether none of them is large enough to be cut.
fn chunks(objects: &[ObjectSlice], most: Option<u64>, probed: &Probed, options: &Options) -> (u64, bool) {
    let mut gatherer = Gatherer::new(options.chunk_bytes, options.chunk_objects, most);
    let (mut chunks, mut uncut) = (0, true);
    for object in objects {
        let records = probed.records_in(object.size);
        let cut = object.size > whole_up_to(object.format, options.chunk_bytes, most);
        let by_bytes = if cut { object.size.div_ceil(options.chunk_bytes) } else { 1 };
        let by_records = most.map_or(1, |most| records.div_ceil(most));
        let pieces = by_bytes.max(by_records);
        if pieces > 1 {
            uncut = false;
            chunks += gatherer.take().map_or(0, |_| 1) + pieces;
        } else {
            chunks += gatherer.push(object.clone(), records).map_or(0, |_| 1);
        }
    }
    chunks += gatherer.take().map_or(0, |_| 1);
    (chunks, uncut)
}

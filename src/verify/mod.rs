//! Rereads a finished job's output and proves what its manifest says, with nothing but the store.
//!
//! In: an output prefix. Out: a [`Report`] with every finding. No database, no service: whoever can read the bucket can check it.
//! Parts are streamed, several side by side; memory is bounded by the manifest, a batch of rows and the error rows of one chunk
//! for each part in flight, not by the number of records.

mod coverage;
mod findings;
mod input;
mod outcomes;
mod part;
mod rows;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::{
    domain::{
        Uri,
        job::Ending,
        names::{MANIFEST, SUCCESS},
    },
    execute::manifest::Manifest,
    objects::{self, Bucket, Stores},
};
pub use findings::Finding;
use findings::Findings;
use part::Access;

/// Findings kept in all.
const MOST_FINDINGS: usize = 100;

/// What to check beyond the output itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The output alone.
    Output,
    /// The input as well: that each of its records has its outcome.
    Input,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether there are no findings.
    pub verified: bool,
    /// Who wrote the output.
    pub job: String,
    /// Where.
    pub output: Uri,
    /// The job's own output, where this is its review queue.
    pub review_of: Option<Uri>,
    /// The table that alone holds the predictions, which was not read.
    pub only_table: Option<String>,
    /// What the manifest says.
    pub complete: bool,
    /// How the job ended.
    pub ending: Option<Ending>,
    /// Parts in the manifest.
    pub parts: u64,
    /// Files that were read, error rows' included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Predictions that were read; where a table alone holds them, those that the manifest says are there.
    pub succeeded: u64,
    /// Error rows that were read.
    pub failed: u64,
    /// Records of the input, where it was read again.
    pub input_records: Option<u64>,
    /// What is wrong, the first hundred.
    pub findings: Vec<Finding>,
    /// How many findings there are in all.
    pub findings_total: u64,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no manifest.
    #[error("{0} does not exist: no job has finished there")]
    NoManifest(Uri),
    /// What lies in its place is none.
    #[error("{uri} is no manifest: {source}")]
    BadManifest {
        /// Where.
        uri: Uri,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A review queue was to be held against the input.
    #[error(
        "{uri} is a review queue: it holds the records with a flag of {} alone, and the input holds the others too; read the input again \
         against the job's own output, nightshift verify --input {of}",
        when.join(", ")
    )]
    ReviewQueue {
        /// Where.
        uri: Uri,
        /// The job's own output.
        of: Uri,
        /// The flags.
        when: Vec<String>,
    },
    /// Predictions are in a table, which is not read.
    #[error(
        "the predictions below {uri} are in the table {table} of {connection} alone, which is not read: without --input its error rows and \
         counts are checked"
    )]
    OnlyTable {
        /// Where.
        uri: Uri,
        /// The table.
        table: String,
        /// Of this connection.
        connection: String,
    },
    /// A store failed.
    #[error(transparent)]
    Store(#[from] objects::Error),
    /// A check ended in a panic.
    #[error("the check of a part failed: {0}")]
    Panic(#[from] tokio::task::JoinError),
}

/// Verifies the output below `output`, `side_by_side` parts at a time.
///
/// # Errors
/// [`Error`] when nothing can be said; what is wrong with the output is in the report.
pub async fn verify(stores: &Stores, output: &Uri, depth: Depth, side_by_side: usize) -> Result<Report, Error> {
    let output = output.as_prefix();
    let bucket = stores.open(&output)?;
    let manifest = read_manifest(&bucket, &output).await?;
    if let (Some(review), Depth::Input) = (&manifest.review, depth) {
        return Err(Error::ReviewQueue { uri: output, of: review.of.clone(), when: review.when.clone() });
    }
    if let (Some(table), Depth::Input) = (manifest.output.only_table(), depth) {
        return Err(Error::OnlyTable { uri: output, table: table.table.to_string(), connection: table.connection.clone() });
    }
    let mut findings = Findings::at_most(MOST_FINDINGS);
    check_document(&manifest, &mut findings);
    coverage::check(&manifest, &mut findings);
    check_marker(&manifest, &bucket, &output, &mut findings).await?;
    check_names(&manifest, &bucket, &output, &mut findings).await?;

    let access = Access {
        output: bucket,
        prefix: output.clone(),
        stores: stores.clone(),
        input: manifest.input.clone(),
        depth,
        only_table: manifest.output.only_table().is_some(),
        handle: Handle::current(),
    };
    let manifest = Arc::new(manifest);
    let mut report = Report::new(&manifest, output, depth);
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    let checks = stream::iter(0..manifest.parts.len()).map(|at| {
        let (manifest, access) = (manifest.clone(), access.clone());
        tokio::task::spawn_blocking(move || part::check(&manifest.parts[at], &access))
    });
    let mut checks = checks.buffered(side_by_side.max(1));
    while let Some(checked) = checks.try_next().await? {
        let checked = checked?;
        findings.append(checked.findings);
        report.files += checked.files;
        report.bytes += checked.bytes;
        report.succeeded += checked.succeeded;
        report.failed += checked.failed;
        for (code, rows) in checked.codes {
            *codes.entry(code).or_default() += rows;
        }
        if let Some(records) = &mut report.input_records {
            *records += checked.input_records;
        }
    }
    check_totals(&manifest, &report, &codes, &mut findings);
    (report.findings, report.findings_total) = findings.take();
    report.verified = report.findings_total == 0;
    Ok(report)
}

impl Report {
    fn new(manifest: &Manifest, output: Uri, depth: Depth) -> Self {
        Self {
            verified: false,
            job: manifest.job.to_string(),
            output,
            review_of: manifest.review.as_ref().map(|review| review.of.clone()),
            only_table: manifest.output.only_table().map(|table| table.table.to_string()),
            complete: manifest.complete,
            ending: manifest.ending,
            parts: manifest.parts.len() as u64,
            files: 0,
            bytes: 0,
            succeeded: 0,
            failed: 0,
            input_records: (depth == Depth::Input).then_some(0),
            findings: Vec::new(),
            findings_total: 0,
        }
    }
}

async fn read_manifest(bucket: &Bucket, output: &Uri) -> Result<Manifest, Error> {
    let uri = output.join(MANIFEST);
    match bucket.read_all(uri.path()).await {
        Ok(json) => Manifest::parse(&json).map_err(|source| Error::BadManifest { uri, source }),
        Err(objects::Error::NotFound { uri }) => Err(Error::NoManifest(uri)),
        Err(error) => Err(error.into()),
    }
}

/// What the manifest says of itself.
fn check_document(manifest: &Manifest, findings: &mut Findings) {
    let mut add = |code, detail: String| findings.add(Finding::of_file(code, MANIFEST, detail));
    let counts = &manifest.counts;
    let (succeeded, failed) = manifest.parts.iter().fold((0, 0), |(s, f), part| (s + part.records, f + part.failed));
    if (counts.succeeded, counts.failed, counts.records) != (succeeded, failed, succeeded + failed) {
        let said = format!("{} and {}, {} in all", counts.succeeded, counts.failed, counts.records);
        add("wrong_count", format!("its parts add up to {succeeded} predictions and {failed} errors, and its counts say {said}"));
    }
    if manifest.complete != (manifest.ending == Some(Ending::Completed)) {
        let ending = manifest.ending.map_or("nothing", Ending::name);
        add("wrong_ending", format!("it says complete: {} and that the job ended as {ending}", manifest.complete));
    }
    for pair in manifest.parts.windows(2).filter(|pair| pair[0].part >= pair[1].part) {
        add("out_of_order", format!("part {} stands after part {}", pair[1].part, pair[0].part));
    }
    if manifest.complete && manifest.parts.len() as u64 != counts.chunks {
        add("missing_part", format!("it lists {} parts of {} chunks", manifest.parts.len(), counts.chunks));
    }
    for part in &manifest.parts {
        let errors = part.errors.as_ref().map_or(0, |errors| errors.records);
        if errors != part.failed {
            add("wrong_count", format!("part {} says that {} records failed, and its errors file has {errors}", part.part, part.failed));
        }
        if part.key.is_some() != part.sha256.is_some() {
            add("wrong_digest", format!("part {} has a name without a digest, or a digest without a name", part.part));
        }
    }
}

/// `_SUCCESS` stands exactly where the job completed.
async fn check_marker(manifest: &Manifest, bucket: &Bucket, output: &Uri, findings: &mut Findings) -> Result<(), Error> {
    let marker = match bucket.read_all(output.join(SUCCESS).path()).await {
        Ok(bytes) => Some(bytes),
        Err(objects::Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let finding = match (manifest.complete, marker) {
        (true, None) => ("missing_marker", "the manifest says that the job is complete, and the marker is not there".to_owned()),
        (false, Some(_)) => ("false_marker", "the manifest says that the job is not complete, and the marker is there".to_owned()),
        (true, Some(marker)) if marker.trim_ascii() != manifest.job.as_str().as_bytes() => {
            ("false_marker", format!("it does not name {}, whose manifest this is", manifest.job))
        }
        _ => return Ok(()),
    };
    findings.add(Finding::of_file(finding.0, SUCCESS, finding.1));
    Ok(())
}

/// Nothing lies there that a reader could take for a part and that the manifest does not name.
async fn check_names(manifest: &Manifest, bucket: &Bucket, output: &Uri, findings: &mut Findings) -> Result<(), Error> {
    let mut named: HashSet<&str> = HashSet::new();
    for key in manifest.parts.iter().flat_map(|part| part.key.iter().chain(part.errors.as_ref().map(|file| &file.key))) {
        if !named.insert(key) {
            findings.add(Finding::of_file("named_twice", key, "the manifest names it twice"));
        }
    }
    let mut objects = bucket.list(output.path(), None);
    while let Some(object) = objects.try_next().await? {
        let name = object.key.strip_prefix(output.path()).unwrap_or_default();
        // Directly there, where readers look for parts; below may lie outputs of other jobs.
        let leaf = name.strip_prefix("errors/").unwrap_or(name);
        if leaf.starts_with("part-") && !leaf.contains('/') && !named.contains(name) {
            findings.add(Finding::of_file("unnamed_part", name, "it looks like a part, and the manifest does not name it"));
        }
    }
    Ok(())
}

/// Sums over all parts, as read.
fn check_totals(manifest: &Manifest, report: &Report, codes: &BTreeMap<String, u64>, findings: &mut Findings) {
    let counts = &manifest.counts;
    if (report.succeeded, report.failed) != (counts.succeeded, counts.failed) {
        let detail = format!(
            "{} predictions and {} errors were read, and the manifest says {} and {}",
            report.succeeded, report.failed, counts.succeeded, counts.failed
        );
        findings.add(Finding::of_output("wrong_count", detail));
    }
    for code in manifest.error_codes.keys().chain(codes.keys().filter(|code| !manifest.error_codes.contains_key(*code))) {
        let (said, found) = (manifest.error_codes.get(code).copied().unwrap_or(0), codes.get(code).copied().unwrap_or(0));
        if said != found {
            let detail = format!("{found} error rows say {code}, and the manifest says {said}");
            findings.add(Finding::of_output("wrong_count", detail));
        }
    }
}

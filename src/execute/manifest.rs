//! `_manifest.json`: what a job wrote, in input order.
//!
//! In: the job and its chunks as the store keeps them. Out: the bytes of the manifest. Reads no clock and no store, so that writing it
//! again after a crash gives the same bytes.
//!
//! Whoever reads the output needs nothing else: every part with its hash, and every object with the slice that a part covers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{
    Chunk, ChunkResult, Job, JobId, JobSpec, ObjectSlice, PartFile, Pipeline, Slice, Uri,
    job::Ending,
    names,
    spec::{CsvOptions, InputCompression, InputFormat, InputKind, Layout, OutputCompression, OutputFormat, ReviewSpec},
    summary::Report,
    table::{TableRows, TableSpec},
};

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Who wrote it.
    pub job: JobId,
    /// When the job was accepted, RFC 3339 UTC.
    pub created_at: String,
    /// When it ended, RFC 3339 UTC; `None` in a manifest that was written before the job's end was, which is the rule.
    pub finished_at: Option<String>,
    /// Whether every input record has its outcome in `parts`.
    pub complete: bool,
    /// How the job ended.
    pub ending: Option<Ending>,
    /// What made the predictions.
    pub model: Model,
    /// How records became predictions, as resolved at acceptance.
    pub pipeline: Pipeline,
    /// Version of the runtime library; empty when no chunk ran.
    pub runtime: String,
    /// The provider that ran the model; empty when no chunk ran.
    pub provider: String,
    /// Records a call of the runtime, at most; 0 when no chunk ran. Smaller ones were tried where `usage` says so, and some models round
    /// differently by the size of a batch.
    #[serde(default)]
    pub batch_size: u32,
    /// What was read.
    pub input: Input,
    /// What was written.
    pub output: Output,
    /// How much there was.
    pub counts: Counts,
    /// Error rows by code, over all parts.
    pub error_codes: BTreeMap<String, u64>,
    /// What the predictions are like, over all parts.
    #[serde(default)]
    pub summary: Report,
    /// In a review queue's manifest, whose queue it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
    /// Committed chunks, in input order.
    pub parts: Vec<Part>,
}

/// What a review queue is to its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// The job's own output, which holds every record.
    pub of: Uri,
    /// The flags; records that met one of them are here.
    pub when: Vec<String>,
}

/// The model, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Where it was found.
    pub uri: Uri,
    /// SHA-256 over all its files, lower-case hex.
    pub digest: String,
}

/// The input as the snapshot saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The prefix or object; or the manifest that named the objects.
    pub uri: Uri,
    /// Which of these.
    #[serde(default)]
    pub kind: InputKind,
    /// Format of every object, as the job said.
    #[serde(default)]
    pub format: InputFormat,
    /// Compression of every object, as the job said.
    #[serde(default)]
    pub compression: InputCompression,
    /// How CSV is written.
    #[serde(default)]
    pub csv: CsvOptions,
    /// SHA-256 over key, size and etag of every object, lower-case hex.
    pub snapshot_digest: String,
    /// Objects in the snapshot.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where the parts are and what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The prefix that the keys of parts are relative to.
    pub uri: Uri,
    /// Format of the parts; error rows are always JSON Lines.
    pub format: OutputFormat,
    /// Compression of the parts; error rows have none.
    pub compression: OutputCompression,
    /// How parts relate to inputs.
    #[serde(default)]
    pub layout: Layout,
    /// The table that holds the same rows, or those rows alone where it says that there are no parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableSpec>,
}

/// Sums over `parts`, but for `objects` and `chunks`, which count what was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Objects found.
    pub objects: u64,
    /// Chunks planned.
    pub chunks: u64,
    /// Records with an outcome: `succeeded` and `failed`.
    pub records: u64,
    /// Records with a prediction.
    pub succeeded: u64,
    /// Error rows.
    pub failed: u64,
}

/// One committed chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The chunk's number: parts are in input order by it.
    pub part: u64,
    /// Relative to the output prefix; `None` when no record of the chunk got a prediction, or predictions are in a table alone.
    pub key: Option<String>,
    /// Rows of the part.
    pub records: u64,
    /// Rows of `errors`.
    pub failed: u64,
    /// Size of the part.
    pub bytes: u64,
    /// Of the part's bytes, lower-case hex; `None` without a part.
    pub sha256: Option<String>,
    /// Its error rows, if any.
    pub errors: Option<PartFile>,
    /// What of it went into the table, if the job has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableRows>,
    /// What it covers, in input order.
    pub inputs: Vec<PartInput>,
}

/// An object, or a slice of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInput {
    /// The bucket that it lies in, where a manifest named it; that of the input otherwise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bucket: Option<Uri>,
    /// Key in that store.
    pub key: String,
    /// As the store gave it.
    pub etag: Option<String>,
    /// Size of the whole object, bytes.
    pub size: u64,
    /// Which part of it.
    pub slice: Slice,
}

impl Output {
    /// The table that alone holds the predictions, if one does.
    pub fn only_table(&self) -> Option<&TableSpec> {
        self.table.as_ref().filter(|table| !table.parts)
    }
}

impl Manifest {
    /// The manifest of a job that is about to end (or has), without its parts.
    pub fn new(job: &Job) -> Self {
        let (input, output) = (&job.spec.input, &job.spec.output);
        Self {
            job: job.id.clone(),
            created_at: job.created_at.to_string(),
            finished_at: job.finished_at.map(|time| time.to_string()),
            complete: job.ending == Some(Ending::Completed),
            ending: job.ending,
            model: Model { uri: job.model.uri.clone(), digest: job.model.digest.clone() },
            pipeline: job.pipeline.clone(),
            runtime: job.usage.runtime.clone(),
            provider: job.usage.provider.clone(),
            batch_size: job.usage.batch_size,
            input: Input {
                uri: input.uri.clone(),
                kind: input.kind,
                format: input.format,
                compression: input.compression,
                csv: input.csv.clone(),
                snapshot_digest: job.plan.digest.clone(),
                objects: job.plan.objects,
                bytes: job.plan.bytes,
            },
            output: Output {
                uri: output.uri.clone(),
                format: output.format,
                compression: output.compression,
                layout: output.layout,
                table: output.table.clone(),
            },
            counts: Counts { objects: job.plan.objects, chunks: job.counts.chunks, records: 0, succeeded: 0, failed: 0 },
            error_codes: BTreeMap::new(),
            summary: Report::default(),
            review: None,
            parts: Vec::new(),
        }
    }

    /// The manifest of such a job's review queue, without its parts: they hold flagged records a second time, and no error rows.
    pub fn of_review(job: &Job, review: &ReviewSpec) -> Self {
        let mut manifest = Self::new(job);
        manifest.output.uri = review.uri.clone();
        manifest.output.table = None;
        manifest.review = Some(Review { of: job.spec.output.uri.clone(), when: review.when.clone() });
        manifest
    }

    /// Adds a committed chunk's flagged records to the manifest of a review queue, as [`push`](Self::push) adds all of its records.
    pub fn push_flagged(&mut self, spec: &JobSpec, chunk: &Chunk) {
        let flagged = chunk.result.as_ref().map(|result| ChunkResult {
            succeeded: result.review.as_ref().map_or(0, |file| file.records),
            part: result.review.clone(),
            ..ChunkResult::default()
        });
        self.push(spec, &Chunk { result: flagged, ..chunk.clone() });
    }

    /// Adds a committed chunk at its place, whatever the order of calls. A chunk without a result has written nothing that counts and
    /// is left out; one that is there already is not counted twice.
    ///
    /// `spec` is the job's: by its layout a part has another name in the end than its attempt gave it.
    pub fn push(&mut self, spec: &JobSpec, chunk: &Chunk) {
        let Some(result) = &chunk.result else { return };
        let place = self.parts.partition_point(|part| part.part < chunk.id.seq);
        if self.parts.get(place).is_some_and(|part| part.part == chunk.id.seq) {
            return;
        }
        self.counts.succeeded += result.succeeded;
        self.counts.failed += result.failed;
        self.counts.records += result.succeeded + result.failed;
        for (code, records) in &result.error_codes {
            *self.error_codes.entry(code.clone()).or_default() += records;
        }
        let file = result.part.as_ref();
        let part = Part {
            part: chunk.id.seq,
            key: names::final_part(spec, chunk),
            records: result.succeeded,
            failed: result.failed,
            bytes: file.map_or(0, |file| file.bytes),
            sha256: file.map(|file| file.sha256.clone()),
            errors: result.errors.clone(),
            table: result.table,
            inputs: chunk.inputs.iter().map(PartInput::of).collect(),
        };
        self.parts.insert(place, part);
    }

    /// The document as it is put: indented JSON, a newline at its end.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("texts and numbers are always JSON");
        json.push(b'\n');
        json
    }

    /// Reads what [`Manifest::to_json`] wrote; fields that a later version added are passed over.
    ///
    /// # Errors
    /// Says where the bytes are no manifest.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

impl PartInput {
    /// What tells it from every other object of the job: as the snapshot's digest has it.
    pub fn name(&self) -> String {
        match &self.bucket {
            Some(bucket) => bucket.with_path(&self.key).to_string(),
            None => self.key.clone(),
        }
    }

    /// As a runner was given it by a job with this input.
    pub fn to_slice(&self, said: &Input) -> ObjectSlice {
        ObjectSlice {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            size: self.size,
            etag: self.etag.clone(),
            format: said.format,
            compression: said.compression,
            slice: self.slice,
        }
    }

    fn of(slice: &ObjectSlice) -> Self {
        Self { bucket: slice.bucket.clone(), key: slice.key.clone(), etag: slice.etag.clone(), size: slice.size, slice: slice.slice }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{
        ChunkId, ChunkState, JobSpec, JobState, Summary, Timestamp,
        chunk::Usage,
        job::{self, PinnedModel, PlanCursor},
    };

    /// A job that is being finalised.
    fn job(ending: Ending) -> Job {
        let spec: JobSpec = serde_json::from_value(json!({
            "name": null, "labels": {}, "model": "s3://models/fraud/",
            "input": {"uri": "s3://lake/in/", "format": "auto", "compression": "auto", "include": [], "exclude": [],
                      "csv": {"delimiter": ",", "header": true}},
            "output": {"uri": "s3://lake/out/", "format": "jsonl", "compression": "gzip", "include_input": "none",
                       "prediction_prefix": "", "if_exists": "fail"},
            "pipeline": {}, "execution": {"batch_size": null, "chunk_records": null, "priority": 0, "max_parallel_chunks": null,
                       "max_attempts": 4, "deadline_seconds": null, "providers": []},
            "error_policy": {"max_failed_records": null, "max_failed_ratio": null}
        }))
        .unwrap();
        let pipeline = serde_json::from_value(json!({
            "task": "raw", "signature": {"inputs": [], "outputs": []}, "features": null, "columns": {}, "missing": "error", "labels": null,
            "activation": "none", "top_k": 1, "probabilities": false, "classifier": null
        }))
        .unwrap();
        Job {
            id: JobId::parse("job_0199e8c0a0b07c3d8e4f5a6b7c8d9e0f").unwrap(),
            model: PinnedModel { uri: spec.model.clone(), digest: "d1".into(), file: "model.onnx".into(), bytes: 9, registered: None },
            spec,
            pipeline,
            state: JobState::Finalizing,
            ending: Some(ending),
            error: None,
            counts: job::Counts { objects: 2, bytes: 30, chunks: 3, chunks_done: 3, succeeded: 5, failed: 3 },
            plan: PlanCursor { objects: 2, bytes: 30, digest: "d2".into(), done: true, ..PlanCursor::default() },
            usage: Usage { provider: "cpu".into(), runtime: "1.31.1".into(), wall_seconds: 0.25, ..Usage::default() },
            summary: Summary::default(),
            drift: None,
            estimate: None,
            created_at: Timestamp(1_764_000_000_000_000),
            started_at: Some(Timestamp(1_764_000_001_000_000)),
            finished_at: None,
            breaks: job::Breaks::default(),
            trace: None,
            fire: None,
            waits: crate::domain::job::Waits::default(),
        }
    }

    fn file(key: String, records: u64) -> PartFile {
        PartFile { key, records, bytes: records * 10, sha256: "ab".into() }
    }

    fn chunk(seq: u64, succeeded: u64, failed: u64) -> Chunk {
        let result = ChunkResult {
            part: (succeeded > 0).then(|| file(format!("part-{seq:06}-x.jsonl.gz"), succeeded)),
            errors: (failed > 0).then(|| file(format!("errors/part-{seq:06}-x.jsonl"), failed)),
            succeeded,
            failed,
            error_codes: (failed > 0).then(|| ("missing_value".to_owned(), failed)).into_iter().collect(),
            ..ChunkResult::default()
        };
        let input = ObjectSlice {
            bucket: None,
            key: "in/a.csv".into(),
            size: 30,
            etag: Some("e".into()),
            format: InputFormat::Csv,
            compression: InputCompression::None,
            slice: Slice::Bytes { start: seq * 10, end: (seq + 1) * 10 },
        };
        Chunk {
            id: ChunkId { job: job(Ending::Completed).id, seq },
            inputs: vec![input],
            state: ChunkState::Done,
            claims: 2,
            failures: 0,
            crashes: 1,
            isolation: None,
            epoch: 1,
            not_before: None,
            worker: Some("w".into()),
            started_at: Some(Timestamp(seq as i64)),
            finished_at: Some(Timestamp(seq as i64 + 1)),
            result: Some(result),
            error: None,
        }
    }

    fn manifest(chunks: &[Chunk]) -> Manifest {
        let mut manifest = Manifest::new(&job(Ending::Completed));
        chunks.iter().for_each(|chunk| manifest.push(&job(Ending::Completed).spec, chunk));
        manifest
    }

    #[test]
    fn the_document_is_the_one_that_readers_rely_on() {
        let written: serde_json::Value = serde_json::from_slice(&manifest(&[chunk(0, 5, 0), chunk(1, 0, 3)]).to_json()).unwrap();
        let input = |start, end| json!([{"key": "in/a.csv", "etag": "e", "size": 30, "slice": {"bytes": {"start": start, "end": end}}}]);
        assert_eq!(
            written,
            json!({
                "job": "job_0199e8c0a0b07c3d8e4f5a6b7c8d9e0f",
                "created_at": "2025-11-24T16:00:00.000000Z",
                "finished_at": null,
                "complete": true,
                "ending": "completed",
                "model": {"uri": "s3://models/fraud/", "digest": "d1"},
                "pipeline": serde_json::to_value(job(Ending::Completed).pipeline).unwrap(),
                "runtime": "1.31.1",
                "provider": "cpu", "batch_size": 0,
                "input": {"uri": "s3://lake/in/", "kind": "objects", "format": "auto", "compression": "auto",
                          "csv": {"delimiter": ",", "header": true}, "snapshot_digest": "d2", "objects": 2, "bytes": 30},
                "output": {"uri": "s3://lake/out/", "format": "jsonl", "compression": "gzip", "layout": "parts"},
                "counts": {"objects": 2, "chunks": 3, "records": 8, "succeeded": 5, "failed": 3},
                "error_codes": {"missing_value": 3},
                "summary": {"labels": [], "other_labels": 0, "scores": null, "values": null, "embedding_dimension": null, "images": null,
                            "tokens": null, "detections": null, "flags": {}},
                "parts": [
                    {"part": 0, "key": "part-000000-x.jsonl.gz", "records": 5, "failed": 0, "bytes": 50, "sha256": "ab", "errors": null,
                     "inputs": input(0, 10)},
                    {"part": 1, "key": null, "records": 0, "failed": 3, "bytes": 0, "sha256": null,
                     "errors": {"key": "errors/part-000001-x.jsonl", "records": 3, "bytes": 30, "sha256": "ab"}, "inputs": input(10, 20)},
                ]
            })
        );
    }

    #[test]
    fn parts_are_in_input_order_and_counted_once_whatever_the_order_of_calls() {
        let (a, b, c) = (chunk(0, 5, 1), chunk(1, 2, 1), chunk(2, 1, 0));
        let expected = manifest(&[a.clone(), b.clone(), c.clone()]);
        assert_eq!(manifest(&[c.clone(), a.clone(), b.clone(), a, c, b]).to_json(), expected.to_json());
        assert_eq!((expected.counts.succeeded, expected.counts.failed, expected.counts.records), (8, 2, 10));
    }

    #[test]
    fn a_review_queues_manifest_names_its_own_parts_and_no_error_rows() {
        let review = ReviewSpec { uri: Uri::parse("s3://lake/review/").unwrap(), when: vec!["odd".into()] };
        let job = job(Ending::Completed);
        let mut manifest = Manifest::of_review(&job, &review);
        let mut flagged = chunk(0, 5, 2);
        flagged.result.as_mut().unwrap().review = Some(file("part-000000-x.jsonl.gz".into(), 1));
        manifest.push_flagged(&job.spec, &flagged);
        manifest.push_flagged(&job.spec, &chunk(1, 3, 0));
        assert_eq!(
            (manifest.output.uri.to_string().as_str(), manifest.counts.records, manifest.counts.failed),
            ("s3://lake/review/", 1, 0)
        );
        assert_eq!((manifest.parts[0].records, manifest.parts[0].failed, &manifest.parts[0].errors), (1, 0, &None));
        assert_eq!((&manifest.parts[1].key, manifest.parts[1].records), (&None, 0));
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let written = manifest(&[chunk(0, 5, 0), chunk(1, 0, 3)]);
        assert_eq!(Manifest::parse(&written.to_json()).unwrap(), written);
        assert!(Manifest::parse(b"{}").is_err());
    }

    #[test]
    fn chunks_that_came_to_nothing_are_no_parts_and_only_a_completed_job_is_complete() {
        let unfinished = Chunk { state: ChunkState::Cancelled, result: None, ..chunk(1, 1, 0) };
        for ending in [Ending::Failed, Ending::Cancelled, Ending::Expired] {
            let mut manifest = Manifest::new(&job(ending));
            manifest.push(&job(Ending::Completed).spec, &chunk(0, 5, 0));
            manifest.push(&job(Ending::Completed).spec, &unfinished);
            assert!(!manifest.complete);
            assert_eq!(manifest.parts.len(), 1);
            assert_eq!(manifest.counts.records, 5);
        }
    }
}

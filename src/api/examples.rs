//! Answers for the OpenAPI document, made from domain values by the same code that makes the real ones.

use std::collections::BTreeMap;

use crate::domain::{
    Chunk, ChunkId, ChunkResult, ChunkState, Counts, Dim, Dtype, Job, JobId, JobSpec, JobState, Missing, ObjectSlice, PartFile, Pipeline,
    PipelineSpec, Signature, Slice, Summary, Task, Timestamp, Uri, ValueInfo, ValueType,
    chunk::Usage,
    job::{PinnedModel, PlanCursor},
    pipeline::ClassifierOutputs,
    spec::{
        CsvOptions, ErrorPolicy, ExecutionSpec, IfExists, IncludeInput, InputCompression, InputFormat, InputSpec, OutputCompression,
        OutputFormat, OutputSpec,
    },
};

use super::types::{ChunkBody, ChunkPage, JobBody, JobPage};

const ACCEPTED: Timestamp = Timestamp(1_795_399_200_123_456);
const ONE_SECOND: i64 = 1_000_000;

/// A job that was just accepted.
pub(super) fn queued() -> JobBody {
    JobBody::new(&job(JobState::Queued))
}

/// A job that is being stopped before it began.
pub(super) fn cancelling() -> JobBody {
    JobBody::new(&job(JobState::Cancelling))
}

/// A job that is done.
pub(super) fn completed() -> JobBody {
    let usage = usage(42.0, 96.5);
    let job = Job {
        counts: Counts { objects: 24, bytes: 96_400_212, chunks: 12, chunks_done: 12, succeeded: 999_997, failed: 3 },
        plan: PlanCursor { done: true, ..PlanCursor::default() },
        usage,
        summary: summary(),
        started_at: Some(Timestamp(ACCEPTED.0 + ONE_SECOND / 2)),
        finished_at: Some(Timestamp(ACCEPTED.0 + 50 * ONE_SECOND)),
        ..job(JobState::Completed)
    };
    JobBody::new(&job)
}

/// A page of jobs.
pub(super) fn jobs() -> JobPage {
    JobPage { items: vec![completed()], next_cursor: None }
}

/// A page of chunks.
pub(super) fn chunks() -> ChunkPage {
    let part = PartFile { key: "part-000000-9f2c.jsonl".to_owned(), records: 2000, bytes: 181_034, sha256: "c0ffee".repeat(11) };
    let result = ChunkResult { part: Some(part), succeeded: 2000, usage: usage(1.5, 1.25), ..ChunkResult::default() };
    let chunk = Chunk {
        id: ChunkId { job: id(), seq: 0 },
        inputs: vec![ObjectSlice {
            key: "tx/2026-11-23/0.csv".to_owned(),
            size: 8_388_608,
            etag: None,
            format: InputFormat::Csv,
            compression: InputCompression::None,
            slice: Slice::Bytes { start: 0, end: 181_000 },
        }],
        state: ChunkState::Done,
        claims: 1,
        failures: 0,
        crashes: 0,
        not_before: None,
        worker: None,
        started_at: Some(Timestamp(ACCEPTED.0 + ONE_SECOND)),
        finished_at: Some(Timestamp(ACCEPTED.0 + 3 * ONE_SECOND)),
        result: Some(result),
        error: None,
    };
    ChunkPage { items: vec![ChunkBody::new(&chunk)], next_cursor: Some("1".to_owned()) }
}

fn summary() -> Summary {
    let mut summary = Summary::default();
    for (label, score, count) in [("ok", 0.97, 991_204), ("fraud", 0.81, 8_793)] {
        let mut one = Summary::default();
        one.add_label(label, Some(score));
        one.labels.counts.values_mut().for_each(|n| *n = count);
        one.scores.iter_mut().flat_map(|s| &mut s.bins).for_each(|n| *n *= count);
        summary.merge(&one);
    }
    summary.flags.insert("needs_review".to_owned(), 1207);
    summary
}

fn usage(wall_seconds: f64, device_seconds: f64) -> Usage {
    Usage {
        wall_seconds,
        device_seconds,
        bytes_read: 96_400_212,
        bytes_written: 41_228_004,
        stage_seconds: BTreeMap::from([("decode", 11.5), ("infer", device_seconds)].map(|(stage, s)| (stage.to_owned(), s))),
        batch_size: 1024,
        provider: "cpu".to_owned(),
        runtime: "1.31.1".to_owned(),
    }
}

fn job(state: JobState) -> Job {
    let model = uri("s3://models/fraud/");
    Job {
        id: id(),
        spec: JobSpec {
            name: Some("fraud-2026-11-23".to_owned()),
            labels: BTreeMap::from([("team".to_owned(), "risk".to_owned())]),
            model: model.clone(),
            input: InputSpec {
                uri: uri("s3://lake/tx/2026-11-23/"),
                format: InputFormat::Auto,
                compression: InputCompression::Auto,
                include: Vec::new(),
                exclude: Vec::new(),
                csv: CsvOptions::default(),
            },
            output: OutputSpec {
                uri: uri("s3://lake/scores/2026-11-23/"),
                format: OutputFormat::Jsonl,
                compression: OutputCompression::None,
                include_input: IncludeInput::Columns(vec!["id".to_owned(), "amount".to_owned()]),
                prediction_prefix: String::new(),
                if_exists: IfExists::Fail,
                review: None,
            },
            pipeline: PipelineSpec::default(),
            execution: ExecutionSpec { deadline_seconds: Some(6 * 3600), ..ExecutionSpec::default() },
            error_policy: ErrorPolicy { max_failed_records: Some(1000), max_failed_ratio: None },
        },
        model: PinnedModel { uri: model, digest: "5eed".repeat(16), file: "model.onnx".to_owned(), bytes: 1_482_113 },
        pipeline: pipeline(),
        state,
        ending: None,
        error: None,
        counts: Counts::default(),
        plan: PlanCursor::default(),
        usage: Usage::default(),
        summary: Summary::default(),
        created_at: ACCEPTED,
        started_at: None,
        finished_at: None,
    }
}

fn pipeline() -> Pipeline {
    let tensor = |name: &str, dtype: Dtype, columns: &[u64]| {
        let shape = std::iter::once(Dim::Dynamic(None)).chain(columns.iter().map(|n| Dim::Fixed(*n))).collect();
        ValueInfo { name: name.to_owned(), value: ValueType::Tensor { dtype, shape: Some(shape) } }
    };
    let signature = Signature {
        inputs: vec![tensor("input", Dtype::Fp32, &[2])],
        outputs: vec![tensor("label", Dtype::Int64, &[]), tensor("probabilities", Dtype::Fp32, &[2])],
    };
    Pipeline {
        features: Some(vec!["amount".to_owned(), "age".to_owned()]),
        missing: Missing::Nan,
        labels: Some(vec!["ok".to_owned(), "fraud".to_owned()]),
        classifier: Some(ClassifierOutputs { label: Some("label".to_owned()), scores: Some("probabilities".to_owned()) }),
        ..Pipeline::new(Task::TabularClassification, signature)
    }
}

fn id() -> JobId {
    JobId::parse("job_019ac2f7b0f47e0f8a1b2c3d4e5f6071").expect("a well-formed id")
}

fn uri(text: &str) -> Uri {
    Uri::parse(text).expect("a well-formed location")
}

//! Answers for the OpenAPI document, made from domain values by the same code that makes the real ones.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::domain::{
    Attempt, Chunk, ChunkId, ChunkResult, ChunkState, Counts, Delivery, DeliveryId, DeliveryState, Dim, Dtype, EventKind, Job, JobId,
    JobSpec, JobState, Missing, ObjectSlice, PartFile, Pipeline, PipelineSpec, Progress, Signature, Slice, Summary, Task, Timestamp, Uri,
    ValueInfo, ValueType, WebhookSecret, WebhookSpec, WebhookUrl,
    chunk::Usage,
    delivery::JobSnapshot,
    job::{Breaks, PinnedModel, PlanCursor, Waits},
    pipeline::ClassifierOutputs,
    registry::{ModelVersion, Name},
    spec::{
        CsvOptions, ErrorPolicy, ExecutionSpec, IfExists, IncludeInput, InputCompression, InputFormat, InputKind, InputSpec, Layout,
        OutputCompression, OutputFormat, OutputSpec,
    },
};

use super::{
    deliveries::{DeliveryBody, DeliveryPage},
    events::{ProgressBody, StateBody},
    models::ModelVersionBody,
    problem::ApiProblem,
    types::{ChunkBody, ChunkPage, JobBody, JobPage},
};
use crate::db::DeliveryRecord;

const ACCEPTED: Timestamp = Timestamp(1_795_399_200_123_456);
const ONE_SECOND: i64 = 1_000_000;

/// The beginning and the end of a stream of events.
pub(super) fn events() -> String {
    let (begun, done) = (job(JobState::Queued), job(JobState::Completed));
    let state = |seq: i64, job: &Job| {
        let data = json!(StateBody::new(&JobSnapshot::of(job), job.finished_at.unwrap_or(job.created_at)));
        format!("event: state\nid: {seq}\ndata: {data}\n\n")
    };
    let progress = Progress::of(&begun);
    let progress = json!(ProgressBody::new(&progress, begun.created_at));
    format!("{}event: progress\ndata: {progress}\n\n: alive\n\n{}", state(41, &begun), state(45, &done))
}

/// A job that was just accepted.
pub(super) fn queued() -> JobBody {
    JobBody::new(&job(JobState::Queued))
}

/// A job that is being stopped before it began.
pub(super) fn cancelling() -> JobBody {
    JobBody::new(&job(JobState::Cancelling))
}

/// What a dry run shows.
pub(super) fn dry_run() -> Value {
    json!({
        "problems": [],
        "model": {"uri": "s3://models/fraud/", "digest": "5eed".repeat(16), "file": "model.onnx", "bytes": 1_482_113},
        "pipeline": pipeline(),
        "columns": [{"name": "id", "type": "text"}, {"name": "amount", "type": "text"}, {"name": "age", "type": "text"}],
        "inputs": [{"name": "input", "dtype": "FP32", "shape": [null, 2], "columns": ["amount", "age"]}],
        "rows": [{"_source": "tx/2026-11-23/0.csv", "_position": 14, "id": "a1", "amount": "12.50", "label": "ok", "score": 0.98}],
        "errors": [{"_source": "tx/2026-11-23/0.csv", "_position": 27, "stage": "featurize", "code": "invalid_number",
                    "detail": "column \"amount\": \"12,5\" is no number for an input of FP32"}],
        "table": null, "rows_cut": false,
        "objects": [{"key": "tx/2026-11-23/0.csv", "bytes": 8_388_608}],
        "estimate": {"all": true, "objects": 1, "bytes": 8_388_608, "records": 310_000, "records_exact": false, "chunks": 1, "chunks_exact": true},
        "expected": {"basis": "measured", "provider": "cpu", "seconds": 4.2, "device_seconds": 33.1, "cost": 0.00046, "currency": "EUR"},
        "batch_size": 1024, "provider": "cpu", "runtime": "1.31.1"
    })
}

/// A version of a registered model.
pub(super) fn model_version() -> ModelVersionBody {
    let pipeline = pipeline();
    ModelVersionBody::new(&ModelVersion {
        name: Name::parse("fraud").expect("a name"),
        version: 3,
        model: job(JobState::Queued).model,
        signature: pipeline.signature.clone(),
        pipeline,
        created_at: ACCEPTED,
        aliases: Name::parse_alias("production").into_iter().collect(),
    })
}

/// What is answered where an alias is not.
pub(super) fn no_alias() -> ApiProblem {
    ApiProblem::not_found("\"fraud\" has no alias \"candidate\"")
}

/// A job that was put off.
pub(super) fn paused() -> JobBody {
    let breaks = Breaks { paused_at: Some(Timestamp(ACCEPTED.0 + 60 * ONE_SECOND)), ..Breaks::default() };
    JobBody::new(&Job { breaks, ..job(JobState::Paused) })
}

/// A job that is done.
pub(super) fn completed() -> JobBody {
    let usage = usage(42.0, 96.5);
    let job = Job {
        counts: Counts { objects: 24, bytes: 96_400_212, chunks: 12, chunks_done: 12, succeeded: 999_997, failed: 3 },
        plan: PlanCursor { done: true, ..PlanCursor::default() },
        usage,
        summary: summary(),
        drift: None,
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
            bucket: None,
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
        isolation: None,
        epoch: 1,
        not_before: None,
        worker: None,
        started_at: Some(Timestamp(ACCEPTED.0 + ONE_SECOND)),
        finished_at: Some(Timestamp(ACCEPTED.0 + 3 * ONE_SECOND)),
        result: Some(result),
        error: None,
    };
    ChunkPage { items: vec![ChunkBody::new(&chunk)], next_cursor: Some("1".to_owned()) }
}

/// A page of deliveries.
pub(super) fn deliveries() -> DeliveryPage {
    DeliveryPage { items: vec![DeliveryBody::new(&delivered())], next_cursor: None }
}

/// One delivery with its attempts.
pub(super) fn delivery() -> DeliveryBody {
    let payload = serde_json::json!({
        "type": "job.completed",
        "timestamp": Timestamp(ACCEPTED.0 + 50 * ONE_SECOND).to_string(),
        "data": {"id": id().to_string(), "state": "completed"},
    });
    let record = DeliveryRecord { delivery: delivered(), body: payload.to_string(), attempts: vec![refused_once(), second()] };
    DeliveryBody::in_full(&record).expect("JSON")
}

/// A delivery that is to be made again.
pub(super) fn replayed() -> DeliveryBody {
    let tries = 0;
    let next_at = Timestamp(ACCEPTED.0 + 3600 * ONE_SECOND);
    DeliveryBody::new(&Delivery { state: DeliveryState::Pending, tries, next_at, finished_at: None, ..delivered() })
}

fn delivered() -> Delivery {
    Delivery {
        id: DeliveryId::parse("whd_019ac2f7b0f47e0f8a1b2c3d4e5f6072").expect("a well-formed id"),
        job: id(),
        message_id: "msg_019ac2f7b0f47e0f8a1b2c3d4e5f6073".to_owned(),
        kind: EventKind::Completed,
        endpoint: None,
        url: WebhookUrl::parse("https://hooks.example.com/nightshift").expect("a well-formed address"),
        state: DeliveryState::Delivered,
        attempts: 2,
        tries: 2,
        next_at: Timestamp(ACCEPTED.0 + 56 * ONE_SECOND),
        created_at: Timestamp(ACCEPTED.0 + 50 * ONE_SECOND),
        finished_at: Some(Timestamp(ACCEPTED.0 + 56 * ONE_SECOND)),
        last: Some(second()),
    }
}

fn refused_once() -> Attempt {
    let error = Some("answered 503 Service Unavailable".to_owned());
    Attempt { number: 1, at: Timestamp(ACCEPTED.0 + 50 * ONE_SECOND), status: Some(503), error, latency_us: 41_250 }
}

fn second() -> Attempt {
    Attempt { number: 2, at: Timestamp(ACCEPTED.0 + 56 * ONE_SECOND), status: Some(204), error: None, latency_us: 38_500 }
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
        inferring_seconds: device_seconds * 0.87,
        cost: device_seconds * 0.05 / 3600.0,
        currency: Some("EUR".to_owned()),
        retry_device_seconds: 0.0,
        retry_cost: 0.0,
        bytes_read: 96_400_212,
        bytes_written: 41_228_004,
        stage_seconds: BTreeMap::from([("decode", 11.5), ("infer", device_seconds)].map(|(stage, s)| (stage.to_owned(), s))),
        bound_seconds: BTreeMap::from([("decode", 3.1), ("infer", 38.9)].map(|(stage, s)| (stage.to_owned(), s))),
        batch_size: 512,
        batch_room: None,
        batch_trials: BTreeMap::from(
            [("256", 8_410_200.0), ("512", 8_587_600.0), ("1024", 8_262_100.0)].map(|(size, rate)| (size.to_owned(), rate)),
        ),
        layout: "4x1".to_owned(),
        layout_trials: BTreeMap::from([("4x1", 34_350_400.0), ("1x4", 27_402_800.0)].map(|(layout, rate)| (layout.to_owned(), rate))),
        provider: "cpu".to_owned(),
        runtime: "1.31.1".to_owned(),
        tokens: 0,
        padding_tokens: 0,
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
                kind: InputKind::Objects,
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
                layout: Layout::Parts,
                if_exists: IfExists::Fail,
                review: None,
                table: None,
            },
            pipeline: PipelineSpec::default(),
            execution: ExecutionSpec { deadline_seconds: Some(6 * 3600), ..ExecutionSpec::default() },
            error_policy: ErrorPolicy { max_failed_records: Some(1000), max_failed_ratio: None },
            drift: None,
            webhook: Some(WebhookSpec {
                url: WebhookUrl::parse("https://hooks.example.com/nightshift").expect("a well-formed address"),
                secret: WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a well-formed secret"),
                events: vec![EventKind::Completed, EventKind::Failed],
            }),
            wait_for: None,
            depends_on: Vec::new(),
            budget: None,
        },
        model: PinnedModel { uri: model, digest: "5eed".repeat(16), file: "model.onnx".to_owned(), bytes: 1_482_113, registered: None },
        pipeline: pipeline(),
        state,
        ending: None,
        error: None,
        counts: Counts::default(),
        plan: PlanCursor::default(),
        usage: Usage::default(),
        summary: Summary::default(),
        drift: None,
        estimate: None,
        created_at: ACCEPTED,
        started_at: None,
        finished_at: None,
        breaks: Breaks::default(),
        trace: None,
        fire: None,
        waits: Waits::default(),
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

//! The edge over a store that fails on purpose: what a running service can hardly be brought to do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode},
};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::ServiceExt;

use super::{Answers, ApiState, Feed, FeedOptions, Load, load, router};
use crate::{
    db::{
        AliasMoved, AttemptResult, Changed, ChunkLease, ClaimedChunk, ClaimedDelivery, ClaimedRun, Created, DeliveryFilter, DeliveryLease,
        DeliveryRecord, Error, Followed, IdempotencyKey, JobFilter, JobLease, NewDelivery, NewJob, NewSchedule, NewVersion, PendingEvent,
        Result, Retried, RunLease, ScheduleChange, ScheduleFilter, Store, Unmade, UsageFilter, UsageReport, Written,
    },
    domain::{
        Backlog, Chunk, ChunkId, ChunkResult, Compared, Delivery, DeliveryId, Event, Isolation, Job, JobId, ObjectSlice, Pipeline, Problem,
        Progress, Rate, Run, Schedule, ScheduleId, Spent, StateChange, Timestamp, Uri,
        covered::{Block, Change, Entry},
        job::{Ending, PlanCursor},
        registry::{ModelEntry, ModelVersion, Name, Which},
        schedule::{Due, Kept},
        spec::OutputSpec,
    },
    execute::{RunnerOptions, RunnerStatus, Sampler},
    model::{Limits, Models},
    notify::Guard,
    objects::{Options, Stores},
    plan,
    runner::featurize::ImageLimits,
    tables::Connections,
    telemetry::{LogFormat, Metrics},
};

/// A database that is down.
#[derive(Debug)]
struct Down;

fn down<T>() -> Result<T> {
    Err(Error::Unavailable(sqlx::Error::PoolTimedOut))
}

#[async_trait]
#[rustfmt::skip]
impl Store for Down {
    async fn ping(&self) -> Result<()> { down() }
    async fn backlog(&self) -> Result<Backlog> { down() }
    async fn is_quiet(&self) -> Result<bool> { down() }
    async fn create_job(&self, _: NewJob) -> Result<Created> { down() }
    async fn job(&self, _: &JobId) -> Result<Option<Job>> { down() }
    async fn versioned_job(&self, _: &JobId) -> Result<Option<(Job, Option<i64>)>> { down() }
    async fn job_version(&self, _: &JobId) -> Result<Option<i64>> { down() }
    async fn jobs(&self, _: &JobFilter) -> Result<Vec<Job>> { down() }
    /// Not a fault of the database but of the program.
    async fn cancel_job(&self, _: &JobId) -> Result<Changed> { panic!("password=hunter2") }
    async fn replay(&self, _: &IdempotencyKey) -> Result<Option<Created>> { down() }
    async fn output_claim(&self, _: &OutputSpec) -> Result<Option<(JobId, Uri)>> { down() }
    async fn pause_job(&self, _: &JobId) -> Result<Changed> { down() }
    async fn resume_job(&self, _: &JobId) -> Result<Changed> { down() }
    async fn retry_job(&self, _: &JobId) -> Result<Retried> { down() }
    async fn expire_jobs(&self) -> Result<Vec<JobId>> { down() }
    async fn claim_planning(&self, _: &str, _: Duration) -> Result<Option<(JobLease, Job)>> { down() }
    async fn append_chunks(&self, _: &JobLease, _: Duration, _: Vec<Vec<ObjectSlice>>, _: &PlanCursor) -> Result<Written> { down() }
    async fn renew_job(&self, _: &JobLease, _: Duration) -> Result<Written> { down() }
    async fn release_job(&self, _: &JobLease) -> Result<Written> { down() }
    async fn fail_job(&self, _: &JobId, _: &Problem) -> Result<()> { down() }
    async fn claim_chunks(&self, _: &str, _: u32, _: Duration) -> Result<Vec<ClaimedChunk>> { down() }
    async fn renew_chunks(&self, _: &[ChunkLease], _: Duration) -> Result<Vec<ChunkLease>> { down() }
    async fn commit_chunk(&self, _: &ChunkLease, _: &ChunkResult) -> Result<Written> { down() }
    async fn retry_chunk(&self, _: &ChunkLease, _: &Problem, _: Duration, _: &Spent) -> Result<Written> { down() }
    async fn crash_chunk(&self, _: &ChunkLease, _: &Problem, _: Option<&Isolation>, _: &Spent) -> Result<Written> { down() }
    async fn fail_chunk(&self, _: &ChunkLease, _: &Problem, _: &Spent) -> Result<Written> { down() }
    async fn release_chunk(&self, _: &ChunkLease, _: &Spent) -> Result<Written> { down() }
    async fn postpone_chunk(&self, _: &ChunkLease, _: &Problem, _: Duration, _: &Spent) -> Result<Written> { down() }
    async fn chunks(&self, _: &JobId, _: u64, _: u32) -> Result<Vec<Chunk>> { down() }
    async fn chunk(&self, _: &ChunkId) -> Result<Option<Chunk>> { down() }
    async fn claim_finalizing(&self, _: &str, _: Duration) -> Result<Option<(JobLease, Job)>> { down() }
    async fn earlier_run(&self, _: &Job) -> Result<Option<Job>> { down() }
    async fn keep_drift(&self, _: &JobLease, _: Option<&Compared>) -> Result<Written> { down() }
    async fn finish_job(&self, _: &JobLease, _: Ending, _: Option<&Problem>) -> Result<Written> { down() }
    async fn pending_events(&self, _: u32) -> Result<Vec<PendingEvent>> { down() }
    async fn fan_out(&self, _: &Event, _: Vec<NewDelivery>) -> Result<Written> { down() }
    async fn claim_deliveries(&self, _: u32, _: u32, _: &BTreeMap<String, u32>, _: Duration) -> Result<Vec<ClaimedDelivery>> { down() }
    async fn record_attempt(&self, _: &DeliveryLease, _: &AttemptResult) -> Result<Written> { down() }
    async fn replay_delivery(&self, _: &DeliveryId) -> Result<Option<Delivery>> { down() }
    async fn deliveries(&self, _: &DeliveryFilter) -> Result<Vec<Delivery>> { down() }
    async fn delivery(&self, _: &DeliveryId) -> Result<Option<DeliveryRecord>> { down() }
    async fn now(&self) -> Result<Timestamp> { down() }
    async fn create_schedule(&self, _: NewSchedule) -> Result<Schedule> { down() }
    async fn schedule(&self, _: &ScheduleId) -> Result<Option<Kept>> { down() }
    async fn schedules(&self, _: &ScheduleFilter) -> Result<Vec<Kept>> { down() }
    async fn change_schedule(&self, _: &ScheduleId, _: u64, _: ScheduleChange) -> Result<Option<Schedule>> { down() }
    async fn delete_schedule(&self, _: &ScheduleId) -> Result<bool> { down() }
    async fn due_schedules(&self, _: u32) -> Result<(Timestamp, Vec<Kept>)> { down() }
    async fn open_runs(&self, _: &Schedule, _: &Due) -> Result<Written> { down() }
    async fn run_now(&self, _: &ScheduleId) -> Result<Option<Run>> { down() }
    async fn runs(&self, _: &ScheduleId, _: Option<Timestamp>, _: u32) -> Result<Vec<Run>> { down() }
    async fn claim_run(&self, _: Duration) -> Result<Option<ClaimedRun>> { down() }
    async fn renew_run(&self, _: &RunLease, _: Duration) -> Result<Written> { down() }
    async fn settle_run(&self, _: &RunLease, _: &Unmade) -> Result<Written> { down() }
    async fn delay_run(&self, _: &RunLease, _: Option<&Problem>, _: Duration) -> Result<Written> { down() }
    async fn covered_block(&self, _: &ScheduleId, _: &str) -> Result<Option<Block>> { down() }
    async fn cover(&self, _: &ScheduleId, _: &JobId, _: Change, _: Vec<Entry>) -> Result<()> { down() }
    async fn job_to_cover(&self, _: &ScheduleId) -> Result<Option<(JobId, Change)>> { down() }
    async fn job_is_covered(&self, _: &JobId, _: Change) -> Result<()> { down() }
    async fn claim_waiting(&self, _: &str, _: Duration) -> Result<Option<(JobLease, Job)>> { down() }
    async fn wait_again(&self, _: &JobLease) -> Result<Written> { down() }
    async fn wait_is_over(&self, _: &JobLease) -> Result<Written> { down() }
    async fn settle_dependencies(&self) -> Result<u64> { down() }
    async fn usage(&self, _: &UsageFilter) -> Result<UsageReport> { down() }
    async fn rate(&self, _: &str, _: &Pipeline, _: &[String]) -> Result<Option<(String, Rate)>> { down() }
    async fn register_model(&self, _: &NewVersion) -> Result<(ModelVersion, bool)> { down() }
    async fn registered_models(&self, _: Option<&Name>, _: u32) -> Result<Vec<ModelEntry>> { down() }
    async fn model_versions(&self, _: &Name, _: Option<u64>, _: u32) -> Result<Vec<ModelVersion>> { down() }
    async fn model_version(&self, _: &Name, _: &Which) -> Result<Option<ModelVersion>> { down() }
    async fn move_alias(&self, _: &Name, _: &Name, _: u64) -> Result<AliasMoved> { down() }
    async fn remove_alias(&self, _: &Name, _: &Name) -> Result<bool> { down() }
    async fn purge(&self, _: Duration, _: u32) -> Result<u64> { down() }
    fn wake(&self, _: Arc<Notify>) {}
    async fn changes(&self, _: Option<&JobId>, _: i64, _: u32) -> Result<Vec<StateChange>> { down() }
    async fn last_change(&self) -> Result<i64> { down() }
    async fn progress(&self, _: &Followed) -> Result<Vec<Progress>> { down() }
    async fn release_all(&self) -> Result<()> { down() }
}

/// An edge over [`Down`], with a folder for files and a model in it.
struct Edge {
    state: ApiState,
    folder: tempfile::TempDir,
}

impl Edge {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/churn-lightgbm/");
        std::fs::create_dir_all(root.join("model")).unwrap();
        for name in ["model.onnx", "nightshift.json"] {
            std::fs::copy(format!("{fixture}{name}"), root.join("model").join(name)).unwrap();
        }
        let stores = Stores::new(Options { file_roots: vec![root], ..Options::default() }).unwrap();
        let limits = Limits { max_bytes: 1 << 30, max_nesting: 64 };
        let models = Arc::new(Models::new(folder.path().join("cache"), stores.clone(), limits));
        let allowed_providers = vec!["cpu".to_owned()];
        // Never started: the edge without a database does not come that far.
        let runner = RunnerOptions {
            program: "no program".into(),
            library: "no library".into(),
            workers: 1,
            devices: vec![0],
            device_memory_limit: None,
            memory_limit: None,
            stores: Options::default(),
            connections: Connections::default(),
            load_timeout: Duration::from_secs(1),
            batch_timeout: Duration::from_secs(1),
            idle_unload: Duration::from_secs(1),
            log_format: LogFormat::Text,
            log: "off".to_owned(),
        };
        let sampler = Arc::new(Sampler::new(runner, models.clone(), vec!["cpu".to_owned()], ImageLimits::default()));
        let state = ApiState {
            store: Arc::new(Down),
            stores,
            connections: Connections::default(),
            models,
            guard: Guard::default(),
            sampler,
            planning: plan::Options { chunk_bytes: 1, chunk_objects: 1, lease_ttl: Duration::from_secs(1), poll: Duration::from_secs(1) },
            wake: Arc::new(Notify::new()),
            runners: vec![RunnerStatus::new(folder.path().join("libonnxruntime.so"))],
            metrics: Metrics::new(),
            allowed_providers,
            providers: vec!["cpu".to_owned()],
            sessions: 1,
            accelerators: 1,
            pricing: None,
            answers: Answers::default(),
            load: Load::new(load::Limits::default(), Metrics::new()),
            feed: Feed::new(Arc::new(Down), Arc::default(), FeedOptions::default()),
            data_dir: folder.path().to_owned(),
        };
        Self { state, folder }
    }

    /// A location below the root.
    fn uri(&self, path: &str) -> String {
        format!("file://{}/root/{path}", std::fs::canonicalize(self.folder.path()).unwrap().display())
    }

    fn job(&self) -> Value {
        json!({"model": self.uri("model/"), "input": self.uri("in/"), "output": self.uri("out/")})
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Response<Body> {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        router(self.state.clone()).oneshot(request).await.unwrap()
    }

    async fn problem(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let answer = self.send(method, path, body).await;
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{method} {path}");
        let status = answer.status();
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let problem: Value = serde_json::from_slice(&to_bytes(answer.into_body(), 1 << 20).await.unwrap()).unwrap();
        assert_eq!(problem["status"], status.as_u16());
        assert_eq!(problem["instance"], format!("urn:uuid:{id}"), "a report of the problem leads to the log");
        (status, problem)
    }
}

const JOB: &str = "/v1/jobs/job_00000000000000000000000000000000";
const DELIVERY: &str = "/v1/webhook-deliveries/whd_00000000000000000000000000000000";

#[tokio::test]
async fn without_a_database_the_process_lives_and_says_that_it_is_not_ready() {
    let edge = Edge::new();
    assert_eq!(edge.send("GET", "/livez", &Value::Null).await.status(), 200);
    for (method, path, body) in [
        ("GET", "/readyz", Value::Null),
        ("GET", "/v1/jobs", Value::Null),
        ("GET", JOB, Value::Null),
        ("GET", &format!("{JOB}/results"), Value::Null),
        ("GET", &format!("{JOB}/errors"), Value::Null),
        ("GET", &format!("{JOB}/chunks"), Value::Null),
        ("GET", &format!("{JOB}/events"), Value::Null),
        ("GET", "/v1/events", Value::Null),
        ("GET", "/v1/webhook-deliveries", Value::Null),
        ("GET", DELIVERY, Value::Null),
        ("POST", &format!("{DELIVERY}/replay"), Value::Null),
        ("POST", "/v1/jobs", edge.job()),
    ] {
        let answer = edge.send(method, path, &body).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"5".parse().unwrap()), "{method} {path}");
        let (_, problem) = edge.problem(method, path, &body).await;
        assert!(problem["detail"].as_str().unwrap().contains("database"), "{problem}");
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_that_tells_its_id_and_nothing_else() {
    let (status, problem) = Edge::new().problem("POST", &format!("{JOB}/cancel"), &Value::Null).await;
    assert_eq!((status.as_u16(), &problem["type"]), (500, &json!("urn:nightshift:problem:internal_error")));
    assert!(!problem.to_string().contains("hunter2"), "{problem}");
}

#[tokio::test]
async fn paths_that_are_no_text_name_nothing() {
    for path in ["/v1/jobs/%FF", "/v1/jobs/%FF/results", &format!("{JOB}/results/%FF"), "/%FF", "/v1/jobs/", "/v1"] {
        assert_eq!(Edge::new().problem("GET", path, &Value::Null).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let edge = Edge::new();
    for (method, path, allowed) in [("PUT", "/v1/jobs", "POST"), ("GET", &format!("{JOB}/cancel"), "POST"), ("POST", JOB, "GET")] {
        let answer = edge.send(method, path, &Value::Null).await;
        assert_eq!(answer.status(), 405, "{method} {path}");
        assert!(answer.headers()["allow"].to_str().unwrap().contains(allowed), "{method} {path}: {:?}", answer.headers());
    }
}

#[tokio::test]
async fn faults_of_the_model_and_of_the_locations_are_listed_together() {
    let edge = Edge::new();
    let body = json!({
        "model": {"uri": edge.uri("model/")}, "pipeline": {"outputs": ["no such output"]},
        "input": "file:///elsewhere/in/", "output": "file:///elsewhere/out/"
    });
    let (status, problem) = edge.problem("POST", "/v1/jobs", &body).await;
    let faults = problem["errors"].as_array().unwrap();
    let pointers: Vec<&str> = faults.iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
    assert_eq!(status, 422);
    for pointer in ["/pipeline/outputs", "/input", "/output"] {
        assert!(pointers.contains(&pointer), "{pointer}: {problem:#}");
    }
}

#[tokio::test]
async fn parts_without_a_manifest_are_found_among_many_other_objects() {
    let edge = Edge::new();
    let out = edge.folder.path().join("root/out");
    std::fs::create_dir_all(out.join("errors")).unwrap();
    for n in 0..1100 {
        std::fs::write(out.join(format!("a-{n:05}")), b"x").unwrap();
    }
    for name in ["part-of-another-kind.csv", "zz"] {
        std::fs::write(out.join(name), b"x").unwrap();
    }
    assert_eq!(edge.problem("POST", "/v1/jobs", &edge.job()).await.0, 503, "foreign objects are no output: the job gets to the database");
    for part in ["part-000000-9f2c.jsonl", "errors/part-000000-9f2c.jsonl", "_manifest.json", "_SUCCESS"] {
        std::fs::write(out.join(part), b"x").unwrap();
        let (status, problem) = edge.problem("POST", "/v1/jobs", &edge.job()).await;
        assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:nightshift:problem:output_not_empty")), "{part}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
        std::fs::remove_file(out.join(part)).unwrap();
    }
}

#[tokio::test]
async fn a_parameter_that_stands_twice_is_refused() {
    let (status, problem) = Edge::new().problem("GET", "/v1/jobs?limit=5&limit=6&stat=failed", &Value::Null).await;
    let codes: Vec<&Value> = problem["errors"].as_array().unwrap().iter().map(|fault| &fault["code"]).collect();
    assert_eq!((status.as_u16(), codes), (422, vec![&json!("repeated"), &json!("unknown_parameter")]), "{problem}");
}

#[tokio::test]
async fn a_stream_ends_after_its_time_and_can_be_resumed() {
    let bench = crate::db::conformance::Bench::sqlite().await;
    let store: Arc<dyn Store> = Arc::new(bench.store);
    let mut edge = Edge::new();
    let options = FeedOptions { most: 1, longest: Duration::from_millis(50), ..FeedOptions::default() };
    (edge.state.store, edge.state.feed) = (store.clone(), Feed::new(store, Arc::default(), options));
    for time in ["first", "second"] {
        let answer = edge.send("GET", "/v1/events", &Value::Null).await;
        assert_eq!(answer.status(), 200, "the {time} time");
        let whole = tokio::time::timeout(Duration::from_secs(60), to_bytes(answer.into_body(), 1 << 20)).await;
        assert!(whole.is_ok_and(|whole| whole.is_ok()), "the {time} time");
    }
}

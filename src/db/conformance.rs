//! One suite for every implementation of [`Store`]: what `db/mod.rs` promises, said as tests.

#![cfg(test)]

/// Makes tests of these functions, each on a store of its own in either database.
macro_rules! on_both_databases {
    ($($name:ident,)*) => {
        mod sqlite {
            use super::Bench;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(Bench::sqlite().await).await;
            })*
        }
        mod postgres {
            use super::Bench;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(Bench::postgres().await).await;
            })*
        }
    };
}

mod changes;
mod costs;
mod nodes;
mod registry;
mod requests;
mod schedules;
mod webhooks;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use sqlx::Connection as _;

use super::*;
use crate::domain::{
    ChunkState, Dim, Dtype, Fire, JobSpec, JobState, PartFile, PipelineSpec, RecordId, Signature, Slice, Span, Summary, Task, TraceParent,
    ValueInfo, ValueType,
    chunk::Usage,
    isolation::{Blamed, LeftOut},
    job::PinnedModel,
    spec::{
        CsvOptions, ErrorPolicy, ExecutionSpec, IfExists, IncludeInput, InputCompression, InputFormat, InputKind, InputSpec, Layout,
        OutputCompression, OutputFormat, OutputSpec, ReviewSpec,
    },
};

const TTL: Duration = Duration::from_secs(30);

fn uri(text: &str) -> Uri {
    Uri::parse(text).unwrap()
}

pub(crate) fn new_job(output: &str) -> NewJob {
    let float = |name: &str| ValueInfo {
        name: name.to_owned(),
        value: ValueType::Tensor { dtype: Dtype::Fp32, shape: Some(vec![Dim::Dynamic(None), Dim::Fixed(1)]) },
    };
    let spec = JobSpec {
        name: None,
        labels: BTreeMap::new(),
        model: uri("s3://m/x/"),
        input: InputSpec {
            uri: uri("s3://lake/in/"),
            kind: InputKind::Objects,
            format: InputFormat::Auto,
            compression: InputCompression::Auto,
            include: Vec::new(),
            exclude: Vec::new(),
            csv: CsvOptions::default(),
        },
        output: OutputSpec {
            uri: uri(output),
            format: OutputFormat::Jsonl,
            compression: OutputCompression::None,
            include_input: IncludeInput::None,
            prediction_prefix: String::new(),
            layout: Layout::Parts,
            if_exists: IfExists::Fail,
            review: None,
            table: None,
        },
        pipeline: PipelineSpec::default(),
        execution: ExecutionSpec::default(),
        error_policy: ErrorPolicy::default(),
        drift: None,
        webhook: None,
        wait_for: None,
        depends_on: Vec::new(),
        budget: None,
    };
    let pipeline = Pipeline::new(Task::Raw, Signature { inputs: vec![float("x")], outputs: vec![float("y")] });
    let model = PinnedModel { uri: uri("s3://m/x/"), digest: "d".to_owned(), file: "model.onnx".to_owned(), bytes: 1, registered: None };
    NewJob { id: JobId::generate(), spec, model, pipeline, key: None, trace: None, fire: None }
}

fn slice(key: &str) -> Vec<ObjectSlice> {
    vec![ObjectSlice {
        bucket: None,
        key: key.to_owned(),
        size: 1,
        etag: Some("e".to_owned()),
        format: InputFormat::Csv,
        compression: InputCompression::None,
        slice: Slice::Whole,
    }]
}

fn result(succeeded: u64, failed: u64) -> ChunkResult {
    let part = PartFile { key: "part-000000-a.jsonl".to_owned(), records: succeeded, bytes: 1, sha256: "s".to_owned() };
    ChunkResult {
        part: (succeeded > 0).then_some(part),
        succeeded,
        failed,
        error_codes: BTreeMap::from([("bad".to_owned(), failed)]),
        first_error: (failed > 0).then(|| "in/a at 3: bad".to_owned()),
        usage: Usage { bytes_read: 10, ..Usage::default() },
        ..ChunkResult::default()
    }
}

fn problem() -> Problem {
    Problem::new("oops", "It broke", "somewhere")
}

/// A store whose clock can be turned.
pub(crate) struct Bench {
    pub(crate) store: SqlStore,
    /// Opens the same database again, as another node does.
    database: Database,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("t.db"));
        Self { store: SqlStore::open(&database).await.unwrap(), database, _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        let database = Self::schema().await;
        Self { store: SqlStore::open(&database).await.unwrap(), database, _folder: None }
    }

    /// A schema of its own, so that tests run side by side on one server.
    async fn schema() -> Database {
        let server = std::env::var("NIGHTSHIFT_TEST_POSTGRES").expect("scripts/test starts a server and says where it is");
        let schema = format!("t_{}", uuid::Uuid::now_v7().simple());
        let mut connection = sqlx::PgConnection::connect(&server).await.expect("the server of scripts/test");
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut connection).await.unwrap();
        let url = PostgresUrl::new(format!("{server}&options=-c%20search_path%3D{schema}"));
        Database::Postgres { url, connections: 8 }
    }

    /// A number that a statement gives, said beside the store, such as one that makes the tables what it takes long to come to.
    pub(crate) async fn number(&self, statement: &str) -> i64 {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        match &self.database {
            Database::Sqlite(path) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(TTL);
                let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap()
            }
            Database::Postgres { url, .. } => {
                let mut connection = sqlx::PgConnection::connect(url.expose()).await.unwrap();
                sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap()
            }
        }
    }

    fn advance(&self, time: Duration) {
        self.store.advance_clock(time);
    }

    async fn create(&self, new: NewJob) -> JobId {
        match self.store.create_job(new).await.unwrap() {
            Created::Job(job) => job.id,
            other => panic!("{other:?}"),
        }
    }

    /// A job with `chunks` chunks, planned.
    async fn planned(&self, new: NewJob, chunks: usize) -> JobId {
        let id = self.create(new).await;
        let (lease, job) = self.store.claim_planning("p", TTL).await.unwrap().unwrap();
        assert_eq!((&job.id, job.state), (&id, JobState::Validating));
        let cursor = PlanCursor { objects: chunks as u64, done: true, ..PlanCursor::default() };
        let slices = (0..chunks).map(|i| slice(&format!("in/{i}"))).collect();
        assert_eq!(self.store.append_chunks(&lease, TTL, slices, &cursor).await.unwrap(), Written::Done);
        id
    }

    async fn claim(&self, limit: u32) -> Vec<ClaimedChunk> {
        self.store.claim_chunks("w", limit, TTL).await.unwrap()
    }

    async fn claim_one(&self) -> ChunkLease {
        self.claim(1).await.pop().expect("a chunk to claim").lease
    }

    async fn job(&self, id: &JobId) -> Job {
        self.store.job(id).await.unwrap().unwrap()
    }

    async fn state(&self, id: &JobId) -> JobState {
        self.job(id).await.state
    }

    /// Finalises a job that is due.
    async fn finalize(&self, ending: Ending) {
        let (lease, _) = self.store.claim_finalizing("f", TTL).await.unwrap().expect("a job to finalise");
        assert_eq!(self.store.finish_job(&lease, ending, None).await.unwrap(), Written::Done);
    }
}

async fn a_job_walks_from_queued_to_completed(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 2).await;
    assert_eq!(b.state(&id).await, JobState::InProgress);
    for lease in b.claim(5).await {
        assert_eq!(b.store.commit_chunk(&lease.lease, &result(3, 1)).await.unwrap(), Written::Done);
    }
    let job = b.job(&id).await;
    assert_eq!((job.state, job.ending), (JobState::Finalizing, Some(Ending::Completed)));
    assert_eq!((job.counts.succeeded, job.counts.failed, job.counts.chunks_done, job.usage.bytes_read), (6, 2, 2, 20));
    assert!(job.started_at.is_some() && job.finished_at.is_none());
    b.finalize(Ending::Completed).await;
    let job = b.job(&id).await;
    assert_eq!(job.state, JobState::Completed);
    assert!(job.finished_at.is_some());
    assert!(b.store.claim_finalizing("f", TTL).await.unwrap().is_none());
}

async fn creating_a_job_twice_makes_one(b: Bench) {
    let new = new_job("s3://lake/out/");
    let id = b.create(new.clone()).await;
    assert_eq!(b.create(new).await, id);
    assert_eq!(b.store.jobs(&JobFilter { limit: 10, ..JobFilter::default() }).await.unwrap().len(), 1);
}

async fn an_output_prefix_belongs_to_one_unfinished_job_nested_prefixes_included(b: Bench) {
    let id = b.create(new_job("s3://lake/out/a/")).await;
    for taken in ["s3://lake/out/a/", "s3://lake/out/a/b/c/", "s3://lake/out/", "s3://lake/"] {
        match b.store.create_job(new_job(taken)).await.unwrap() {
            Created::OutputClaimed { by, .. } => assert_eq!(by, id, "{taken}"),
            other => panic!("{taken}: {other:?}"),
        }
    }
    for free in ["s3://lake/out/ab/", "s3://other/out/a/", "s3://lake/ou/", "file:///lake/out/a/"] {
        b.create(new_job(free)).await;
    }
    b.store.cancel_job(&id).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    b.create(new_job("s3://lake/out/a/")).await;
}

async fn a_review_prefix_is_claimed_as_an_output_prefix_is(b: Bench) {
    let with_review = |output: &str, review: &str| {
        let mut new = new_job(output);
        new.spec.output.review = Some(ReviewSpec { uri: uri(review), when: vec!["f".to_owned()] });
        new
    };
    let id = b.create(with_review("s3://lake/out/", "s3://lake/queue/a/")).await;
    let taken = [
        new_job("s3://lake/queue/a/"),
        new_job("s3://lake/queue/"),
        new_job("s3://lake/queue/a/b/"),
        with_review("s3://lake/x/", "s3://lake/queue/a/b/"),
        with_review("s3://lake/x/", "s3://lake/out/"),
    ];
    for new in taken {
        match b.store.create_job(new.clone()).await.unwrap() {
            Created::OutputClaimed { by, .. } => assert_eq!(by, id),
            other => panic!("{:?} was free: {other:?}", new.spec.output),
        }
    }
    b.create(with_review("s3://lake/x/", "s3://lake/queue/ab/")).await;
    b.store.cancel_job(&id).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    b.create(new_job("s3://lake/queue/a/")).await;
}

async fn a_jobs_summary_is_that_of_its_committed_chunks(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 3).await;
    let leases: Vec<ChunkLease> = b.claim(3).await.into_iter().map(|c| c.lease).collect();
    for (at, lease) in leases.iter().enumerate().rev() {
        let mut summary = Summary::default();
        summary.add_label(if at == 0 { "a" } else { "b" }, Some(0.5));
        summary.flags.insert("odd".to_owned(), at as u64);
        let result = ChunkResult { summary, ..result(1, 0) };
        assert_eq!(b.store.commit_chunk(lease, &result).await.unwrap(), Written::Done);
        assert_eq!(b.store.commit_chunk(lease, &result).await.unwrap(), Written::Done, "said again, it is done");
    }
    let summary = b.job(&id).await.summary;
    assert_eq!(summary.labels.counts, BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
    assert_eq!((summary.scores.unwrap().bins[10], summary.flags["odd"]), (3, 3));
}

async fn an_expired_lease_fences_off_its_holder(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    let old = b.claim_one().await;
    assert!(b.claim(1).await.is_empty(), "a live lease is respected");
    b.advance(TTL * 2);
    let new = b.claim_one().await;
    assert_eq!(new.chunk, old.chunk);
    assert!(new.epoch > old.epoch);
    assert_eq!(b.store.renew_chunks(std::slice::from_ref(&old), TTL).await.unwrap(), std::slice::from_ref(&old));
    for written in [
        b.store.commit_chunk(&old, &result(1, 0)).await.unwrap(),
        b.store.retry_chunk(&old, &problem(), TTL, &Spent::default()).await.unwrap(),
        b.store.crash_chunk(&old, &problem(), Some(&Isolation::default()), &Spent::default()).await.unwrap(),
        b.store.fail_chunk(&old, &problem(), &Spent::default()).await.unwrap(),
        b.store.release_chunk(&old, &Spent::default()).await.unwrap(),
    ] {
        assert_eq!(written, Written::Fenced);
    }
    assert_eq!(b.state(&id).await, JobState::InProgress);
    assert_eq!(b.store.commit_chunk(&new, &result(1, 0)).await.unwrap(), Written::Done);
    assert_eq!(b.store.commit_chunk(&new, &result(1, 0)).await.unwrap(), Written::Done, "who lost the answer may ask again");
    assert_eq!(b.store.release_chunk(&new, &Spent::default()).await.unwrap(), Written::Fenced);
    assert_eq!(b.job(&id).await.counts.succeeded, 1);
}

async fn a_renewed_lease_does_not_expire(b: Bench) {
    b.planned(new_job("s3://lake/out/"), 1).await;
    let lease = b.claim_one().await;
    for _ in 0..5 {
        b.advance(TTL / 2);
        assert!(b.store.renew_chunks(std::slice::from_ref(&lease), TTL).await.unwrap().is_empty());
    }
    assert!(b.claim(1).await.is_empty());
}

async fn a_job_that_waits_for_what_is_away_holds_nothing_and_costs_its_chunk_no_attempt(b: Bench) {
    let waits = b.planned(new_job("s3://lake/a/"), 3).await;
    let away = Problem::new("table_unavailable", "The table cannot be written", "nobody answers");
    let leases: Vec<ChunkLease> = b.claim(2).await.into_iter().map(|claimed| claimed.lease).collect();
    let delay = TTL / 2;
    for end in [Written::Done, Written::Fenced] {
        assert_eq!(b.store.postpone_chunk(&leases[0], &away, delay, &Spent::default()).await.unwrap(), end);
    }
    let other = b.planned(new_job("s3://lake/b/"), 1).await;
    let claimed = b.claim(5).await;
    assert!(claimed.len() == 1 && claimed[0].chunk.id.job == other, "{claimed:?}");
    // What was under way goes on.
    assert_eq!(b.store.commit_chunk(&leases[1], &result(1, 0)).await.unwrap(), Written::Done);
    b.advance(delay);
    let claimed = b.claim(5).await;
    assert_eq!(claimed.iter().map(|c| (c.chunk.id.job == waits, c.chunk.id.seq)).collect::<Vec<_>>(), [(true, 0), (true, 2)]);
    let chunk = &claimed[0].chunk;
    assert_eq!((chunk.claims, chunk.failures, chunk.crashes, chunk.error.as_ref()), (2, 0, 0, Some(&away)));
}

async fn errors_that_may_pass_are_tried_again_later_and_not_for_ever(b: Bench) {
    let mut new = new_job("s3://lake/out/");
    new.spec.execution.max_attempts = 3;
    let id = b.planned(new, 2).await;
    for attempt in 1..=3 {
        let lease = b.claim_one().await;
        assert_eq!(lease.chunk.seq, 0, "attempt {attempt}");
        assert_eq!(b.store.retry_chunk(&lease, &problem(), Duration::from_secs(60), &Spent::default()).await.unwrap(), Written::Done);
        if attempt < 3 {
            assert_eq!(b.state(&id).await, JobState::InProgress);
            let other = b.claim_one().await;
            assert_eq!(other.chunk.seq, 1, "a chunk that is not due is passed over");
            let _written = b.store.release_chunk(&other, &Spent::default()).await.unwrap();
            b.advance(Duration::from_secs(61));
        }
    }
    let job = b.job(&id).await;
    assert_eq!((job.state, job.ending), (JobState::Finalizing, Some(Ending::Failed)));
    assert_eq!(job.error.unwrap().code, "oops");
    let chunks = b.store.chunks(&id, 0, 10).await.unwrap();
    assert_eq!((chunks[0].state, chunks[0].failures, chunks[1].state), (ChunkState::Failed, 2, ChunkState::Cancelled));
}

async fn a_release_costs_nothing_and_a_crash_is_counted_apart(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    for _ in 0..5 {
        let lease = b.claim_one().await;
        let _written = b.store.release_chunk(&lease, &Spent::default()).await.unwrap();
    }
    let chunk = b.store.chunk(&ChunkId { job: id.clone(), seq: 0 }).await.unwrap().unwrap();
    assert_eq!((chunk.claims, chunk.failures, chunk.crashes), (5, 0, 0));
    for crashes in 1..=20 {
        let lease = b.claim_one().await;
        assert_eq!(b.store.crash_chunk(&lease, &problem(), None, &Spent::default()).await.unwrap(), Written::Done);
        let chunk = b.store.chunk(&lease.chunk).await.unwrap().unwrap();
        assert_eq!((chunk.crashes, chunk.failures, chunk.isolation, chunk.error), (crashes, 0, None, Some(problem())));
        assert_eq!(b.state(&id).await, JobState::InProgress, "whether there is a next attempt is not for the store to say");
    }
}

async fn what_is_known_of_a_chunk_in_isolation_stays_with_it_until_a_retry(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    let record = |position| RecordId { object: 0, position };
    let mut known = Isolation::default();
    for (crashes, first) in [(1, 0), (2, 64)] {
        known.singly.push(Span { first: record(first), last: record(first + 63) });
        known.left_out.push(LeftOut {
            what: Blamed::Record(record(first + 3)),
            code: "runner_crash".to_owned(),
            detail: "it died".to_owned(),
        });
        let lease = b.claim_one().await;
        assert_eq!(b.store.crash_chunk(&lease, &problem(), Some(&known), &Spent::default()).await.unwrap(), Written::Done);
        // A drain, a dead node, an error that may pass and a crash that teaches nothing leave it as it is.
        let _written = b.store.release_chunk(&b.claim_one().await, &Spent::default()).await.unwrap();
        b.claim_one().await;
        b.advance(TTL * 2);
        let _written = b.store.retry_chunk(&b.claim_one().await, &problem(), Duration::from_secs(1), &Spent::default()).await.unwrap();
        b.advance(Duration::from_secs(2));
        let claimed = b.claim(1).await.pop().unwrap();
        assert_eq!((claimed.chunk.isolation.as_ref(), claimed.chunk.crashes), (Some(&known), crashes));
        let _written = b.store.release_chunk(&claimed.lease, &Spent::default()).await.unwrap();
    }
    let _written = b.store.fail_chunk(&b.claim_one().await, &problem(), &Spent::default()).await.unwrap();
    b.finalize(Ending::Failed).await;
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Job(_)));
    assert_eq!(b.claim(1).await.pop().unwrap().chunk.isolation, None, "a retry begins anew");
}

async fn a_cancelled_job_stops_its_chunks_and_keeps_what_is_done(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 3).await;
    let leases: Vec<ChunkLease> = b.claim(2).await.into_iter().map(|c| c.lease).collect();
    assert!(matches!(b.store.cancel_job(&id).await.unwrap(), Changed::Job(job) if job.state == JobState::Cancelling));
    assert!(matches!(b.store.cancel_job(&id).await.unwrap(), Changed::Job(_)), "asking twice is no error");
    assert_eq!(b.store.renew_chunks(&leases, TTL).await.unwrap().len(), 2, "running chunks are told to stop");
    assert!(b.claim(5).await.is_empty());
    assert!(b.store.claim_finalizing("f", TTL).await.unwrap().is_none(), "chunks are still running");
    assert_eq!(b.store.commit_chunk(&leases[0], &result(1, 0)).await.unwrap(), Written::Done, "done is done");
    let _written = b.store.release_chunk(&leases[1], &Spent::default()).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    assert_eq!(b.state(&id).await, JobState::Cancelled);
    let states: Vec<ChunkState> = b.store.chunks(&id, 0, 10).await.unwrap().iter().map(|c| c.state).collect();
    assert_eq!(states, [ChunkState::Done, ChunkState::Cancelled, ChunkState::Cancelled]);
    assert!(matches!(b.store.cancel_job(&id).await.unwrap(), Changed::Conflict(_)));
    assert!(matches!(b.store.cancel_job(&JobId::generate()).await.unwrap(), Changed::Missing));
}

async fn a_worker_that_wakes_up_after_finalising_began_changes_nothing(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    let late = b.claim_one().await;
    b.store.cancel_job(&id).await.unwrap();
    b.advance(TTL * 2);
    let (lease, _) = b.store.claim_finalizing("f", TTL).await.unwrap().unwrap();
    assert_eq!(b.store.commit_chunk(&late, &result(1, 0)).await.unwrap(), Written::Fenced);
    b.advance(TTL * 2);
    let (newer, _) = b.store.claim_finalizing("g", TTL).await.unwrap().unwrap();
    assert_eq!(b.store.finish_job(&lease, Ending::Cancelled, None).await.unwrap(), Written::Fenced);
    assert_eq!(b.store.finish_job(&newer, Ending::Cancelled, None).await.unwrap(), Written::Done);
    assert_eq!(b.job(&id).await.counts.succeeded, 0);
}

async fn planning_goes_on_from_the_cursor_when_a_planner_dies(b: Bench) {
    let id = b.create(new_job("s3://lake/out/")).await;
    let (first, _) = b.store.claim_planning("p", TTL).await.unwrap().unwrap();
    let half = PlanCursor { after_key: Some("in/1".to_owned()), objects: 2, ..PlanCursor::default() };
    assert_eq!(b.store.append_chunks(&first, TTL, vec![slice("in/0"), slice("in/1")], &half).await.unwrap(), Written::Done);
    assert_eq!(b.state(&id).await, JobState::InProgress, "chunks run while planning goes on");
    for claimed in b.claim(9).await {
        let _written = b.store.commit_chunk(&claimed.lease, &result(1, 0)).await.unwrap();
    }
    assert_eq!(b.state(&id).await, JobState::InProgress, "planning is not over");
    assert!(b.store.claim_planning("q", TTL).await.unwrap().is_none());
    b.advance(TTL * 2);
    let (second, job) = b.store.claim_planning("q", TTL).await.unwrap().unwrap();
    assert_eq!((job.plan.after_key.as_deref(), job.plan.next_seq), (Some("in/1"), 2));
    let done = PlanCursor { done: true, ..job.plan };
    assert_eq!(b.store.append_chunks(&first, TTL, vec![slice("in/x")], &done).await.unwrap(), Written::Fenced);
    assert_eq!(b.store.append_chunks(&second, TTL, vec![slice("in/2")], &done).await.unwrap(), Written::Done);
    let last = b.claim_one().await;
    assert_eq!(last.chunk.seq, 2);
    let _written = b.store.commit_chunk(&last, &result(1, 0)).await.unwrap();
    assert_eq!(b.job(&id).await.ending, Some(Ending::Completed));
}

async fn higher_priority_goes_first_and_equals_share(b: Bench) {
    let large = b.planned(new_job("s3://lake/1/"), 100).await;
    let small = b.planned(new_job("s3://lake/2/"), 2).await;
    let mut urgent = new_job("s3://lake/3/");
    urgent.spec.execution.priority = 5;
    urgent.spec.execution.max_parallel_chunks = Some(2);
    let urgent = b.planned(urgent, 5).await;
    let order: Vec<JobId> = b.claim(6).await.into_iter().map(|c| c.lease.chunk.job).collect();
    assert_eq!(order[..2], [urgent.clone(), urgent.clone()], "no more than max_parallel_chunks");
    assert_eq!(order[2..].iter().filter(|id| **id == small).count(), 2, "a small job does not wait for a large one");
    assert_eq!(order[2..].iter().filter(|id| **id == large).count(), 2);
    let seqs: Vec<u64> = b.claim(3).await.iter().map(|c| c.chunk.id.seq).collect();
    assert_eq!(seqs, [2, 3, 4], "in input order");
}

async fn workers_of_a_job_run_out_of_chunks_together(b: Bench) {
    b.planned(new_job("s3://lake/out/"), 9).await;
    let claim = async |worker: &str| b.store.claim_chunks(worker, 3, TTL).await.unwrap().into_iter().map(|c| c.lease).collect::<Vec<_>>();
    let (mut first, mut second) = (claim("a").await, claim("b").await);
    assert_eq!((first.len(), second.len()), (3, 3), "there is enough for both");
    let _written = b.store.commit_chunk(&first.remove(0), &result(1, 0)).await.unwrap();
    first.extend(claim("a").await);
    assert_eq!(first.len(), 4, "eight are left, four for each");
    assert!(claim("a").await.is_empty(), "the last one is the other's");
    for lease in second.drain(..) {
        let _written = b.store.commit_chunk(&lease, &result(1, 0)).await.unwrap();
    }
    second.extend(claim("b").await);
    assert_eq!(second.len(), 1, "what is left waits for nobody");
}

async fn a_deadline_ends_a_job_as_expired(b: Bench) {
    let mut new = new_job("s3://lake/out/");
    new.spec.execution.deadline_seconds = Some(100);
    let id = b.planned(new, 2).await;
    assert!(b.store.expire_jobs().await.unwrap().is_empty());
    b.advance(Duration::from_secs(101));
    assert_eq!(b.store.expire_jobs().await.unwrap(), std::slice::from_ref(&id));
    assert!(b.claim(1).await.is_empty());
    b.finalize(Ending::Expired).await;
    assert_eq!(b.state(&id).await, JobState::Expired);
}

async fn too_many_failed_records_fail_the_job(b: Bench) {
    let mut by_count = new_job("s3://lake/1/");
    by_count.spec.error_policy.max_failed_records = Some(3);
    let id = b.planned(by_count, 3).await;
    let lease = b.claim_one().await;
    let _written = b.store.commit_chunk(&lease, &result(10, 4)).await.unwrap();
    let job = b.job(&id).await;
    assert_eq!((job.ending, job.error.unwrap().code.as_str()), (Some(Ending::Failed), "error_policy_violated"));
    b.finalize(Ending::Failed).await;

    let mut by_share = new_job("s3://lake/2/");
    by_share.spec.error_policy.max_failed_ratio = Some(0.5);
    let id = b.planned(by_share, 1).await;
    let lease = b.claim_one().await;
    let _written = b.store.commit_chunk(&lease, &result(1, 2)).await.unwrap();
    assert_eq!(b.job(&id).await.error.unwrap().code, "error_policy_violated");
    b.finalize(Ending::Failed).await;

    let id = b.planned(new_job("s3://lake/3/"), 1).await;
    let lease = b.claim_one().await;
    let _written = b.store.commit_chunk(&lease, &result(0, 2)).await.unwrap();
    let error = b.job(&id).await.error.unwrap();
    assert_eq!(error.code, "all_records_failed");
    assert!(error.detail.contains("bad × 2") && error.detail.contains("in/a at 3"), "{}", error.detail);
}

async fn jobs_are_listed_newest_first_by_state_label_and_page(b: Bench) {
    let mut ids = Vec::new();
    for i in 0..5 {
        let mut new = new_job(&format!("s3://lake/{i}/"));
        new.spec.labels.insert("team".to_owned(), if i % 2 == 0 { "risk" } else { "growth" }.to_owned());
        ids.push(b.create(new).await);
    }
    let list = async |filter: JobFilter| b.store.jobs(&filter).await.unwrap().into_iter().map(|j| j.id).collect::<Vec<_>>();
    let newest: Vec<JobId> = ids.iter().rev().cloned().collect();
    assert_eq!(list(JobFilter { limit: 10, ..JobFilter::default() }).await, newest);
    let page = JobFilter { limit: 2, before: Some(ids[3].clone()), ..JobFilter::default() };
    assert_eq!(list(page).await, [ids[2].clone(), ids[1].clone()]);
    let labels = BTreeMap::from([("team".to_owned(), "growth".to_owned())]);
    assert_eq!(list(JobFilter { limit: 10, labels, ..JobFilter::default() }).await, [ids[3].clone(), ids[1].clone()]);
    assert!(list(JobFilter { limit: 10, state: Some(JobState::Completed), ..JobFilter::default() }).await.is_empty());
}

async fn a_dropped_caller_leaves_no_transaction_open(b: Bench) {
    b.planned(new_job("s3://lake/out/"), 50).await;
    for _ in 0..50 {
        let claim = b.store.claim_chunks("w", 1, TTL);
        // Polled once and dropped, as when a client goes away.
        let _dropped = tokio::time::timeout(Duration::ZERO, claim).await;
    }
    b.store.ping().await.unwrap();
    // What they began goes on to its end, with leases that run out as any do.
    for _ in 0..200 {
        b.advance(TTL * 2);
        if b.claim(50).await.len() == 50 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("some chunks are out of reach");
}

on_both_databases! {
    what_is_known_of_a_chunk_in_isolation_stays_with_it_until_a_retry,
    a_review_prefix_is_claimed_as_an_output_prefix_is,
    a_job_walks_from_queued_to_completed,
    creating_a_job_twice_makes_one,
    an_output_prefix_belongs_to_one_unfinished_job_nested_prefixes_included,
    a_jobs_summary_is_that_of_its_committed_chunks,
    an_expired_lease_fences_off_its_holder,
    a_renewed_lease_does_not_expire,
    a_job_that_waits_for_what_is_away_holds_nothing_and_costs_its_chunk_no_attempt,
    errors_that_may_pass_are_tried_again_later_and_not_for_ever,
    a_release_costs_nothing_and_a_crash_is_counted_apart,
    a_cancelled_job_stops_its_chunks_and_keeps_what_is_done,
    a_worker_that_wakes_up_after_finalising_began_changes_nothing,
    planning_goes_on_from_the_cursor_when_a_planner_dies,
    higher_priority_goes_first_and_equals_share,
    workers_of_a_job_run_out_of_chunks_together,
    a_deadline_ends_a_job_as_expired,
    too_many_failed_records_fail_the_job,
    jobs_are_listed_newest_first_by_state_label_and_page,
    a_dropped_caller_leaves_no_transaction_open,
    the_backlog_counts_what_waits_and_runs_and_for_how_long,
    a_job_keeps_its_trace,
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = Database::Sqlite(folder.path().join("t.db"));
    let first = SqlStore::open(&path).await.unwrap();
    let error = SqlStore::open(&path).await.unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    drop(first);
    SqlStore::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_start_ends_the_leases_of_the_dead() {
    let b = Bench::sqlite().await;
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    let old = b.claim_one().await;
    b.store.release_all().await.unwrap();
    let new = b.claim_one().await;
    assert_eq!(new.chunk, old.chunk);
    let chunk = b.store.chunk(&ChunkId { job: id, seq: 0 }).await.unwrap().unwrap();
    assert_eq!((chunk.failures, chunk.crashes), (0, 0));
}

/// What a random worker does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Claim(u32),
    Commit(usize),
    Retry(usize),
    Crash(usize),
    Release(usize),
    Renew,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u32..4).prop_map(Step::Claim),
        4 => any::<prop::sample::Index>().prop_map(|i| Step::Commit(i.index(64))),
        1 => any::<prop::sample::Index>().prop_map(|i| Step::Retry(i.index(64))),
        1 => any::<prop::sample::Index>().prop_map(|i| Step::Crash(i.index(64))),
        1 => any::<prop::sample::Index>().prop_map(|i| Step::Release(i.index(64))),
        1 => Just(Step::Renew),
        2 => (1u64..40).prop_map(Step::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Workers that keep every lease they ever had, dead ones included, and use them at random.
    #[test]
    fn no_interleaving_loses_a_chunk_or_counts_one_twice(steps in prop::collection::vec(step(), 1..80), chunks in 1usize..8) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            interleaved(Bench::sqlite().await, &steps, chunks).await;
            interleaved(Bench::postgres().await, &steps, chunks).await;
        });
    }
}

async fn interleaved(b: Bench, steps: &[Step], chunks: usize) {
    let mut new = new_job("s3://lake/out/");
    new.spec.execution.max_attempts = 1000;
    let id = b.planned(new, chunks).await;
    let mut leases: Vec<ChunkLease> = Vec::new();
    // By the lease that did it: said again, it changes nothing.
    let mut committed: BTreeMap<u64, ChunkLease> = BTreeMap::new();
    for step in steps.iter().copied() {
        let lease = |at: usize| leases.get(at % leases.len().max(1)).cloned();
        match step {
            Step::Claim(limit) => {
                for claimed in b.claim(limit).await {
                    assert!(!committed.contains_key(&claimed.chunk.id.seq), "a committed chunk is not claimed again");
                    leases.push(claimed.lease);
                }
            }
            Step::Commit(at) => {
                if let Some(lease) = lease(at)
                    && b.store.commit_chunk(&lease, &result(lease.chunk.seq + 1, 1)).await.unwrap() == Written::Done
                {
                    let by = committed.entry(lease.chunk.seq).or_insert_with(|| lease.clone());
                    assert_eq!(*by, lease, "a chunk is committed under one lease");
                }
            }
            Step::Retry(at) => {
                if let Some(lease) = lease(at) {
                    let _any = b.store.retry_chunk(&lease, &problem(), Duration::from_secs(5), &Spent::default()).await.unwrap();
                }
            }
            Step::Crash(at) => {
                if let Some(lease) = lease(at) {
                    let _any = b.store.crash_chunk(&lease, &problem(), None, &Spent::default()).await.unwrap();
                }
            }
            Step::Release(at) => {
                if let Some(lease) = lease(at) {
                    let _any = b.store.release_chunk(&lease, &Spent::default()).await.unwrap();
                }
            }
            Step::Renew => drop(b.store.renew_chunks(&leases, TTL).await.unwrap()),
            Step::Advance(seconds) => b.advance(Duration::from_secs(seconds)),
        }
    }
    // Whatever happened, the rest can still be done, and the job ends exactly once with exact counts.
    while committed.len() < chunks {
        b.advance(TTL * 2);
        for claimed in b.claim(8).await {
            assert_eq!(b.store.commit_chunk(&claimed.lease, &result(claimed.chunk.id.seq + 1, 1)).await.unwrap(), Written::Done);
            assert!(committed.insert(claimed.chunk.id.seq, claimed.lease).is_none());
        }
    }
    let job = b.job(&id).await;
    let total: u64 = (1..=chunks as u64).sum();
    assert_eq!((job.counts.succeeded, job.counts.failed, job.counts.chunks_done), (total, chunks as u64, chunks as u64));
    assert_eq!(job.ending, Some(Ending::Completed));
    b.finalize(Ending::Completed).await;
    assert!(b.store.claim_finalizing("f", TTL).await.unwrap().is_none());
}

async fn the_backlog_counts_what_waits_and_runs_and_for_how_long(b: Bench) {
    assert_eq!(b.store.backlog().await.unwrap(), Backlog::default());
    let running = b.planned(new_job("s3://lake/a/"), 3).await;
    b.advance(TTL);
    let waiting = b.planned(new_job("s3://lake/b/"), 2).await;
    let backlog = b.store.backlog().await.unwrap();
    assert_eq!((backlog.pending, backlog.running, backlog.done), (5, 0, 0));
    assert!(backlog.oldest_waiting_seconds >= TTL.as_secs_f64(), "{backlog:?}");

    // The elder has its turn first: only the younger one is waiting for its first chunk then.
    let claimed = b.claim(1).await.remove(0);
    assert_eq!(claimed.chunk.id.job, running);
    assert_eq!(b.store.commit_chunk(&claimed.lease, &result(3, 1)).await.unwrap(), Written::Done);
    let held = b.claim(1).await.remove(0);
    let backlog = b.store.backlog().await.unwrap();
    assert_eq!((backlog.pending, backlog.running, backlog.done, backlog.lease_expiries), (3, 1, 1, 0));
    assert_eq!(backlog.jobs, BTreeMap::from([(JobState::InProgress, 2)]));
    assert!(held.chunk.id.job == waiting || backlog.oldest_waiting_seconds < TTL.as_secs_f64(), "{backlog:?}");

    b.advance(TTL * 2);
    b.claim(1).await;
    assert_eq!(b.store.backlog().await.unwrap().lease_expiries, 1);
    for id in [&running, &waiting] {
        b.store.cancel_job(id).await.unwrap();
    }
    let ending = b.store.backlog().await.unwrap();
    assert_eq!((ending.pending, ending.oldest_waiting_seconds), (0, 0.0), "a job that is being ended waits for nothing");
}

async fn a_job_keeps_its_trace(b: Bench) {
    let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let traced = b.create(NewJob { trace, ..new_job("s3://lake/a/") }).await;
    let plain = b.create(new_job("s3://lake/b/")).await;
    assert_eq!((b.job(&traced).await.trace, b.job(&plain).await.trace), (trace, None));
}

//! Fires through the store, with its clock turned.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    db::{
        Created, NewJob, NewSchedule, SqlStore,
        conformance::{Bench, new_job},
    },
    domain::{
        Fire, JobId, ScheduleId, ScheduleSpec,
        cron::Cron,
        job::{Ending, PlanCursor},
        schedule::{CatchUp, Overlap, Template, Zone},
    },
};

const TTL: Duration = Duration::from_secs(30);

/// Makes the jobs of fires as the API does, but for their definitions.
#[derive(Debug)]
struct Jobs {
    store: SqlStore,
    /// Of so many answers one is lost, after the job was made; none when 0.
    loses_one_in: u64,
    asked: AtomicU64,
}

impl Jobs {
    fn all(store: SqlStore) -> Arc<Self> {
        Arc::new(Self { store, loses_one_in: 0, asked: AtomicU64::new(0) })
    }
}

#[async_trait]
impl Accept for Jobs {
    async fn accept(&self, schedule: &Schedule, run: &Run) -> Result<JobId, Refused> {
        let fire = Some(Fire { schedule: schedule.id.clone(), time: run.fire_time, only_new: false });
        let new = NewJob { fire, ..new_job(&format!("s3://lake/{}/{}/", schedule.id, run.fire_time.0)) };
        let refused = |what: &str| Problem::new("refused", "It was refused", what);
        let created = self.store.create_job(new).await.map_err(|e| Refused::ForNow(refused(&e.to_string())))?;
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if self.loses_one_in > 0 && asked.is_multiple_of(self.loses_one_in) {
            return Err(Refused::ForNow(refused("the answer was lost")));
        }
        match created {
            Created::Job(job) | Created::Replay(job) => Ok(job.id),
            Created::Overlaps { .. } => Err(Refused::Overlaps),
            other => Err(Refused::ForGood(refused(&format!("{other:?}")))),
        }
    }
}

fn scheduler(store: &SqlStore, accept: Arc<dyn Accept>) -> Scheduler {
    Scheduler { store: Arc::new(store.clone()), accept, wake: Arc::default(), poll: Duration::from_millis(20), times: Times::default() }
}

fn spec(cron: &str, zone: &str, overlap: Overlap) -> ScheduleSpec {
    ScheduleSpec {
        name: "s".to_owned(),
        cron: Cron::parse(cron).unwrap(),
        time_zone: Zone::parse(zone).unwrap(),
        job: Template(json!({})),
        overlap,
        catch_up: CatchUp::All,
        only_new: false,
        wait_for: None,
        end_at: None,
    }
}

async fn create(store: &SqlStore, spec: ScheduleSpec) -> Schedule {
    let next_at = spec.next(store.now().await.unwrap());
    store.create_schedule(NewSchedule { id: ScheduleId::generate(), spec, next_at, paused: false }).await.unwrap()
}

impl Scheduler {
    /// All that is to be done now.
    async fn step(&self) {
        self.open(&mut BTreeSet::new()).await.unwrap();
        while let Some(claimed) = self.claim().await {
            self.make(&claimed, &CancellationToken::new()).await;
        }
    }
}

/// Ends every job that can be ended; how many.
async fn complete_all(store: &SqlStore) -> usize {
    while let Some((lease, _)) = store.claim_planning("p", TTL).await.unwrap() {
        let cursor = PlanCursor { done: true, ..PlanCursor::default() };
        let _written = store.append_chunks(&lease, TTL, Vec::new(), &cursor).await.unwrap();
    }
    let mut ended = 0;
    while let Some((lease, job)) = store.claim_finalizing("f", TTL).await.unwrap() {
        let written = store.finish_job(&lease, job.ending.unwrap_or(Ending::Failed), None).await.unwrap();
        ended += usize::from(written == Written::Done);
    }
    ended
}

async fn turn_to(store: &SqlStore, time: Timestamp) {
    let now = store.now().await.unwrap();
    store.advance_clock(Duration::from_micros(u64::try_from(time.0 - now.0).expect("a time to come")));
}

/// The fires of three days, an hour at a time.
async fn fires_of(cron: &str, zone: &str, day: &str) -> Vec<String> {
    let bench = Bench::sqlite().await;
    let store = &bench.store;
    let start = Timestamp::parse(day).unwrap();
    turn_to(store, start).await;
    let schedule = create(store, spec(cron, zone, Overlap::Queue)).await;
    let scheduler = scheduler(store, Jobs::all(store.clone()));
    for hour in 1..=72 {
        turn_to(store, Timestamp(start.0 + hour * 3_600_000_000)).await;
        scheduler.step().await;
        complete_all(store).await;
    }
    let runs = store.runs(&schedule.id, None, 100).await.unwrap();
    assert!(runs.iter().all(|run| run.state == RunState::Started), "{runs:#?}");
    runs.iter().rev().map(|run| run.fire_time.to_string()[..16].to_owned()).collect()
}

// Far ahead, as a clock is turned forward only.
#[tokio::test]
async fn over_a_change_of_daylight_saving_each_night_has_its_one_job() {
    for (cron, zone, day, wanted) in [
        ("30 2 * * *", "Europe/Berlin", "2037-03-28T00:00:00Z", ["2037-03-28T01:30", "2037-03-29T01:00", "2037-03-30T00:30"]),
        ("30 2 * * *", "Europe/Berlin", "2037-10-24T00:00:00Z", ["2037-10-24T00:30", "2037-10-25T00:30", "2037-10-26T01:30"]),
        ("30 2 * * *", "America/New_York", "2037-03-07T00:00:00Z", ["2037-03-07T07:30", "2037-03-08T07:00", "2037-03-09T06:30"]),
        ("30 1 * * *", "America/New_York", "2037-10-31T00:00:00Z", ["2037-10-31T05:30", "2037-11-01T05:30", "2037-11-02T06:30"]),
    ] {
        assert_eq!(fires_of(cron, zone, day).await, wanted, "{zone} {day}");
    }
    let hourly = fires_of("30 * * * *", "Europe/Berlin", "2037-10-24T12:00:00Z").await;
    assert_eq!(hourly.len(), 72, "an hour that comes twice is two hours");
}

#[tokio::test]
async fn what_was_missed_is_listed_with_the_reason() {
    let bench = Bench::sqlite().await;
    let store = &bench.store;
    let last = ScheduleSpec { catch_up: CatchUp::Last, ..spec("* * * * *", "UTC", Overlap::Queue) };
    let schedule = create(store, last).await;
    let scheduler = scheduler(store, Jobs::all(store.clone()));
    store.advance_clock(Duration::from_secs(3600));
    scheduler.step().await;
    let runs = store.runs(&schedule.id, None, 100).await.unwrap();
    let (made, missed) = (&runs[..runs.len() - 1], runs.last().unwrap());
    assert!(!made.is_empty() && made.len() <= 2 && made[0].state == RunState::Started, "{runs:#?}");
    let problem = missed.problem.as_ref().unwrap();
    assert_eq!((missed.state, problem.code.as_str()), (RunState::Skipped, "missed"));
    assert!(problem.detail.contains(&schedule.next_at.unwrap().to_string()), "{problem:?}");
}

#[tokio::test]
async fn a_fire_that_cannot_make_a_job_is_listed_and_the_schedule_goes_on() {
    #[derive(Debug)]
    struct Refusing(AtomicU64);
    #[async_trait]
    impl Accept for Refusing {
        async fn accept(&self, _: &Schedule, _: &Run) -> Result<JobId, Refused> {
            let problem = Problem::new("model_missing", "There is no model", "s3://m/ does not exist");
            Err(if self.0.fetch_add(1, Ordering::Relaxed) > 0 { Refused::ForNow(problem) } else { Refused::ForGood(problem) })
        }
    }
    let bench = Bench::sqlite().await;
    let store = &bench.store;
    let schedule = create(store, spec("0 * * * *", "UTC", Overlap::Skip)).await;
    let accept = Arc::new(Refusing(AtomicU64::new(0)));
    let scheduler = scheduler(store, accept.clone());
    store.advance_clock(Duration::from_secs(3600));
    scheduler.step().await;
    let runs = store.runs(&schedule.id, None, 10).await.unwrap();
    assert_eq!((runs[0].state, runs[0].problem.as_ref().unwrap().code.as_str()), (RunState::Failed, "model_missing"));
    // What may pass is tried again, later and later, and not for ever.
    store.advance_clock(Duration::from_secs(3600));
    scheduler.step().await;
    scheduler.step().await;
    assert_eq!(accept.0.load(Ordering::Relaxed), 2, "not at once");
    for _ in 0..20 {
        store.advance_clock(LONGEST_DELAY);
        scheduler.step().await;
    }
    let runs = store.runs(&schedule.id, None, 10).await.unwrap();
    let tried = runs.iter().find(|run| run.fire_time.0 - runs.last().unwrap().fire_time.0 == 3_600_000_000).unwrap();
    assert_eq!((tried.state, tried.attempts), (RunState::Failed, MOST_ATTEMPTS - 1));
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_stands_in_no_others_way() {
    let bench = Bench::sqlite().await;
    let store = &bench.store;
    let (broken, whole) = (due(&bench).await, create(store, spec("0 * * * *", "UTC", Overlap::Skip)).await);
    store.run_now(&broken.id).await.unwrap().unwrap();
    bench.number(&format!("UPDATE schedule SET spec = '{{\"name\": \"old\"}}' WHERE id = '{}' RETURNING revision", broken.id)).await;
    store.advance_clock(Duration::from_secs(3600));
    let scheduler = scheduler(store, Jobs::all(store.clone()));
    let mut told = BTreeSet::new();
    scheduler.open(&mut told).await.unwrap();
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [broken.id.to_string()], "it is told of");
    scheduler.step().await;
    assert_eq!(store.runs(&whole.id, None, 1).await.unwrap()[0].state, RunState::Started);
    let waiting = &store.runs(&broken.id, None, 10).await.unwrap()[0];
    assert_eq!((waiting.state, waiting.problem.as_ref().unwrap().code.as_str()), (RunState::Waiting, "schedule_broken"));
}

#[tokio::test]
async fn however_many_schedules_cannot_be_read_others_fire() {
    let bench = Bench::sqlite().await;
    let store = &bench.store;
    for _ in 0..DUE_AT_ONCE {
        create(store, spec("0 * * * *", "UTC", Overlap::Skip)).await;
    }
    bench.number("UPDATE schedule SET spec = '{}' RETURNING revision").await;
    store.advance_clock(Duration::from_secs(3600));
    let whole = due(&bench).await;
    let scheduler = scheduler(store, Jobs::all(store.clone()));
    let mut told = BTreeSet::new();
    for _ in 0..2 {
        scheduler.open(&mut told).await.unwrap();
    }
    assert_eq!(told.len(), DUE_AT_ONCE as usize);
    assert_eq!(store.runs(&whole.id, None, 1).await.unwrap().len(), 1, "its fire is written");
}

/// Makes jobs once it is let: until then it waits, as for a model that takes minutes to come.
#[derive(Debug)]
struct Slow {
    jobs: Arc<Jobs>,
    begun: Notify,
    may_go_on: Notify,
}

impl Slow {
    fn new(store: &SqlStore) -> Arc<Self> {
        Arc::new(Self { jobs: Jobs::all(store.clone()), begun: Notify::new(), may_go_on: Notify::new() })
    }
}

#[async_trait]
impl Accept for Slow {
    async fn accept(&self, schedule: &Schedule, run: &Run) -> Result<JobId, Refused> {
        self.begun.notify_one();
        self.may_go_on.notified().await;
        self.jobs.accept(schedule, run).await
    }
}

/// Takes the fire that is due; the task that makes its job.
async fn slowly(bench: &Bench, accept: Arc<dyn Accept>, times: Times) -> JoinHandle<()> {
    let scheduler = Scheduler { times, ..scheduler(&bench.store, accept) };
    scheduler.open(&mut BTreeSet::new()).await.unwrap();
    let claimed = scheduler.claim().await.unwrap();
    tokio::spawn(async move { scheduler.make(&claimed, &CancellationToken::new()).await })
}

/// A schedule with a fire that is due.
async fn due(bench: &Bench) -> Schedule {
    let schedule = create(&bench.store, spec("0 * * * *", "UTC", Overlap::Skip)).await;
    bench.store.advance_clock(Duration::from_secs(3600));
    schedule
}

const RENEWED_AT_ONCE: Times = Times { lease: Duration::from_secs(60), renewal: Duration::from_millis(5), acceptance: TTL };

#[tokio::test]
async fn a_job_that_takes_minutes_to_accept_is_accepted_by_one_node_alone() {
    let bench = Bench::sqlite().await;
    let slow = Slow::new(&bench.store);
    let schedule = due(&bench).await;
    let making = slowly(&bench, slow.clone(), RENEWED_AT_ONCE).await;
    slow.begun.notified().await;
    for _ in 0..5 {
        bench.store.advance_clock(Duration::from_secs(40));
        let renewed = bench.store.now().await.unwrap().0 + 50_000_000;
        let deadline = tokio::time::Instant::now() + TTL;
        while bench.number("SELECT lease_until FROM schedule_run WHERE state = 'waiting'").await < renewed {
            assert!(tokio::time::Instant::now() < deadline, "nobody renews the lease");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(bench.store.claim_run(TTL).await.unwrap().is_none(), "another node takes the same fire");
    }
    slow.may_go_on.notify_one();
    making.await.unwrap();
    let runs = bench.store.runs(&schedule.id, None, 10).await.unwrap();
    assert_eq!((runs.len(), runs[0].state), (1, RunState::Started));
}

#[tokio::test]
async fn a_job_that_is_retried_while_a_fire_is_accepted_counts_for_overlap() {
    let bench = Bench::sqlite().await;
    let store = &bench.store;
    let schedule = create(store, spec("0 * * * *", "UTC", Overlap::Skip)).await;
    store.advance_clock(Duration::from_secs(3600));
    scheduler(store, Jobs::all(store.clone())).step().await;
    let job = store.runs(&schedule.id, None, 1).await.unwrap()[0].job.clone().unwrap();
    store.fail_job(&job, &Problem::new("oops", "It broke", "somewhere")).await.unwrap();
    assert_eq!(complete_all(store).await, 1);
    store.advance_clock(Duration::from_secs(3600));
    let slow = Slow::new(store);
    let making = slowly(&bench, slow.clone(), Times::default()).await;
    slow.begun.notified().await;
    store.retry_job(&job).await.unwrap();
    slow.may_go_on.notify_one();
    making.await.unwrap();
    scheduler(store, Jobs::all(store.clone())).step().await;
    let runs = store.runs(&schedule.id, None, 10).await.unwrap();
    assert_eq!((runs.len(), runs[0].state, runs[0].problem.as_ref().unwrap().code.as_str()), (2, RunState::Skipped, "overlap"));
}

#[tokio::test]
async fn a_node_that_loses_a_fire_gives_up_on_its_job() {
    let bench = Bench::sqlite().await;
    let slow = Slow::new(&bench.store);
    let schedule = due(&bench).await;
    let making = slowly(&bench, slow.clone(), RENEWED_AT_ONCE).await;
    slow.begun.notified().await;
    assert!(bench.store.delete_schedule(&schedule.id).await.unwrap());
    tokio::time::timeout(TTL, making).await.expect("it gives up").unwrap();
    assert!(bench.store.jobs(&crate::db::JobFilter { limit: 10, ..Default::default() }).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_store_that_says_nothing_fails_the_fire_and_frees_its_turn() {
    let bench = Bench::sqlite().await;
    let times = Times { acceptance: Duration::from_millis(20), ..Times::default() };
    let schedule = due(&bench).await;
    let making = slowly(&bench, Slow::new(&bench.store), times).await;
    tokio::time::timeout(TTL, making).await.expect("it gives up").unwrap();
    let runs = bench.store.runs(&schedule.id, None, 10).await.unwrap();
    assert_eq!((runs[0].state, runs[0].problem.as_ref().unwrap().code.as_str()), (RunState::Failed, "acceptance_timeout"));
    // The next one is tried.
    bench.store.advance_clock(Duration::from_secs(3600));
    scheduler(&bench.store, Jobs::all(bench.store.clone())).step().await;
    assert_eq!(bench.store.runs(&schedule.id, None, 10).await.unwrap()[0].state, RunState::Started);
}

/// A process that fires schedules; dropped, it is killed.
struct Node {
    store: SqlStore,
    task: JoinHandle<()>,
}

impl Node {
    /// Its clock is turned as far as those of the others.
    async fn start(bench: &Bench, turned: Duration) -> Self {
        let store = bench.node().await;
        store.advance_clock(turned);
        let accept = Arc::new(Jobs { store: store.clone(), loses_one_in: 7, asked: AtomicU64::new(0) });
        let task = tokio::spawn(scheduler(&store, accept).run(CancellationToken::new()));
        Self { store, task }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A thousand seconds on three nodes that are killed and started again all the while, and lose some of their answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_with_restarts_make_one_job_of_each_of_a_thousand_fires() {
    const FIRES: usize = 1000;
    let bench = Bench::postgres().await;
    let seed: u64 = std::env::var("NIGHTSHIFT_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("NIGHTSHIFT_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let spec = spec("* * * * * *", "UTC", Overlap::Queue);
    let first = spec.next(bench.store.now().await.unwrap()).unwrap();
    let end_at = Some(Timestamp(first.0 + (FIRES as i64 - 1) * 1_000_000));
    let schedule = create(&bench.store, ScheduleSpec { end_at, ..spec }).await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Node::start(&bench, Duration::ZERO).await);
    }
    let (mut completed, mut restarts, mut turned) = (0, 0, Duration::ZERO);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(400);
    while completed < FIRES {
        assert!(tokio::time::Instant::now() < deadline, "{completed} jobs after {restarts} restarts");
        // When all fires have come, time goes on for the leases of nodes that were killed.
        let step = if turned.as_secs() < FIRES as u64 + 50 {
            Duration::from_secs(random.random_range(1..20))
        } else {
            Times::default().lease / 10
        };
        turned += step;
        std::iter::once(&bench.store).chain(nodes.iter().map(|node| &node.store)).for_each(|store| store.advance_clock(step));
        completed += complete_all(&bench.store).await;
        if random.random_range(0..8) == 0 {
            let node = random.random_range(0..3);
            nodes[node] = Node::start(&bench, turned).await;
            restarts += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    nodes.clear();
    assert!(restarts > 10, "{restarts}");

    let mut runs = Vec::new();
    let mut before = None;
    loop {
        let page = bench.store.runs(&schedule.id, before, 1000).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.fire_time);
        runs.extend(page);
    }
    runs.reverse();
    assert_eq!(runs.len(), FIRES);
    for (n, run) in runs.iter().enumerate() {
        assert_eq!(run.fire_time.0, first.0 + n as i64 * 1_000_000, "no fire is left out, and none is there twice");
        assert_eq!(run.state, RunState::Started, "{run:?}");
    }
    let jobs: BTreeSet<&JobId> = runs.iter().filter_map(|run| run.job.as_ref()).collect();
    assert_eq!(jobs.len(), FIRES);
    for run in runs.iter().step_by(50) {
        let job = bench.store.job(run.job.as_ref().unwrap()).await.unwrap().unwrap();
        assert_eq!(job.fire.unwrap().time, run.fire_time);
    }
    let all = bench.store.jobs(&crate::db::JobFilter { limit: 100_000, ..Default::default() }).await.unwrap();
    assert_eq!(all.len(), FIRES, "no job is without its fire");
}

//! What recurring work costs the database when its tables are full.

use super::*;
use crate::db::sql::reads;

/// Jobs beside the one that is looked at, a quarter of each kind.
const JOBS: u32 = 100_000;
/// Schedules beside the one that is looked at, and fires of its own that are over.
const SCHEDULES: u32 = 1_000;
/// Far away.
const NEVER: i64 = 32_503_680_000_000_000;

impl Bench {
    /// Says a statement beside the store.
    async fn say(&self, statement: &str) {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        match &self.database {
            Database::Sqlite(path) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(TTL);
                let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
            }
            Database::Postgres { url, .. } => {
                let mut connection = sqlx::PgConnection::connect(url.expose()).await.unwrap();
                sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
            }
        }
    }

    /// Fills the tables with jobs that wait for others, that wait for an object, and that are over, with predictions or without, later
    /// than the run so far; with schedules none of which is due, with two fires each that are not; and with fires that are over.
    async fn fill(&self, schedule: &Schedule, run: Timestamp) {
        let (id, series) = match &self.database {
            Database::Sqlite(_) => (
                "printf('job_01980000000070008000%012d', n)",
                "(WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < LAST) SELECT n FROM s) AS s",
            ),
            Database::Postgres { .. } => ("'job_01980000000070008000' || to_char(n, 'FM000000000000')", "generate_series(1, LAST) AS n"),
        };
        let (jobs, schedules) = (series.replace("LAST", &JOBS.to_string()), series.replace("LAST", &SCHEDULES.to_string()));
        let (schedule, Timestamp(run)) = (&schedule.id, run);
        let case = |blocked: &str, looks: &str, over: &str, empty: &str| {
            format!("CASE n % 4 WHEN 0 THEN {blocked} WHEN 1 THEN {looks} WHEN 2 THEN {over} ELSE {empty} END")
        };
        let (state, finished) =
            (case("'queued'", "'queued'", "'completed'", "'completed'"), case("NULL", "NULL", &run.to_string(), &run.to_string()));
        let (blocked, look_at) = (case("1", "0", "0", "0"), case("0", &NEVER.to_string(), "NULL", "NULL"));
        let (deadline, succeeded) = (case("NULL", &NEVER.to_string(), "NULL", "NULL"), case("0", "0", "10", "0"));
        let fire = case("NULL", "NULL", &format!("{run} - n"), &format!("{run} + n"));
        let of = case("NULL", "NULL", &format!("'{schedule}'"), &format!("'{schedule}'"));
        let awaited = "CASE n WHEN 1 THEN 1 ELSE 0 END";
        for statement in [
            format!(
                "INSERT INTO job (id, spec, model, pipeline, labels, output, state, priority, plan, usage, created_at, finished_at, blocked, \
                 look_at, deadline_at, succeeded, fire_at, schedule_id, only_new, covered, plan_done, awaited) \
                 SELECT {id}, '', '', '', '', 's3://lake/' || (n * 7919 % 100003) || '/', {state}, 0, '', '', n, {finished}, {blocked}, {look_at}, {deadline}, {succeeded}, {fire}, {of}, \
                 {}, {}, {}, {awaited} FROM {jobs}",
                case("0", "0", "1", "1"),
                case("0", "0", "2", "2"),
                case("0", "0", "1", "1"),
            ),
            "INSERT INTO job_dependency (job_id, parent_id) SELECT id, (SELECT min(id) FROM job WHERE awaited = 1) FROM job WHERE blocked = 1".to_owned(),
            format!("INSERT INTO schedule (id, spec, overlap, next_at, created_at, updated_at) SELECT {id}, '', 'skip', {NEVER}, n, n FROM {schedules}"),
            format!(
                "INSERT INTO schedule_run (schedule_id, fire_at, state, due_at) \
                 SELECT id, fire_at, 'waiting', {NEVER} FROM schedule, (SELECT 1 AS fire_at UNION ALL SELECT 2) AS two WHERE id <> '{schedule}'"
            ),
            format!(
                "INSERT INTO schedule_run (schedule_id, fire_at, state, due_at, settled_at) SELECT '{schedule}', n, 'skipped', n, n FROM {schedules}"
            ),
        ] {
            self.say(&statement).await;
        }
        // As its autovacuum does; SQLite's planner is never told what the tables hold.
        if let Database::Postgres { .. } = &self.database {
            self.say("ANALYZE").await;
        }
    }

    /// Plans a job to one chunk, and runs that.
    async fn run(&self, id: &JobId) {
        let (lease, job) = self.store.claim_planning("p", TTL).await.unwrap().unwrap();
        assert_eq!(job.id, *id);
        let cursor = PlanCursor { done: true, ..PlanCursor::default() };
        assert_eq!(self.store.append_chunks(&lease, TTL, vec![slice("in/a")], &cursor).await.unwrap(), Written::Done);
        let chunk = self.claim_one().await;
        assert!(self.store.renew_chunks(std::slice::from_ref(&chunk), TTL).await.unwrap().is_empty());
        assert_eq!(self.store.commit_chunk(&chunk, &result(3, 1)).await.unwrap(), Written::Done);
    }

    /// A run of the schedule from its fire to the record of what it covered.
    async fn run_of(&self, schedule: &Schedule, earlier: &JobId) {
        self.minutes(1).await;
        let claimed = self.claim_run().await.unwrap();
        let id = self.make(&claimed).await;
        assert!(self.claim_run().await.is_none());
        let due = Some((earlier.clone(), Change::Add));
        assert_eq!(self.store.job_to_cover(&schedule.id).await.unwrap(), due);
        let entries = (0..3000).map(|n| Entry { name: format!("s3://lake/in/{n:05}.csv"), mark: 1 }).collect();
        self.store.cover(&schedule.id, earlier, Change::Add, entries).await.unwrap();
        self.store.job_is_covered(earlier, Change::Add).await.unwrap();
        self.run(&id).await;
        let (lease, job) = self.store.claim_finalizing("f", TTL).await.unwrap().unwrap();
        assert_eq!(self.store.earlier_run(&job).await.unwrap().map(|job| job.id).as_ref(), Some(earlier));
        assert_eq!(self.store.keep_drift(&lease, None).await.unwrap(), Written::Done);
        assert_eq!(self.store.finish_job(&lease, Ending::Completed, None).await.unwrap(), Written::Done);
        assert!(matches!(self.store.retry_job(&id).await.unwrap(), Retried::Job(_)));
        self.store.pause_job(&id).await.unwrap();
        self.store.resume_job(&id).await.unwrap();
        self.store.cancel_job(&id).await.unwrap();
        self.finalize(Ending::Cancelled).await;
        let of = JobFilter { schedule: Some(schedule.id.clone()), limit: 2, ..JobFilter::default() };
        assert_eq!(self.store.jobs(&of).await.unwrap().len(), 2);
        assert_eq!(self.store.runs(&schedule.id, None, 50).await.unwrap().len(), 50);
    }

    /// A job that waits for another one and then for an object.
    async fn chain(&self) {
        let parent = self.create(new_job("s3://lake/p/")).await;
        let mut child = waiting("s3://lake/c/", 10_000);
        child.spec.depends_on = vec![parent.clone()];
        let child = self.create(child).await;
        assert!(self.store.claim_waiting("p", TTL).await.unwrap().is_none());
        assert_eq!(self.settle().await, 0);
        self.run(&parent).await;
        self.finalize(Ending::Completed).await;
        assert!(self.settle().await > 0);
        let (lease, job) = self.store.claim_waiting("p", TTL).await.unwrap().unwrap();
        assert_eq!(job.id, child);
        assert_eq!(self.store.wait_again(&lease).await.unwrap(), Written::Done);
        self.advance(Duration::from_secs(100));
        let (lease, _) = self.store.claim_waiting("p", TTL).await.unwrap().unwrap();
        assert_eq!(self.store.wait_is_over(&lease).await.unwrap(), Written::Done);
        self.run(&child).await;
        let running = self.store.progress(&Followed::Running(10)).await.unwrap();
        assert_eq!(running.into_iter().map(|progress| progress.job).collect::<Vec<_>>(), [child]);
        self.finalize(Ending::Completed).await;
    }

    /// What is looked at again and again while there is nothing to do.
    async fn look(&self) {
        assert!(!self.store.is_quiet().await.unwrap());
        assert!(self.store.expire_jobs().await.unwrap().is_empty());
        assert!(self.store.claim_planning("p", TTL).await.unwrap().is_none());
        assert!(self.store.claim_waiting("p", TTL).await.unwrap().is_none());
        assert!(self.store.claim_finalizing("f", TTL).await.unwrap().is_none());
        assert!(self.claim(10).await.is_empty());
        assert_eq!(self.store.purge(Duration::from_secs(86_400), 10).await.unwrap(), 0);
    }
}

/// On one thread, whose statements are heard.
async fn nothing_reads_what_waits_or_is_over(b: Bench, most: u64) {
    let schedule = b.schedule(Overlap::Queue).await;
    b.minutes(1).await;
    let claimed = b.claim_run().await.unwrap();
    let first = b.make(&claimed).await;
    b.run(&first).await;
    b.finalize(Ending::Completed).await;
    b.fill(&schedule, claimed.run.fire_time).await;
    let reads = reads(&b.database, async {
        b.run_of(&schedule, &first).await;
        b.chain().await;
        b.look().await;
    })
    .await;
    assert!(reads.len() > 100, "{}", reads.len());
    let much: Vec<String> = reads.iter().filter(|(_, read)| *read > most).map(|(statement, read)| format!("{read}: {statement}")).collect();
    assert!(much.is_empty(), "{}", much.join("\n"));
}

/// Steps of a virtual machine: some for each column of each row.
#[tokio::test]
async fn in_sqlite_recurring_work_reads_nothing_of_what_waits_or_is_over() {
    nothing_reads_what_waits_or_is_over(Bench::sqlite().await, 50_000).await;
}

/// Rows that nodes of a plan look at, one above the other: a schedule's own fires, of which it keeps so many, are counted four times.
#[tokio::test]
async fn in_postgres_recurring_work_reads_nothing_of_what_waits_or_is_over() {
    nothing_reads_what_waits_or_is_over(Bench::postgres().await, 5_000).await;
}

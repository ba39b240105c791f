//! State changes, and how far jobs are.

use super::*;

impl Bench {
    async fn states(&self, job: Option<&JobId>, after: i64) -> Vec<(JobId, JobState)> {
        let changes = self.store.changes(job, after, 1000).await.unwrap();
        assert!(changes.is_sorted_by(|a, b| a.seq < b.seq), "{changes:?}");
        changes.into_iter().map(|change| (change.job.id, change.job.state)).collect()
    }
}

async fn every_state_that_a_job_comes_to_is_kept_in_its_order(b: Bench) {
    use JobState as S;
    assert_eq!(b.store.last_change().await.unwrap(), 0);
    let id = b.planned(new_job("s3://lake/out/"), 2).await;
    b.store.pause_job(&id).await.unwrap();
    b.store.pause_job(&id).await.unwrap();
    b.store.resume_job(&id).await.unwrap();
    for lease in b.claim(5).await {
        assert_eq!(b.store.commit_chunk(&lease.lease, &result(3, 1)).await.unwrap(), Written::Done);
    }
    b.finalize(Ending::Completed).await;
    b.store.retry_job(&id).await.unwrap();
    b.store.cancel_job(&id).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    let states: Vec<JobState> = b.states(Some(&id), 0).await.into_iter().map(|(_, state)| state).collect();
    let first = [S::Queued, S::Validating, S::InProgress, S::Paused, S::InProgress, S::Finalizing, S::Completed];
    assert_eq!(states, [&first[..], &[S::InProgress, S::Cancelling, S::Cancelled]].concat());
    let changes = b.store.changes(Some(&id), 0, 7).await.unwrap();
    let done = &changes[6];
    assert_eq!((done.job.counts.succeeded, done.job.counts.chunks_done, done.job.finished_at), (6, 2, Some(done.at)));
    assert_eq!(b.states(Some(&id), done.seq).await.len(), 3, "and what comes after a number is what comes after it");
}

async fn an_error_stands_in_the_change_that_ends_the_job(b: Bench) {
    let id = b.create(new_job("s3://lake/out/")).await;
    b.store.fail_job(&id, &problem()).await.unwrap();
    b.finalize(Ending::Failed).await;
    let changes = b.store.changes(Some(&id), 0, 10).await.unwrap();
    let last = changes.last().unwrap();
    assert_eq!((last.job.state, last.job.error.clone()), (JobState::Failed, Some(("oops".to_owned(), "It broke".to_owned()))));
}

async fn changes_of_one_job_and_of_all_are_the_same_ones(b: Bench) {
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(b.planned(new_job(&format!("s3://lake/{n}/")), 1).await);
    }
    let all = b.states(None, 0).await;
    assert_eq!(all.len(), 9);
    for id in &ids {
        let own: Vec<_> = all.iter().filter(|(job, _)| job == id).cloned().collect();
        assert_eq!(b.states(Some(id), 0).await, own);
    }
    let last = b.store.last_change().await.unwrap();
    assert_eq!(b.states(None, last).await, []);
}

async fn a_job_that_is_removed_takes_its_changes_with_it(b: Bench) {
    let id = b.create(new_job("s3://lake/out/")).await;
    b.store.cancel_job(&id).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    b.advance(Duration::from_secs(60));
    while b.store.purge(Duration::from_secs(1), 10).await.unwrap() > 0 {}
    assert_eq!(b.states(None, 0).await, []);
    b.create(new_job("s3://lake/out/")).await;
    let seq = b.store.changes(None, 0, 1).await.unwrap()[0].seq;
    assert!(seq > 3, "no number is given twice: {seq}");
}

async fn how_far_jobs_are_is_read_without_their_documents(b: Bench) {
    let mut new = new_job("s3://lake/1/");
    new.spec.labels = BTreeMap::from([("team".to_owned(), "risk".to_owned())]);
    let first = b.planned(new, 4).await;
    let waiting = b.create(new_job("s3://lake/2/")).await;
    let lease = b.claim_one().await;
    assert_eq!(b.store.commit_chunk(&lease, &result(3, 1)).await.unwrap(), Written::Done);
    let of = Followed::Jobs(vec![first.clone(), waiting.clone(), JobId::generate()]);
    let mut found = b.store.progress(&of).await.unwrap();
    found.sort_by(|a, b| a.job.cmp(&b.job));
    let jobs = [b.job(&first).await, b.job(&waiting).await];
    assert_eq!(found, [Progress::of(&jobs[0]), Progress::of(&jobs[1])]);
    assert_eq!((found[0].share(), found[0].counts.succeeded, found[0].planned), (0.25, 3, true));
    let running = b.store.progress(&Followed::Running(10)).await.unwrap();
    assert_eq!(running, found[..1], "a job that waits has nothing to show");
}

on_both_databases! {
    every_state_that_a_job_comes_to_is_kept_in_its_order,
    an_error_stands_in_the_change_that_ends_the_job,
    changes_of_one_job_and_of_all_are_the_same_ones,
    a_job_that_is_removed_takes_its_changes_with_it,
    how_far_jobs_are_is_read_without_their_documents,
}

/// Four nodes change states while a reader only ever asks for what comes after the last that it saw.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_on_after_the_last_number_misses_no_change_of_any_node() {
    let b = Bench::postgres().await;
    let mut writers = Vec::new();
    for node in 0..4 {
        let store = SqlStore::open(&b.database).await.unwrap();
        for writer in 0..4 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                for n in 0..15 {
                    let Created::Job(job) = store.create_job(new_job(&format!("s3://lake/{node}/{writer}/{n}/"))).await.unwrap() else {
                        panic!("nobody else writes there");
                    };
                    store.pause_job(&job.id).await.unwrap();
                    store.resume_job(&job.id).await.unwrap();
                    store.cancel_job(&job.id).await.unwrap();
                }
            }));
        }
    }
    let (mut seen, mut last) = (Vec::new(), 0);
    let mut over = false;
    loop {
        let writing = writers.iter().any(|writer| !writer.is_finished());
        let found = b.store.changes(None, last, 7).await.unwrap();
        last = found.last().map_or(last, |change| change.seq);
        let none = found.is_empty();
        seen.extend(found.into_iter().map(|change| change.seq));
        if over && none {
            break;
        }
        over = !writing;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let all: Vec<i64> = b.store.changes(None, 0, 10_000).await.unwrap().into_iter().map(|change| change.seq).collect();
    assert_eq!((all.len(), seen.len()), (16 * 15 * 4, 16 * 15 * 4));
    assert_eq!(seen, all);
}

/// A change that has its number and is not committed yet holds up those that would get a higher one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_becomes_visible_before_one_with_a_lower_number() {
    let b = Bench::postgres().await;
    let id = b.create(new_job("s3://lake/out/")).await;
    let Database::Postgres { url, .. } = &b.database else { unreachable!() };
    let mut slow = sqlx::PgConnection::connect(url.expose()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(1314087784)").execute(&mut slow).await.unwrap();
    let slow_one = "INSERT INTO state_change (job_id, data, at) SELECT job_id, data, at FROM state_change WHERE job_id = $1 RETURNING seq";
    let number: i64 = sqlx::query_scalar(slow_one).bind(id.as_str()).fetch_one(&mut slow).await.unwrap();
    let store = b.store.clone();
    let quick = tokio::spawn(async move { store.create_job(new_job("s3://lake/quick/")).await.unwrap() });
    // The quick one waits for the slow one's end: for nothing else than this lock.
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 1314087784 \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut slow).await.unwrap() == 0 {
        assert!(!quick.is_finished(), "it overtook a change that is not committed yet");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seen = b.store.last_change().await.unwrap();
    assert!(seen < number);
    sqlx::raw_sql("COMMIT").execute(&mut slow).await.unwrap();
    quick.await.unwrap();
    let after: Vec<i64> = b.store.changes(None, seen, 10).await.unwrap().into_iter().map(|change| change.seq).collect();
    assert_eq!(after, [number, number + 1]);
}

//! What requests rely on: keys, pauses, retries, lists.

use super::*;

fn key(text: &str, fingerprint: &str) -> Option<IdempotencyKey> {
    Some(IdempotencyKey { key: text.to_owned(), fingerprint: fingerprint.to_owned() })
}

async fn a_key_makes_one_job_and_is_for_one_request(b: Bench) {
    let new = |fingerprint| NewJob { key: key("k", fingerprint), ..new_job("s3://lake/out/") };
    assert!(b.store.replay(&key("k", "f").unwrap()).await.unwrap().is_none());
    let id = b.create(new("f")).await;
    // Its own output is claimed, and nobody says so.
    assert!(matches!(b.store.create_job(new("f")).await.unwrap(), Created::Replay(job) if job.id == id));
    assert!(matches!(b.store.create_job(new("g")).await.unwrap(), Created::KeyReused { by } if by == id));
    assert!(matches!(b.store.replay(&key("k", "f").unwrap()).await.unwrap(), Some(Created::Replay(job)) if job.id == id));
    assert!(matches!(b.store.replay(&key("k", "g").unwrap()).await.unwrap(), Some(Created::KeyReused { .. })));
    let other = NewJob { key: key("l", "f"), ..new_job("s3://lake/out/") };
    assert!(matches!(b.store.create_job(other).await.unwrap(), Created::OutputClaimed { .. }));
    assert!(b.store.replay(&key("l", "f").unwrap()).await.unwrap().is_none(), "a refused request leaves no key");
}

async fn fifty_callers_with_one_key_make_one_job(b: Bench) {
    let calls = (0..50).map(|_| {
        let store = b.store.clone();
        tokio::spawn(async move { store.create_job(NewJob { key: key("k", "f"), ..new_job("s3://lake/out/") }).await.unwrap() })
    });
    let mut ids = BTreeSet::new();
    let mut made = 0;
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Created::Job(job) => {
                made += 1;
                ids.insert(job.id);
            }
            Created::Replay(job) => drop(ids.insert(job.id)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ids.len(), made), (1, 1));
}

async fn keys_are_kept_for_a_day_and_not_for_ever(b: Bench) {
    let new = |n: usize| NewJob { key: key(&format!("k{n}"), "f"), ..new_job(&format!("s3://lake/{n}/")) };
    for n in 0..30 {
        b.create(new(n)).await;
    }
    b.advance(KEY_LIFE - Duration::from_secs(60));
    b.create(new(30)).await;
    for n in 0..30 {
        assert!(b.store.replay(new(n).key.as_ref().unwrap()).await.unwrap().is_some(), "{n}");
    }
    b.advance(Duration::from_secs(120));
    b.create(new(31)).await;
    b.create(new(32)).await;
    for n in 0..30 {
        assert!(b.store.replay(new(n).key.as_ref().unwrap()).await.unwrap().is_none(), "{n}");
    }
    assert!(b.store.replay(new(30).key.as_ref().unwrap()).await.unwrap().is_some());
}

async fn of_a_paused_job_nothing_is_begun_and_what_runs_is_kept(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 3).await;
    let running = b.claim_one().await;
    for _ in 0..2 {
        assert!(matches!(b.store.pause_job(&id).await.unwrap(), Changed::Job(job) if job.state == JobState::Paused), "twice is no error");
    }
    assert!(b.job(&id).await.breaks.paused_at.is_some());
    assert!(b.claim(5).await.is_empty());
    assert!(b.store.renew_chunks(std::slice::from_ref(&running), TTL).await.unwrap().is_empty(), "what runs is not told to stop");
    assert_eq!(b.store.commit_chunk(&running, &result(2, 0)).await.unwrap(), Written::Done);
    assert_eq!((b.state(&id).await, b.job(&id).await.counts.chunks_done), (JobState::Paused, 1));
    b.advance(Duration::from_secs(3600));
    assert!(matches!(b.store.resume_job(&id).await.unwrap(), Changed::Job(job) if job.state == JobState::InProgress));
    assert!(matches!(b.store.resume_job(&id).await.unwrap(), Changed::Job(_)), "twice is no error");
    let job = b.job(&id).await;
    assert!(job.breaks.paused_at.is_none() && job.breaks.idle_us >= 3_600_000_000, "{:?}", job.breaks);
    for claimed in b.claim(5).await {
        let _written = b.store.commit_chunk(&claimed.lease, &result(1, 0)).await.unwrap();
    }
    b.finalize(Ending::Completed).await;
    let job = b.job(&id).await;
    assert!(job.wall_seconds(Timestamp::now()) < 600.0, "time in which it was paused is not time that it took");
    assert!(matches!(b.store.pause_job(&id).await.unwrap(), Changed::Conflict(_)));
    assert!(matches!(b.store.resume_job(&id).await.unwrap(), Changed::Conflict(_)));
    assert!(matches!(b.store.pause_job(&JobId::generate()).await.unwrap(), Changed::Missing));
}

async fn a_pause_fences_off_the_planner_and_planning_goes_on_from_its_cursor(b: Bench) {
    let id = b.create(new_job("s3://lake/out/")).await;
    b.store.pause_job(&id).await.unwrap();
    assert!(b.store.claim_planning("p", TTL).await.unwrap().is_none());
    assert!(matches!(b.store.resume_job(&id).await.unwrap(), Changed::Job(job) if job.state == JobState::Queued));
    let (planner, _) = b.store.claim_planning("p", TTL).await.unwrap().unwrap();
    let half = PlanCursor { after_key: Some("in/0".to_owned()), objects: 1, ..PlanCursor::default() };
    let _written = b.store.append_chunks(&planner, TTL, vec![slice("in/0")], &half).await.unwrap();
    b.store.pause_job(&id).await.unwrap();
    assert_eq!(b.store.append_chunks(&planner, TTL, vec![slice("in/1")], &half).await.unwrap(), Written::Fenced);
    assert_eq!(b.store.renew_job(&planner, TTL).await.unwrap(), Written::Fenced);
    assert!(matches!(b.store.resume_job(&id).await.unwrap(), Changed::Job(job) if job.state == JobState::InProgress));
    let (_, job) = b.store.claim_planning("q", TTL).await.unwrap().unwrap();
    assert_eq!((job.plan.next_seq, job.plan.after_key.as_deref()), (1, Some("in/0")));
}

async fn a_job_whose_last_chunk_was_done_while_it_was_paused_ends_when_it_is_resumed(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    let running = b.claim_one().await;
    b.store.pause_job(&id).await.unwrap();
    let _written = b.store.commit_chunk(&running, &result(1, 0)).await.unwrap();
    assert!(b.store.claim_finalizing("f", TTL).await.unwrap().is_none());
    assert!(matches!(b.store.resume_job(&id).await.unwrap(), Changed::Job(job) if job.state == JobState::Finalizing));
    b.finalize(Ending::Completed).await;
}

async fn a_paused_job_can_be_cancelled_expired_and_broken(b: Bench) {
    let id = b.planned(new_job("s3://lake/1/"), 1).await;
    b.store.pause_job(&id).await.unwrap();
    assert!(matches!(b.store.cancel_job(&id).await.unwrap(), Changed::Job(job) if job.state == JobState::Cancelling));
    b.finalize(Ending::Cancelled).await;

    let mut late = new_job("s3://lake/2/");
    late.spec.execution.deadline_seconds = Some(100);
    let id = b.planned(late, 1).await;
    b.store.pause_job(&id).await.unwrap();
    b.advance(Duration::from_secs(101));
    assert_eq!(b.store.expire_jobs().await.unwrap(), std::slice::from_ref(&id));
    b.finalize(Ending::Expired).await;

    let id = b.planned(new_job("s3://lake/3/"), 2).await;
    let running = b.claim_one().await;
    b.store.pause_job(&id).await.unwrap();
    let _written = b.store.fail_chunk(&running, &problem(), &Spent::default()).await.unwrap();
    b.finalize(Ending::Failed).await;
    assert!(b.job(&id).await.breaks.paused_at.is_none());
}

/// A job of three chunks that ended: one done, one not, and one that the ending cut off.
async fn ended(b: &Bench, ending: Ending) -> JobId {
    let mut new = new_job("s3://lake/out/");
    new.spec.execution.deadline_seconds = Some(1000);
    let id = b.planned(new, 3).await;
    let leases: Vec<ChunkLease> = b.claim(2).await.into_iter().map(|c| c.lease).collect();
    let _written = b.store.commit_chunk(&leases[0], &result(5, 2)).await.unwrap();
    match ending {
        Ending::Failed => drop(b.store.fail_chunk(&leases[1], &problem(), &Spent::default()).await.unwrap()),
        Ending::Cancelled => {
            b.store.cancel_job(&id).await.unwrap();
            let _written = b.store.release_chunk(&leases[1], &Spent::default()).await.unwrap();
        }
        Ending::Expired => {
            let _written = b.store.retry_chunk(&leases[1], &problem(), TTL, &Spent::default()).await.unwrap();
            b.advance(Duration::from_secs(1001));
            b.store.expire_jobs().await.unwrap();
        }
        Ending::Completed => unreachable!("not an early end"),
    }
    b.finalize(ending).await;
    id
}

async fn a_retry_runs_what_is_not_done_and_keeps_what_is(b: Bench) {
    for ending in [Ending::Failed, Ending::Cancelled, Ending::Expired] {
        let id = ended(&b, ending).await;
        assert_eq!(b.state(&id).await, ending.state());
        let Retried::Job(job) = b.store.retry_job(&id).await.unwrap() else { panic!("{ending:?}") };
        assert_eq!((job.state, job.ending, &job.error, job.finished_at, job.breaks.retries), (JobState::InProgress, None, &None, None, 1));
        assert_eq!((job.counts.chunks_done, job.counts.succeeded, job.counts.failed), (1, 5, 2));
        assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Conflict(_)), "it runs already");
        b.advance(Duration::from_secs(500));
        assert!(b.store.expire_jobs().await.unwrap().is_empty(), "a deadline that had passed counts anew");
        let again = b.claim(5).await;
        assert_eq!(again.iter().map(|c| c.chunk.id.seq).collect::<Vec<_>>(), [1, 2], "{ending:?}");
        assert!(
            again.iter().all(|c| c.chunk.failures == 0 && c.chunk.crashes == 0 && c.chunk.isolation.is_none() && c.chunk.error.is_none())
        );
        for claimed in again {
            assert_eq!(b.store.commit_chunk(&claimed.lease, &result(1, 0)).await.unwrap(), Written::Done);
        }
        b.finalize(Ending::Completed).await;
        let counts = b.job(&id).await.counts;
        assert_eq!((counts.chunks_done, counts.succeeded, counts.failed), (3, 7, 2));
    }
}

async fn a_retry_of_a_completed_job_runs_the_chunks_with_error_rows_and_corrects_the_counts(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 3).await;
    let mut old = Vec::new();
    for (claimed, failed) in b.claim(3).await.into_iter().zip([0, 4, 0]) {
        let _written = b.store.commit_chunk(&claimed.lease, &result(10, failed)).await.unwrap();
        old.push(claimed.lease);
    }
    b.finalize(Ending::Completed).await;
    let Retried::Job(job) = b.store.retry_job(&id).await.unwrap() else { panic!() };
    assert_eq!((job.counts.chunks_done, job.counts.succeeded, job.counts.failed, job.usage.bytes_read), (2, 20, 0, 20));
    let again = b.claim(5).await;
    assert_eq!(again.iter().map(|c| c.chunk.id.seq).collect::<Vec<_>>(), [1]);
    assert_eq!(b.store.commit_chunk(&old[1], &result(99, 0)).await.unwrap(), Written::Fenced, "who ran it before is fenced off");
    let _written = b.store.commit_chunk(&again[0].lease, &result(14, 0)).await.unwrap();
    b.finalize(Ending::Completed).await;
    let job = b.job(&id).await;
    assert_eq!((job.counts.succeeded, job.counts.failed, job.usage.bytes_read), (34, 0, 30));
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Nothing));
    assert_eq!(b.state(&id).await, JobState::Completed);
    assert!(matches!(b.store.retry_job(&JobId::generate()).await.unwrap(), Retried::Missing));
}

async fn a_retry_of_a_job_that_failed_by_its_error_rows_runs_them_again(b: Bench) {
    let mut strict = new_job("s3://lake/out/");
    strict.spec.error_policy.max_failed_ratio = Some(0.1);
    let id = b.planned(strict, 2).await;
    for (claimed, failed) in b.claim(2).await.into_iter().zip([0, 8]) {
        let _written = b.store.commit_chunk(&claimed.lease, &result(10, failed)).await.unwrap();
    }
    b.finalize(Ending::Failed).await;
    let Retried::Job(job) = b.store.retry_job(&id).await.unwrap() else { panic!() };
    assert_eq!((job.error, job.counts.failed, job.counts.succeeded), (None, 0, 10));
    let again = b.claim_one().await;
    assert_eq!(again.chunk.seq, 1);
    let _written = b.store.commit_chunk(&again, &result(18, 0)).await.unwrap();
    b.finalize(Ending::Completed).await;

    let id = b.planned(new_job("s3://lake/2/"), 1).await;
    let lease = b.claim_one().await;
    let _written = b.store.commit_chunk(&lease, &result(0, 2)).await.unwrap();
    b.finalize(Ending::Failed).await;
    b.store.retry_job(&id).await.unwrap();
    let again = b.claim_one().await;
    let _written = b.store.commit_chunk(&again, &result(0, 2)).await.unwrap();
    let error = b.job(&id).await.error.unwrap();
    assert!(error.detail.contains("bad × 2"), "errors are counted anew: {}", error.detail);
}

async fn a_retry_claims_the_output_again_or_changes_nothing(b: Bench) {
    let id = ended(&b, Ending::Failed).await;
    let before = b.job(&id).await;
    let other = b.create(new_job("s3://lake/out/nested/")).await;
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::OutputClaimed { by, .. } if by == other));
    assert_eq!(b.job(&id).await, before);
    b.store.cancel_job(&other).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Job(_)));
    assert!(matches!(b.store.create_job(new_job("s3://lake/out/")).await.unwrap(), Created::OutputClaimed { by, .. } if by == id));
}

async fn a_retry_goes_on_with_planning_and_with_an_end_that_failed(b: Bench) {
    let id = b.create(new_job("s3://lake/1/")).await;
    let (_, _) = b.store.claim_planning("p", TTL).await.unwrap().unwrap();
    b.store.fail_job(&id, &problem()).await.unwrap();
    b.finalize(Ending::Failed).await;
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Job(job) if job.state == JobState::Queued));
    assert_eq!(b.store.claim_planning("p", TTL).await.unwrap().unwrap().1.id, id);

    let id = b.planned(new_job("s3://lake/2/"), 1).await;
    let lease = b.claim_one().await;
    let _written = b.store.commit_chunk(&lease, &result(1, 0)).await.unwrap();
    // The manifest could not be written.
    let (lease, _) = b.store.claim_finalizing("f", TTL).await.unwrap().unwrap();
    let _written = b.store.finish_job(&lease, Ending::Failed, Some(&problem())).await.unwrap();
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Job(job) if job.state == JobState::Finalizing));
    b.finalize(Ending::Completed).await;
}

async fn jobs_are_found_by_time_by_pause_and_by_all_of_their_labels(b: Bench) {
    let mut ids = Vec::new();
    let mut times = Vec::new();
    for i in 0..4 {
        let mut new = new_job(&format!("s3://lake/{i}/"));
        new.spec.labels =
            BTreeMap::from([("team", "risk"), ("run", if i % 2 == 0 { "a" } else { "b" })].map(|(k, v)| (k.into(), v.into())));
        let id = b.create(new).await;
        times.push(b.job(&id).await.created_at);
        ids.push(id);
        b.advance(Duration::from_secs(60));
    }
    let list = async |filter: JobFilter| {
        let found = b.store.jobs(&JobFilter { limit: 10, ..filter }).await.unwrap();
        found.into_iter().map(|job| ids.iter().position(|id| *id == job.id).unwrap()).collect::<Vec<_>>()
    };
    let between = JobFilter { created_after: Some(times[0]), created_before: Some(times[3]), ..Default::default() };
    assert_eq!(list(between).await, [2, 1]);
    assert_eq!(list(JobFilter { created_after: Some(times[1]), ..Default::default() }).await, [3, 2]);
    assert_eq!(list(JobFilter { created_before: Some(times[1]), ..Default::default() }).await, [0]);
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(list(JobFilter { labels: labels(&[("team", "risk"), ("run", "b")]), ..Default::default() }).await, [3, 1]);
    assert!(list(JobFilter { labels: labels(&[("team", "b")]), ..Default::default() }).await.is_empty());
    b.store.pause_job(&ids[1]).await.unwrap();
    assert_eq!(list(JobFilter { state: Some(JobState::Paused), ..Default::default() }).await, [1]);
    assert_eq!(list(JobFilter { state: Some(JobState::Queued), ..Default::default() }).await, [3, 2, 0]);
}

async fn equals_take_turns_even_where_one_chunk_runs_at_a_time(b: Bench) {
    let jobs = [b.planned(new_job("s3://lake/1/"), 3).await, b.planned(new_job("s3://lake/2/"), 3).await];
    let mut order = Vec::new();
    for _ in 0..6 {
        let lease = b.claim_one().await;
        order.push(jobs.iter().position(|id| *id == lease.chunk.job).unwrap());
        let _written = b.store.commit_chunk(&lease, &result(1, 0)).await.unwrap();
        b.advance(Duration::from_secs(1));
    }
    assert_eq!(order, [0, 1, 0, 1, 0, 1]);
}

async fn jobs_that_ended_long_ago_are_removed_with_all_that_is_theirs(b: Bench) {
    let day = Duration::from_secs(86_400);
    let mut labelled = new_job("s3://lake/old/");
    labelled.spec.labels.insert("team".to_owned(), "risk".to_owned());
    let old = b.planned(NewJob { key: key("k", "f"), ..labelled }, 5).await;
    for claimed in b.claim(5).await {
        let _written = b.store.commit_chunk(&claimed.lease, &result(1, 0)).await.unwrap();
    }
    b.finalize(Ending::Completed).await;
    let running = b.planned(new_job("s3://lake/running/"), 1).await;
    b.advance(day * 2);
    assert_eq!(b.store.purge(day * 3, 100).await.unwrap(), 0, "it ended less long ago");
    assert_eq!(b.store.purge(day, 2).await.unwrap(), 2, "step by step");
    assert!(b.store.job(&old).await.unwrap().is_none(), "from the first step on nobody sees it");
    assert!(matches!(b.store.retry_job(&old).await.unwrap(), Retried::Missing));
    assert!(b.store.jobs(&JobFilter { limit: 10, ..JobFilter::default() }).await.unwrap().iter().all(|job| job.id == running));
    assert_eq!(b.store.purge(day * 3, 100).await.unwrap(), 4, "what was begun is ended: three chunks and the job");
    assert_eq!(b.store.purge(day, 100).await.unwrap(), 0, "a job that runs stays, however old");
    assert!(b.store.replay(&key("k", "f").unwrap()).await.unwrap().is_none());
    assert_eq!(b.state(&running).await, JobState::InProgress);
}

async fn a_job_has_another_version_after_each_of_its_changes(b: Bench) {
    let id = b.create(new_job("s3://lake/out/")).await;
    let (mut versions, mut before) = (Vec::new(), None);
    for step in 0..6 {
        match step {
            1 => {
                let (lease, _) = b.store.claim_planning("p", TTL).await.unwrap().unwrap();
                let cursor = PlanCursor { objects: 1, done: true, ..PlanCursor::default() };
                let _written = b.store.append_chunks(&lease, TTL, vec![slice("in/0")], &cursor).await.unwrap();
            }
            2 => drop(b.store.pause_job(&id).await.unwrap()),
            3 => drop(b.store.resume_job(&id).await.unwrap()),
            4 => {
                let lease = b.claim_one().await;
                let _written = b.store.commit_chunk(&lease, &result(2, 1)).await.unwrap();
            }
            5 => b.finalize(Ending::Completed).await,
            _ => {}
        }
        let version = b.store.job_version(&id).await.unwrap();
        assert!(version.is_some() && !versions.contains(&version), "{step}: {version:?} after {versions:?}");
        let (job, with) = b.store.versioned_job(&id).await.unwrap().unwrap();
        let job = format!("{job:?}");
        assert_eq!((with, b.store.job_version(&id).await.unwrap()), (version, version), "reading it does not change it");
        assert_ne!(before.as_ref(), Some(&job), "{step}");
        versions.push(version);
        before = Some(job);
    }
}

on_both_databases! {
    a_job_has_another_version_after_each_of_its_changes,
    a_retry_runs_what_is_not_done_and_keeps_what_is,
    jobs_that_ended_long_ago_are_removed_with_all_that_is_theirs,
    a_key_makes_one_job_and_is_for_one_request,
    fifty_callers_with_one_key_make_one_job,
    keys_are_kept_for_a_day_and_not_for_ever,
    of_a_paused_job_nothing_is_begun_and_what_runs_is_kept,
    a_pause_fences_off_the_planner_and_planning_goes_on_from_its_cursor,
    a_job_whose_last_chunk_was_done_while_it_was_paused_ends_when_it_is_resumed,
    a_paused_job_can_be_cancelled_expired_and_broken,
    a_retry_of_a_completed_job_runs_the_chunks_with_error_rows_and_corrects_the_counts,
    a_retry_of_a_job_that_failed_by_its_error_rows_runs_them_again,
    a_retry_claims_the_output_again_or_changes_nothing,
    a_retry_goes_on_with_planning_and_with_an_end_that_failed,
    jobs_are_found_by_time_by_pause_and_by_all_of_their_labels,
    equals_take_turns_even_where_one_chunk_runs_at_a_time,
}

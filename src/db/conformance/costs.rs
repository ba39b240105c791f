//! What jobs cost: charges, budgets, sums by day, rates.

use super::*;
use crate::domain::{Budget, Estimate, cost::Basis};

/// Attempts cost a hundredth of a euro a second here.
fn spent(device_seconds: f64) -> Spent {
    Spent { device_seconds, cost: device_seconds / 100.0, currency: Some("EUR".to_owned()) }
}

fn paid(succeeded: u64, device_seconds: f64) -> ChunkResult {
    let mut result = result(succeeded, 0);
    result.usage.provider = "cpu".to_owned();
    result.usage.charge(&spent(device_seconds));
    result
}

fn with_budget(output: &str, max_cost: f64) -> NewJob {
    let new = new_job(output);
    NewJob { spec: JobSpec { budget: Some(Budget { max_cost }), ..new.spec }, ..new }
}

fn labelled(output: &str, labels: &[(&str, &str)]) -> NewJob {
    let new = new_job(output);
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    NewJob { spec: JobSpec { labels, ..new.spec }, ..new }
}

fn about(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() < 1e-9
}

async fn report(b: &Bench, by: UsageBy) -> UsageReport {
    b.store.usage(&UsageFilter { by, from_day: 0, to_day: 1_000_000, limit: 100 }).await.unwrap()
}

async fn every_attempt_is_charged_and_what_came_to_nothing_is_told_apart(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    let _written = b.store.retry_chunk(&b.claim_one().await, &problem(), Duration::ZERO, &spent(1.0)).await.unwrap();
    let _written = b.store.crash_chunk(&b.claim_one().await, &problem(), None, &spent(2.0)).await.unwrap();
    let _written = b.store.release_chunk(&b.claim_one().await, &spent(4.0)).await.unwrap();
    // Two that lost their lease: one with a part, one without. The later one says so first.
    let first = b.claim_one().await;
    b.advance(TTL * 2);
    let second = b.claim_one().await;
    b.advance(TTL * 2);
    let lease = b.claim_one().await;
    assert_eq!(b.store.retry_chunk(&second, &problem(), Duration::ZERO, &spent(16.0)).await.unwrap(), Written::Fenced);
    assert_eq!(b.store.commit_chunk(&first, &paid(3, 8.0)).await.unwrap(), Written::Fenced);
    assert_eq!(b.store.commit_chunk(&lease, &paid(3, 32.0)).await.unwrap(), Written::Done);
    // The answer was lost, and it is said again.
    assert_eq!(b.store.commit_chunk(&lease, &paid(3, 32.0)).await.unwrap(), Written::Done);
    let usage = b.job(&id).await.usage;
    assert!(about(usage.device_seconds, 63.0) && about(usage.retry_device_seconds, 31.0), "{usage:?}");
    assert!(about(usage.cost, 0.63) && about(usage.retry_cost, 0.31) && usage.currency.as_deref() == Some("EUR"), "{usage:?}");
}

async fn an_end_that_is_said_again_because_its_answer_was_lost_is_charged_once(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    let late = b.claim_one().await;
    b.advance(TTL * 2);
    let ends = [Written::Done, Written::Fenced];
    let lease = b.claim_one().await;
    for end in ends {
        assert_eq!(b.store.retry_chunk(&lease, &problem(), Duration::ZERO, &spent(1.0)).await.unwrap(), end);
    }
    let lease = b.claim_one().await;
    for end in ends {
        assert_eq!(b.store.crash_chunk(&lease, &problem(), None, &spent(2.0)).await.unwrap(), end);
    }
    let lease = b.claim_one().await;
    for end in ends {
        assert_eq!(b.store.release_chunk(&lease, &spent(4.0)).await.unwrap(), end);
    }
    for _ in 0..2 {
        assert_eq!(b.store.commit_chunk(&late, &paid(3, 8.0)).await.unwrap(), Written::Fenced);
    }
    let lease = b.claim_one().await;
    for end in ends {
        assert_eq!(b.store.fail_chunk(&lease, &problem(), &spent(16.0)).await.unwrap(), end);
    }
    let usage = b.job(&id).await.usage;
    assert!(about(usage.device_seconds, 31.0) && about(usage.retry_device_seconds, 31.0), "{usage:?}");
    // The next attempt at the same chunk is another one.
    b.finalize(Ending::Failed).await;
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Job(_)));
    let _written = b.store.release_chunk(&b.claim_one().await, &spent(32.0)).await.unwrap();
    assert!(about(b.job(&id).await.usage.device_seconds, 63.0));
}

async fn a_failed_chunk_charges_its_job_too(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 2).await;
    let _written = b.store.fail_chunk(&b.claim_one().await, &problem(), &spent(5.0)).await.unwrap();
    let job = b.job(&id).await;
    assert!(job.state == JobState::Finalizing && about(job.usage.retry_cost, 0.05), "{job:?}");
}

async fn a_budget_breaks_a_job_that_has_work_left_and_keeps_what_is_done(b: Bench) {
    let id = b.planned(with_budget("s3://lake/out/", 0.25), 3).await;
    let leases: Vec<ChunkLease> = b.claim(2).await.into_iter().map(|claimed| claimed.lease).collect();
    assert_eq!(b.store.commit_chunk(&leases[0], &paid(3, 20.0)).await.unwrap(), Written::Done);
    assert_eq!(b.state(&id).await, JobState::InProgress, "within its budget");
    let _written = b.store.retry_chunk(&leases[1], &problem(), Duration::ZERO, &spent(10.0)).await.unwrap();
    let job = b.job(&id).await;
    assert_eq!((job.state, job.error.as_ref().map(|e| e.code.as_str())), (JobState::Finalizing, Some("budget_exceeded")));
    assert_eq!((job.ending, job.counts.chunks_done), (Some(Ending::Failed), 1));
    assert!(b.claim(5).await.is_empty(), "nothing more is begun");
}

async fn a_budget_does_not_fail_a_job_that_is_done(b: Bench) {
    let id = b.planned(with_budget("s3://lake/out/", 0.25), 1).await;
    assert_eq!(b.store.commit_chunk(&b.claim_one().await, &paid(3, 100.0)).await.unwrap(), Written::Done);
    b.finalize(Ending::Completed).await;
    assert!(b.state(&id).await == JobState::Completed && about(b.job(&id).await.usage.cost, 1.0));
}

async fn sums_are_those_of_the_jobs_that_ended_by_label_model_and_day(b: Bench) {
    for (n, labels) in
        [[("team", "risk"), ("schedule", "nightly")], [("team", "risk"), ("run", "b")], [("run", "c"), ("x", "y")]].iter().enumerate()
    {
        let id = b.planned(labelled(&format!("s3://lake/{n}/"), labels), 1).await;
        assert!(report(&b, UsageBy::Day).await.total.iter().all(|(_, sums)| sums.jobs == n as i64), "{id} has not ended");
        let _written = b.store.crash_chunk(&b.claim_one().await, &problem(), None, &spent(1.0)).await.unwrap();
        let _written = b.store.commit_chunk(&b.claim_one().await, &paid(10, 10.0 * (n + 1) as f64)).await.unwrap();
        b.finalize(Ending::Completed).await;
        b.advance(Duration::from_secs(24 * 3600));
    }
    let teams = report(&b, UsageBy::Label("team".to_owned())).await;
    let [risk] = teams.items.as_slice() else { panic!("{teams:?}") };
    assert_eq!((risk.group.as_str(), risk.currency.as_deref(), risk.sums.jobs, risk.sums.records), ("risk", Some("EUR"), 2, 20));
    assert!(about(risk.sums.device_seconds, 32.0) && about(risk.sums.cost, 0.32) && about(risk.sums.retry_cost, 0.02), "{risk:?}");
    assert_eq!((teams.total[0].1.jobs, teams.grouped[0].1.jobs), (3, 2));
    let days = report(&b, UsageBy::Day).await;
    let costs: Vec<f64> = days.items.iter().map(|day| day.sums.cost).collect();
    assert_eq!((costs.len(), costs.is_sorted_by(|a, b| a > b)), (3, true), "{days:?}");
    let day: i64 = days.items[0].group.parse().unwrap();
    let one = UsageFilter { by: UsageBy::Model, from_day: day, to_day: day, limit: 1 };
    let model = b.store.usage(&one).await.unwrap();
    assert!(model.items.len() == 1 && model.items[0].group == "s3://m/x/" && about(model.items[0].sums.cost, 0.31), "{model:?}");
    assert_eq!(report(&b, UsageBy::Schedule).await.items[0].group, "nightly");
    let limited = UsageFilter { by: UsageBy::Label("run".to_owned()), from_day: 0, to_day: 1_000_000, limit: 1 };
    let limited = b.store.usage(&limited).await.unwrap();
    assert!(limited.items.len() == 1 && limited.items[0].group == "c" && limited.grouped[0].1.jobs == 2, "{limited:?}");
}

async fn what_a_retry_adds_is_summed_once_and_outlives_the_job(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 2).await;
    let _written = b.store.commit_chunk(&b.claim_one().await, &paid(3, 10.0)).await.unwrap();
    let late = b.claim_one().await;
    b.advance(TTL * 2);
    let _written = b.store.fail_chunk(&b.claim_one().await, &problem(), &spent(5.0)).await.unwrap();
    b.finalize(Ending::Failed).await;
    // Of an attempt that reports when its job is over.
    assert_eq!(b.store.release_chunk(&late, &spent(1.0)).await.unwrap(), Written::Fenced);
    assert!(about(report(&b, UsageBy::Day).await.total[0].1.device_seconds, 16.0));
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Job(_)));
    let _written = b.store.commit_chunk(&b.claim_one().await, &paid(4, 20.0)).await.unwrap();
    b.finalize(Ending::Completed).await;
    let sums = report(&b, UsageBy::Day).await.total[0].1;
    assert_eq!((sums.jobs, sums.records), (1, 7));
    assert!(about(sums.device_seconds, 36.0) && about(sums.retry_device_seconds, 6.0), "{sums:?}");
    b.advance(Duration::from_secs(100));
    while b.store.purge(Duration::from_secs(10), 100).await.unwrap() > 0 {}
    assert!(b.store.job(&id).await.unwrap().is_none());
    assert_eq!(report(&b, UsageBy::Day).await.total[0].1, sums);
}

async fn work_that_is_done_anew_has_come_to_nothing(b: Bench) {
    let id = b.planned(new_job("s3://lake/out/"), 1).await;
    let mut bad = paid(3, 10.0);
    bad.failed = 1;
    let _written = b.store.commit_chunk(&b.claim_one().await, &bad).await.unwrap();
    b.finalize(Ending::Completed).await;
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Job(_)));
    let usage = b.job(&id).await.usage;
    assert!(about(usage.cost, 0.1) && about(usage.retry_cost, 0.1) && about(usage.retry_device_seconds, 10.0), "{usage:?}");
}

async fn a_job_is_expected_to_take_what_its_like_took(b: Bench) {
    let run = async |output: &str, bytes: u64| {
        let id = b.create(new_job(output)).await;
        let (lease, job) = b.store.claim_planning("p", TTL).await.unwrap().unwrap();
        let cursor = PlanCursor { objects: 1, bytes, done: true, ..PlanCursor::default() };
        let _written = b.store.append_chunks(&lease, TTL, vec![slice("in/0")], &cursor).await.unwrap();
        let chunk = b.claim_one().await;
        b.advance(Duration::from_secs(5));
        let _written = b.store.commit_chunk(&chunk, &paid(bytes / 10, bytes as f64 / 100.0)).await.unwrap();
        b.finalize(Ending::Completed).await;
        (job, b.job(&id).await.estimate)
    };
    let (job, none) = run("s3://lake/a/", 1000).await;
    assert_eq!(none, None, "nothing like it was run before");
    let (_, estimate) = run("s3://lake/b/", 3000).await;
    let Some(Estimate { basis: Basis::Measured, provider, seconds, device_seconds, cost, currency }) = estimate else { panic!() };
    assert_eq!((provider.as_str(), currency.as_deref()), ("cpu", Some("EUR")));
    assert!(about(device_seconds, 30.0) && about(cost.unwrap(), 0.3) && (15.0..60.0).contains(&seconds), "{seconds}");
    let (provider, rate) = b.store.rate("d", &job.pipeline, &[]).await.unwrap().unwrap();
    assert!(provider == "cpu" && about(rate.of_records("cpu", 1000).unwrap().device_seconds, 100.0), "{rate:?}");
    assert!(b.store.rate("d", &job.pipeline, &["cuda".to_owned()]).await.unwrap().is_none());
    let other = Pipeline { top_k: 3, ..job.pipeline.clone() };
    assert!(b.store.rate("d", &other, &[]).await.unwrap().is_none(), "another pipeline takes another time");
}

async fn nothing_is_unfinished_before_a_job_and_once_all_of_it_was_told(b: Bench) {
    assert!(b.store.is_quiet().await.unwrap());
    b.planned(new_job("s3://lake/out/"), 1).await;
    assert!(!b.store.is_quiet().await.unwrap());
    let _written = b.store.commit_chunk(&b.claim_one().await, &paid(1, 1.0)).await.unwrap();
    b.finalize(Ending::Completed).await;
    assert!(!b.store.is_quiet().await.unwrap(), "nobody was told");
    for pending in b.store.pending_events(10).await.unwrap() {
        let _written = b.store.fan_out(&pending.event, Vec::new()).await.unwrap();
    }
    assert!(b.store.is_quiet().await.unwrap());
}

on_both_databases! {
    nothing_is_unfinished_before_a_job_and_once_all_of_it_was_told,
    every_attempt_is_charged_and_what_came_to_nothing_is_told_apart,
    an_end_that_is_said_again_because_its_answer_was_lost_is_charged_once,
    a_failed_chunk_charges_its_job_too,
    a_budget_breaks_a_job_that_has_work_left_and_keeps_what_is_done,
    a_budget_does_not_fail_a_job_that_is_done,
    sums_are_those_of_the_jobs_that_ended_by_label_model_and_day,
    what_a_retry_adds_is_summed_once_and_outlives_the_job,
    work_that_is_done_anew_has_come_to_nothing,
    a_job_is_expected_to_take_what_its_like_took,
}

//! Promises 1 and 2: an accepted job survives `kill -9` of every process, and each record has exactly one outcome.

mod support;

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use support::{S3Server, Service, ServiceOptions, golden};

/// Kills of each kind.
const KILLS: usize = 20;
/// Rows of the table: enough that a job outlives its kills.
const ROWS: usize = 360_000;
/// Rows of one that has only to be under way.
const FEWER: usize = 80_000;

async fn submitted(rows: usize) -> (S3Server, Service, String, usize) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    let (text, bad) = golden::table(rows / 4);
    for object in 0..4 {
        s3.put("lake", &format!("in/{object}.csv"), text.as_bytes());
    }
    let options = ServiceOptions::default().arg("--chunk-slots", "2").arg("--lease-ttl", "3");
    let service = Service::start(&s3, options).await;
    let definition = json!({
        "model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/",
        "execution": {"chunk_records": 500, "batch_size": 64},
    });
    let id = service.submit(&definition).await;
    (s3, service, id, bad * 4)
}

async fn check(s3: &S3Server, service: &Service, id: &str, rows: usize, bad: usize) {
    let job = service.wait(id, Duration::from_secs(240)).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = golden::Output::read(s3, "lake", "out/");
    output.check_invariants();
    assert_eq!(output.rows.len(), rows - bad);
    assert_eq!(output.errors.len(), bad);
    assert_eq!(job["counts"]["records"]["succeeded"], rows - bad);
    assert_eq!(job["counts"]["records"]["failed"], bad);
    let input: Vec<(String, u64)> = (0..4).flat_map(|o| golden::csv_positions(s3, "lake", &format!("in/{o}.csv"))).collect();
    output.assert_one_outcome_each(&input);
}

#[tokio::test]
async fn a_server_killed_at_20_random_moments_loses_and_duplicates_nothing() {
    let (s3, mut service, id, bad) = submitted(ROWS).await;
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        assert!(!service.is_final(&id).await, "the job is too short for this test: it was over before kill {kill} (seed {seed})");
        service.kill9();
        service.restart().await;
    }
    check(&s3, &service, &id, ROWS, bad).await;
}

#[tokio::test]
async fn a_runner_killed_at_20_random_moments_loses_and_duplicates_nothing() {
    let (s3, service, id, bad) = submitted(ROWS).await;
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut killed = 0;
    while killed < KILLS {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        assert!(!service.is_final(&id).await, "the job is too short for this test: it was over before kill {killed} (seed {seed})");
        killed += usize::from(service.kill_runner());
    }
    check(&s3, &service, &id, ROWS, bad).await;
}

#[tokio::test]
async fn a_job_accepted_just_before_a_kill_is_there_after_it() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put("lake", "in/0.csv", golden::table(50).0.as_bytes());
    let mut service = Service::start(&s3, ServiceOptions::default()).await;
    let mut ids = Vec::new();
    for job in 0..10 {
        let definition = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/out/{job}/")});
        ids.push(service.submit(&definition).await);
        service.kill9();
        service.restart().await;
    }
    for id in ids {
        assert_eq!(service.wait(&id, Duration::from_secs(60)).await["state"], "completed");
    }
}

#[tokio::test]
async fn sigterm_ends_the_service_with_0_and_costs_no_attempt() {
    let (s3, mut service, id, bad) = submitted(FEWER).await;
    service.until(&id, |job| job["counts"]["chunks_done"].as_u64() > Some(2)).await;
    let status = service.terminate(Duration::from_secs(25)).await;
    assert_eq!(status, Some(0), "exit status");
    service.restart().await;
    check(&s3, &service, &id, FEWER, bad).await;
    let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
    assert!(chunks.iter().all(|c| c["failures"] == 0 && c["crashes"] == 0), "a drain must not count as an attempt");
}

#[tokio::test]
async fn a_second_signal_ends_the_service_at_once() {
    let s3 = S3Server::start().await;
    s3.put_fixture("models/broken/endless-loop.onnx", "lake", "model.onnx");
    s3.put("lake", "in/a.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    // With such a patience, the first signal alone would outlast the test.
    let mut service = Service::start(&s3, ServiceOptions::default().arg("--drain-timeout", "600")).await;
    let id = service.submit(&json!({"model": "s3://lake/model.onnx", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    service.until(&id, |job| job["state"] == "in_progress").await;
    service.ask_to_stop();
    while !service.log().contains("stopping: no new chunks") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(service.terminate(Duration::from_secs(10)).await, Some(130), "exit status");
    service.restart().await;
    let (status, job) = service.post(&format!("/v1/jobs/{id}/cancel"), &serde_json::Value::Null).await;
    assert_eq!(status, 202, "the job is still there: {job:#}");
    assert_eq!(service.wait(&id, Duration::from_secs(60)).await["state"], "cancelled");
}

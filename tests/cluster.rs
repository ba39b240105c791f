//! Several nodes on one PostgreSQL: whoever is asked, the same service answers.

mod support;

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, fixture, golden, postgres::database};

const PATIENCE: Duration = Duration::from_secs(60);

/// Two servers that run no chunks, and a worker.
async fn nodes(s3: &S3Server, options: ServiceOptions) -> [Service; 3] {
    let options = options.arg("--lease-ttl", "5").arg("--database-connections", "4").env("DATABASE_URL", &database().await);
    let server = options.clone().flag("--no-executor");
    [Service::start(s3, server.clone()).await, Service::start(s3, server).await, Service::start(s3, options.role("worker")).await]
}

fn loans(s3: &S3Server) -> Value {
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"})
}

#[tokio::test]
async fn a_job_is_accepted_by_one_node_run_by_another_and_told_by_a_third() {
    let s3 = S3Server::start().await;
    let definition = loans(&s3);
    let [first, second, worker] = nodes(&s3, ServiceOptions::default()).await;
    let id = first.submit(&definition).await;
    // The other node answers when the job ends, not when it looks again.
    let job = second.wait(&id, PATIENCE).await;
    assert_eq!((&job["state"], &job["counts"]["records"]["succeeded"]), (&json!("completed"), &json!(442)), "{job:#}");
    golden::Output::read(&s3, "lake", "out/").check_invariants();
    let chunk = &second.get_all(&format!("/v1/jobs/{id}/chunks")).await[0];
    let holder = chunk["worker"].as_str().expect("a worker");
    assert!(holder.contains(&format!(":{}:", worker.id().unwrap())), "{holder} ran it");
    assert!(first.runner_pids().is_empty() && second.runner_pids().is_empty(), "servers run no chunks");
    let (status, problem) = worker.get("/v1/jobs").await;
    assert_eq!((status, problem), (404, Value::Null), "a worker has no API");
    assert_eq!(worker.status("/metrics").await, 200);
    // A dry run needs no worker.
    let dry = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/dry/"});
    let (status, shown) = first.post("/v1/jobs?dry_run=true", &dry).await;
    assert_eq!(status, 200, "{shown:#}");
    assert!(shown["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "{shown:#}");
}

#[tokio::test]
async fn a_cancelled_job_stops_on_every_node_within_a_heartbeat() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put("lake", "loop/x.onnx", &fixture("models/broken/endless-loop.onnx"));
    s3.put("lake", "in/x.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    let [first, second, _worker] = nodes(&s3, ServiceOptions::default()).await;
    let id = first.submit(&json!({"model": "s3://lake/loop/x.onnx", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    second.until(&id, |job| job["state"] == "in_progress").await;
    let (status, _) = second.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await;
    assert_eq!(status, 202);
    let job = first.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "cancelled", "{job:#}");
}

#[tokio::test]
async fn jobs_are_removed_by_any_node_when_their_time_is_over() {
    let s3 = S3Server::start().await;
    let definition = loans(&s3);
    let [first, second, _worker] = nodes(&s3, ServiceOptions::default().arg("--retention-jobs", "1s")).await;
    let id = first.submit(&definition).await;
    // It may be gone before its end was seen.
    let deadline = std::time::Instant::now() + Duration::from_secs(150);
    while second.status(&format!("/v1/jobs/{id}")).await != 404 {
        assert!(std::time::Instant::now() < deadline, "the job is still there");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    golden::Output::read(&s3, "lake", "out/").check_invariants();
}

#[tokio::test]
async fn the_databases_password_is_shown_nowhere() {
    let s3 = S3Server::start().await;
    let definition = loans(&s3);
    let url = database().await.replacen("nightshift@", "nightshift:hunter2@", 1);
    let service = Service::start(&s3, ServiceOptions::default().arg("--database-connections", "4").env("DATABASE_URL", &url)).await;
    let id = service.submit(&definition).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    let runner = service.runner_pids()[0].as_raw_nonzero();
    let environment = std::fs::read(format!("/proc/{runner}/environ")).expect("Linux");
    assert!(!String::from_utf8_lossy(&environment).contains("hunter2"), "the runner has no business with the database");
    assert!(!service.log().contains("hunter2"));
    let shown = Command::new(env!("CARGO_BIN_EXE_nightshift")).args(["config", "show"]).env("DATABASE_URL", &url).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("postgres://nightshift:(hidden)@") && !shown.contains("hunter2"), "{shown}");
    let away = url.replacen("host=", "host=/nowhere", 1);
    let refused = Command::new(env!("CARGO_BIN_EXE_nightshift")).arg("migrate").env("DATABASE_URL", &away).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("database") && !said.contains("hunter2"), "{said}");
}

#[test]
fn a_worker_without_a_shared_database_says_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_nightshift"));
    let refused = worker.args(["worker", "--data-dir"]).arg(folder.path()).env_remove("DATABASE_URL").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--database-url postgres://"), "{said}");
}

//! Several devices, and devices that have too little memory, played by processors: a runner for each device, and a limit on what each may take.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, golden};

const PATIENCE: Duration = Duration::from_secs(180);

async fn run(service: &Service, definition: &Value) -> Value {
    let id = service.submit(definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}\n{}", service.log());
    job
}

/// Chunks of the loans, a part each.
fn loans(output: &str) -> Value {
    json!({
        "model": "s3://lake/model/", "input": "s3://lake/in/", "output": {"uri": format!("s3://lake/{output}"), "format": "parquet"},
        "execution": {"chunk_records": 200, "batch_size": 64},
    })
}

#[tokio::test]
async fn two_devices_have_a_runner_each_which_share_the_chunks_and_write_what_one_would() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/loan-default-xgboost", "lake", "model/");
    s3.put_fixture("data/loans/parquet", "lake", "in/");
    let one = Service::start(&s3, ServiceOptions::default().arg("--devices", "0").arg("--workers", "1")).await;
    run(&one, &loans("one/")).await;
    let two = Service::start(&s3, ServiceOptions::default().arg("--devices", "0,1").arg("--workers", "1")).await;
    run(&two, &loans("two/")).await;
    assert_eq!((one.runner_pids().len(), two.runner_pids().len()), (1, 2));
    let loaded = |service: &Service| service.log().matches("loaded model").count();
    assert_eq!((loaded(&one), loaded(&two)), (1, 2), "each has the model:\n{}", two.log());
    let output = golden::Output::read(&s3, "lake", "two/");
    output.check_invariants();
    assert_eq!(golden::Output::read(&s3, "lake", "one/").part_digests(), output.part_digests());
}

#[tokio::test]
async fn a_runner_that_dies_takes_no_chunk_of_the_other_device_along() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/awkward/slow.onnx", "lake", "slow/x.onnx");
    for n in 0..4 {
        s3.put("lake", &format!("in/{n}.jsonl"), b"{\"x\": [1, 2, 3, 4]}\n");
    }
    let options = ServiceOptions::default().arg("--devices", "0,1").arg("--workers", "1").arg("--chunk-slots", "1");
    let service = Service::start(&s3, options).await;
    let definition = json!({
        "model": "s3://lake/slow/x.onnx", "input": "s3://lake/in/", "output": "s3://lake/out/", "execution": {"chunk_records": 1},
    });
    let id = service.submit(&definition).await;
    let chunks = format!("/v1/jobs/{id}/chunks");
    let count = |chunks: &[Value], state: &str| chunks.iter().filter(|chunk| chunk["state"] == state).count();
    let at_work = || service.log().matches("loaded model").count() == 2;
    while count(&service.get_all(&chunks).await, "running") < 2 || !at_work() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rustix::process::kill_process(service.runner_pids()[0], rustix::process::Signal::KILL).expect("a runner to kill");
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let chunks = service.get_all(&chunks).await;
    let crashes: u64 = chunks.iter().filter_map(|chunk| chunk["crashes"].as_u64()).sum();
    assert!(crashes <= 1, "the one chunk of the one that died: {chunks:#?}");
    assert_eq!(service.log().matches("the runner died").count(), 1, "{}", service.log());
    golden::Output::read(&s3, "lake", "out/").check_invariants();
}

#[tokio::test]
async fn a_batch_that_has_no_room_in_memory_is_halved_until_it_has_and_the_job_says_so() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/room/wide.onnx", "lake", "model.onnx");
    let lines: String = (0..512).map(|n| format!("{{\"x\": [{n}, 0, 0, -1]}}\n")).collect();
    s3.put("lake", "in/x.jsonl", lines.as_bytes());
    let options = ServiceOptions::default().arg("--workers", "1").arg("--runner-memory-limit", "900MiB");
    let service = Service::start(&s3, options).await;
    // The second finds the runner as the first left it.
    for output in ["first/", "second/"] {
        let definition = json!({
            "model": "s3://lake/model.onnx", "input": "s3://lake/in/", "output": format!("s3://lake/{output}"), "execution": {"batch_size": 256},
        });
        let job = run(&service, &definition).await;
        assert_eq!(job["counts"]["records"], json!({"total": 512, "succeeded": 512, "failed": 0}), "{job:#}");
        let room = job["usage"]["batch_room"].as_u64().expect("it says so");
        assert!((1..=128).contains(&room), "a gigabyte had no room: {job:#}");
        assert_eq!(job["usage"]["batch_size"], room, "{job:#}");
        for (n, row) in golden::Output::read(&s3, "lake", output).rows.iter().enumerate() {
            assert_eq!(row["y"], json!([n as f64, 0.0, 0.0, -1.0]));
        }
    }
    assert!(service.log().contains("had no room in memory"), "{}", service.log());
    assert_eq!(service.log().matches("loaded model").count(), 1, "one runner for both:\n{}", service.log());
}

/// A library that plays the driver's, and the file that says what it tells.
fn fake_driver(folder: &std::path::Path) -> (ServiceOptions, std::path::PathBuf) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/fake_driver.rs");
    let mut rustc = std::process::Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()));
    rustc.args(["--edition", "2024", "--crate-type", "cdylib", "-o"]).arg(folder.join("libnvidia-ml.so.1")).arg(source);
    assert!(rustc.status().expect("a compiler").success());
    let told = folder.join("told");
    let options = ServiceOptions::default().env("LD_LIBRARY_PATH", folder.to_str().expect("UTF-8"));
    let options = options.env("NIGHTSHIFT_FAKE_DRIVER", told.to_str().expect("UTF-8"));
    (options.arg("--device-memory-limit", "1GiB").arg("--workers", "1").arg("--chunk-slots", "2"), told)
}

fn slow(s3: &S3Server) -> Value {
    s3.create_bucket("lake");
    s3.put_fixture("models/awkward/slow.onnx", "lake", "slow/x.onnx");
    for n in 0..8 {
        s3.put("lake", &format!("in/{n}.jsonl"), b"{\"x\": [1, 2, 3, 4]}\n");
    }
    json!({
        "model": "s3://lake/slow/x.onnx", "input": "s3://lake/in/", "output": {"uri": "s3://lake/out/", "format": "jsonl"},
        "execution": {"chunk_records": 1, "batch_size": 1},
    })
}

async fn logged(service: &Service, words: &str) {
    let until = std::time::Instant::now() + PATIENCE;
    while !service.log().contains(words) {
        assert!(std::time::Instant::now() < until, "never logged: {words}\n{}", service.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_runner_that_comes_to_hold_too_much_of_its_device_is_replaced_between_chunks_at_no_cost_to_them() {
    let (s3, folder) = (S3Server::start().await, tempfile::tempdir().expect("a folder"));
    let (options, told) = fake_driver(folder.path());
    let tell = |text: &str| {
        std::fs::write(folder.path().join("draft"), text).expect("a file");
        std::fs::rename(folder.path().join("draft"), &told).expect("a file");
    };
    tell("own 400000000 900000000");
    let definition = slow(&s3);
    let service = Service::start(&s3, options.arg("--log", "debug")).await;
    let id = service.submit(&definition).await;
    // Its first chunk says what it needs, and the next beat that it is within the limit.
    logged(&service, "within what it may").await;
    let first = service.runner_pids();
    tell("own 1500000000 1600000000");
    logged(&service, "it is replaced when the chunks in flight are done").await;
    let until = std::time::Instant::now() + PATIENCE;
    while service.runner_pids() == first {
        assert!(std::time::Instant::now() < until, "it was not replaced:\n{}", service.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tell("own 400000000 900000000");
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
    assert_eq!(chunks.len(), 8);
    assert!(chunks.iter().all(|chunk| chunk["crashes"] == 0 && chunk["claims"] == 1), "{chunks:#?}");
    let output = golden::Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!((output.rows.len(), service.log().matches("loaded model").count()), (8, 2));
    let metrics = service.client().get(service.url("/metrics")).send().await.expect("metrics").text().await.expect("text");
    assert!(metrics.contains("nightshift_runner_restarts_total{reason=\"device_memory\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_limit_below_what_the_model_needs_is_said_and_replaces_nothing_and_who_is_alone_on_a_device_holds_all_of_it() {
    let (s3, folder) = (S3Server::start().await, tempfile::tempdir().expect("a folder"));
    let (options, told) = fake_driver(folder.path());
    // As in a container: another number, and nothing about how much is whose.
    std::fs::write(&told, "1 0 1600000000").expect("a file");
    let definition = slow(&s3);
    let service = Service::start(&s3, options).await;
    run(&service, &definition).await;
    let log = service.log();
    assert!(log.contains("holds 1600000000 bytes") && log.contains("another one would as well"), "{log}");
    assert_eq!(log.matches("loaded model").count(), 1, "{log}");
}

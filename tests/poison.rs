//! Promise 4 for input that ends the runtime: it costs one record, whatever it does to the process, and neither its neighbours nor the API.

mod support;

use std::{fs, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, golden};

/// Longer than any of these may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// The record that ends `aborts-by-data`.
const POISON: i64 = -1;

/// Harmless records, but for those at these places.
fn records(count: usize, poison: &[usize], value: i64) -> String {
    (0..count).map(|at| format!("{{\"x\": {}}}\n", if poison.contains(&at) { value } else { at as i64 % 7 + 2 })).collect()
}

/// Byte offsets of lines.
fn positions(text: &str) -> Vec<u64> {
    let ends = text.match_indices('\n').map(|(at, _)| at as u64 + 1);
    std::iter::once(0).chain(ends).take(text.lines().count()).collect()
}

async fn store_with(model: &str) -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture(&format!("models/{model}"), "lake", "model.onnx");
    s3
}

fn definition(chunk_records: u32) -> Value {
    json!({
        "model": "s3://lake/model.onnx", "input": "s3://lake/in/", "output": "s3://lake/out/",
        "execution": {"chunk_records": chunk_records, "batch_size": 64},
    })
}

/// One outcome a record; the error rows are those of the poison, in input order.
fn check(s3: &S3Server, objects: &[(&str, &str, &[usize])], code: &str) -> golden::Output {
    let output = golden::Output::read(s3, "lake", "out/");
    output.check_invariants();
    let mut input = Vec::new();
    let mut lost = Vec::new();
    for (key, text, poison) in objects {
        let places = positions(text);
        lost.extend(poison.iter().map(|at| ((*key).to_owned(), places[*at])));
        input.extend(places.into_iter().map(|position| ((*key).to_owned(), position)));
    }
    output.assert_one_outcome_each(&input);
    let errors: Vec<(String, u64)> =
        output.errors.iter().map(|e| (e["_source"].as_str().unwrap().to_owned(), e["_position"].as_u64().unwrap())).collect();
    assert_eq!(errors, lost);
    assert!(output.errors.iter().all(|e| e["code"] == code && e["stage"] == "infer"), "{:?}", output.errors);
    output
}

#[tokio::test]
async fn a_record_that_aborts_the_process_costs_one_of_4096() {
    let s3 = store_with("poison/aborts-by-data.onnx").await;
    let text = records(4096, &[1234], POISON);
    s3.put("lake", "in/a.jsonl", text.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition(4096)).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(job["counts"]["records"]["succeeded"], 4095);
    let output = check(&s3, &[("in/a.jsonl", &text, &[1234])], "runner_crash");
    assert_eq!((output.rows.len(), output.errors.len()), (4095, 1));
    let detail = output.errors[0]["detail"].as_str().unwrap();
    assert!(detail.contains("SIGFPE") && detail.contains("this record alone"), "{detail}");
    for (row, line) in output.rows.iter().zip(text.lines().filter(|line| !line.contains("-1"))) {
        let x = serde_json::from_str::<Value>(line).unwrap()["x"].as_i64().unwrap();
        assert_eq!(row["y"].as_i64(), Some(i64::MIN / x));
    }
    let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
    assert_eq!((chunks.len(), &chunks[0]["failures"]), (1, &json!(0)), "errors and crashes are counted apart");
    assert_eq!(chunks[0]["crashes"], 4, "two among others, one of its batch, one alone");
    assert_eq!(service.status("/livez").await, 200);
}

#[tokio::test]
async fn records_that_abort_the_process_cost_their_neighbours_nothing_wherever_they_lie() {
    let s3 = store_with("poison/aborts-by-data.onnx").await;
    // The first, the last, two beside each other; and chunks of other objects, which are in flight when the runner dies.
    let poisoned: &[usize] = &[0, 100, 101, 499];
    let (a, b, c) = (records(500, poisoned, POISON), records(20_000, &[], POISON), records(500, &[250], POISON));
    for (key, text) in [("in/a.jsonl", &a), ("in/b.jsonl", &b), ("in/c.jsonl", &c)] {
        s3.put("lake", key, text.as_bytes());
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition(500)).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    check(&s3, &[("in/a.jsonl", &a, poisoned), ("in/b.jsonl", &b, &[]), ("in/c.jsonl", &c, &[250])], "runner_crash");
}

#[tokio::test]
async fn records_that_abort_the_process_together_and_not_alone_get_their_predictions() {
    let s3 = store_with("poison/aborts-together.onnx").await;
    let text: String = (0..300).map(|at| format!("{{\"x\": {}}}\n", if at == 70 { 1000 } else { at % 3 })).collect();
    s3.put("lake", "in/a.jsonl", text.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition(300)).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    check(&s3, &[("in/a.jsonl", &text, &[])], "runner_crash");
}

#[tokio::test]
async fn a_service_killed_while_it_looks_for_the_record_goes_on_where_it_was() {
    let s3 = store_with("poison/aborts-by-data.onnx").await;
    let poisoned: Vec<usize> = (0..10).map(|n| n * 200 + 17).collect();
    let text = records(2000, &poisoned, POISON);
    s3.put("lake", "in/a.jsonl", text.as_bytes());
    let mut service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition(2000)).await;
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let crashes = async |service: &Service| {
        let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
        chunks.first().map_or(0, |chunk| chunk["crashes"].as_u64().unwrap())
    };
    for kill in 1..=5 {
        // Each between two crashes, so that every one falls into the search.
        while crashes(&service).await < 1 + 3 * kill {
            assert!(!service.is_final(&id).await, "the job was over before kill {kill} (seed {seed})");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
        service.kill9();
        service.restart().await;
    }
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    check(&s3, &[("in/a.jsonl", &text, &poisoned)], "runner_crash");
    assert!(crashes(&service).await <= 2 + 2 * 10, "what was found before a kill was found once");
}

#[tokio::test]
async fn a_drain_while_it_looks_for_the_record_costs_no_attempt() {
    let s3 = store_with("poison/aborts-by-data.onnx").await;
    let poisoned: Vec<usize> = (0..10).map(|n| n * 200 + 17).collect();
    let text = records(2000, &poisoned, POISON);
    s3.put("lake", "in/a.jsonl", text.as_bytes());
    let mut service = Service::start(&s3, ServiceOptions::default().arg("--drain-timeout", "0.01")).await;
    let id = service.submit(&definition(2000)).await;
    let chunk = async |service: &Service| service.get_all(&format!("/v1/jobs/{id}/chunks")).await.pop().unwrap_or_default();
    while chunk(&service).await["crashes"].as_u64() < Some(6) {
        assert!(!service.is_final(&id).await, "the job was over before the drain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(service.terminate(Duration::from_secs(25)).await, Some(0), "exit status");
    service.restart().await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    check(&s3, &[("in/a.jsonl", &text, &poisoned)], "runner_crash");
    let chunk = chunk(&service).await;
    assert_eq!(chunk["failures"], 0);
    assert!(chunk["crashes"].as_u64() <= Some(2 + 2 * 10), "{chunk:#}");
}

#[tokio::test]
async fn a_model_that_aborts_on_every_record_fails_its_job_with_a_reason() {
    let s3 = store_with("poison/aborts-by-data.onnx").await;
    let all: Vec<usize> = (0..4096).collect();
    s3.put("lake", "in/a.jsonl", records(4096, &all, POISON).as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition(1024)).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "failed", "{job:#}");
    assert!(job["error"]["type"].as_str().unwrap().ends_with("runner_crash"), "{job:#}");
    let detail = job["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("SIGFPE") && detail.contains("in a row") && detail.contains("the model or the runtime"), "{detail}");
    assert_eq!(service.status("/livez").await, 200);
}

#[tokio::test]
async fn a_job_is_cancelled_while_it_looks_for_the_record() {
    let s3 = store_with("poison/endless-by-data.onnx").await;
    s3.put("lake", "in/a.jsonl", records(100, &[50], 1 << 60).as_bytes());
    let service = Service::start(&s3, ServiceOptions::default().arg("--batch-timeout", "1")).await;
    let id = service.submit(&definition(100)).await;
    loop {
        let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
        if chunks.first().is_some_and(|chunk| chunk["crashes"] == 1 && chunk["state"] == "running") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "cancelled");
}

#[tokio::test]
async fn a_record_whose_inference_never_ends_costs_one_record() {
    let s3 = store_with("poison/endless-by-data.onnx").await;
    let poisoned: &[usize] = &[0, 200];
    let text = records(500, poisoned, 1 << 60);
    s3.put("lake", "in/a.jsonl", text.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default().arg("--batch-timeout", "2")).await;
    let id = service.submit(&definition(500)).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = check(&s3, &[("in/a.jsonl", &text, poisoned)], "inference_timeout");
    assert!(output.errors[0]["detail"].as_str().unwrap().contains("this record alone"));
}

#[tokio::test]
async fn a_runner_has_the_memory_that_it_is_given_and_goes_first_when_the_machine_has_none() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/awkward/allocates-by-data.onnx", "lake", "model.onnx");
    // The model makes a list as long as the largest value of a batch: 16 GB for the one in the middle.
    let rows: String =
        (0..100).map(|at| format!("{{\"x\": [{}.0, 1.0, 1.0, 1.0]}}\n", if at == 50 { 4_000_000_000u64 } else { 3 })).collect();
    s3.put("lake", "in/a.jsonl", rows.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default().arg("--runner-memory-limit", "2GiB")).await;
    let id = service.submit(&definition(100)).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = golden::Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!((output.rows.len(), output.errors.len()), (99, 1), "{:?}", output.errors);
    let runner = service.runner_pids().first().expect("a runner").as_raw_nonzero();
    let limits = fs::read_to_string(format!("/proc/{runner}/limits")).expect("it runs");
    let data = limits.lines().find(|line| line.starts_with("Max data size")).expect("a limit");
    assert!(data.split_whitespace().filter(|word| *word == "2147483648").count() == 2, "{data}");
    assert_eq!(fs::read_to_string(format!("/proc/{runner}/oom_score_adj")).expect("it runs").trim(), "1000");
}

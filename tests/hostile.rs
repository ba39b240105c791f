//! Promise 4 for models: whatever the runtime does with one, the job ends with a reason and the API stays up.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, golden};

/// Longer than any of these may take: the batch deadline is 2 s and the load deadline 5 s.
const PATIENCE: Duration = Duration::from_secs(60);

async fn service_with(folder: &str) -> (S3Server, Service) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture(folder, "lake", "models/");
    let rows: String = (0..20).map(|i| format!("{{\"x\": [{i}.0, {}.0, 0.5, -1.0]}}\n", i - 10)).collect();
    s3.put("lake", "in/x.jsonl", rows.as_bytes());
    let options = ServiceOptions::default().arg("--batch-timeout", "2").arg("--load-timeout", "5");
    let service = Service::start(&s3, options).await;
    (s3, service)
}

/// How a job with this model ends: `refused CODE` at the door, or `STATE CODE`.
async fn ending(service: &Service, model: &str) -> (String, Value) {
    let definition =
        json!({"model": format!("s3://lake/models/{model}.onnx"), "input": "s3://lake/in/", "output": format!("s3://lake/out/{model}/")});
    let (status, answer) = service.post("/v1/jobs", &definition).await;
    if status == 422 {
        return (format!("refused {}", answer["errors"][0]["code"].as_str().unwrap_or_default()), answer);
    }
    assert_eq!(status, 202, "{model}: {answer:#}");
    let job = service.wait(answer["id"].as_str().unwrap(), PATIENCE).await;
    let code = job["error"]["type"].as_str().unwrap_or_default().rsplit([':', '/']).next().unwrap_or_default().to_owned();
    (format!("{} {code}", job["state"].as_str().unwrap()).trim_end().to_owned(), job)
}

#[tokio::test]
async fn every_broken_model_ends_with_a_reason_and_the_api_stays_up() {
    let (_s3, service) = service_with("models/broken").await;
    let mut endings = Vec::new();
    for path in support::fixture_files("models/broken").into_iter().filter(|p| p.ends_with(".onnx")) {
        let model = path.rsplit('/').next().unwrap().trim_end_matches(".onnx").to_owned();
        let started = Instant::now();
        let (ending, said) = ending(&service, &model).await;
        println!("{model:<24} {ending:<40} {:.1} s", started.elapsed().as_secs_f64());
        assert_eq!(service.status("/livez").await, 200, "after {model}");
        endings.push((model, ending, said));
    }
    for (model, ending, said) in &endings {
        match model.as_str() {
            // Its input takes one number, and these records hold four.
            "fails-on-negative" => assert_eq!(ending, "failed all_records_failed", "{said:#}"),
            // A declared [4, N] cannot be told from a batch of four: it runs, four records at a time.
            "batch-second" => assert_eq!(ending, "completed", "{said:#}"),
            "endless-loop" => assert_eq!(ending, "failed inference_timeout", "{said:#}"),
            "expanding-functions" => assert_eq!(ending, "failed model_load_timeout", "{said:#}"),
            "huge-allocation" => assert_eq!(ending, "failed all_records_failed", "{said:#}"),
            _ => assert!(ending.starts_with("refused ") || ending.starts_with("failed "), "{model}: {ending}\n{said:#}"),
        }
        if ending.starts_with("failed") {
            assert!(said["error"]["detail"].as_str().is_some_and(|d| d.len() > 10), "{model}: {said:#}");
        }
    }
    assert!(endings.len() > 25);
}

#[tokio::test]
async fn records_that_fail_in_a_batch_are_isolated_and_their_neighbours_predicted() {
    let (s3, service) = service_with("models/broken").await;
    let rows: String = (0..1000).map(|i| format!("{{\"x\": [{}.0]}}\n", if i % 97 == 5 { -50 } else { i % 10 })).collect();
    s3.remove("lake", "in/");
    s3.put("lake", "in/rows.jsonl", rows.as_bytes());
    let id = service
        .submit(&json!({"model": "s3://lake/models/fails-on-negative.onnx", "input": "s3://lake/in/", "output": "s3://lake/out/"}))
        .await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = golden::Output::read(&s3, "lake", "out/");
    output.check_invariants();
    let bad = (0..1000).filter(|i| i % 97 == 5).count();
    assert_eq!((output.rows.len(), output.errors.len()), (1000 - bad, bad));
    assert!(output.errors.iter().all(|e| e["code"] == "inference_failed"));
}

#[tokio::test]
async fn awkward_models_run() {
    let (_s3, service) = service_with("models/awkward").await;
    for model in ["nested-20", "mixes-records"] {
        let (ending, said) = ending(&service, model).await;
        assert_eq!(ending, "completed", "{model}: {said:#}");
    }
}

#[tokio::test]
async fn cancelling_reaches_a_running_inference() {
    let (s3, service) = service_with("models/broken").await;
    let id =
        service.submit(&json!({"model": "s3://lake/models/endless-loop.onnx", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    service.until(&id, |job| job["state"] == "in_progress").await;
    let (status, answer) = service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await;
    assert_eq!(status, 202, "{answer:#}");
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "cancelled", "{job:#}");
    assert!(!s3.keys("lake", "out/").iter().any(|k| k.ends_with("_SUCCESS")));
}

//! Batches: their size is found, kept and told, changes no prediction, and what held a job up is said.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
    fixture,
    golden::{Output, agree},
};

const PATIENCE: Duration = Duration::from_secs(180);

async fn world(options: ServiceOptions) -> (S3Server, Service) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    for (model, data) in [
        ("churn-lightgbm", "churn-encoded/csv"),
        ("loan-default-xgboost", "loans/parquet"),
        ("sentiment", "reviews/jsonl"),
        ("imagenet-tags", "photos"),
    ] {
        s3.put_fixture(&format!("models/{model}"), "lake", &format!("{model}/"));
        s3.put_fixture(&format!("data/{data}"), "lake", &format!("in/{model}/"));
    }
    s3.put_fixture("models/odd/fixed-batch-8", "lake", "fixed-batch-8/");
    s3.put("lake", "in/fixed-batch-8/x.jsonl", &fixture("data/odd/fixed-batch-8.jsonl"));
    let service = Service::start(&s3, options).await;
    (s3, service)
}

/// Runs a model over its data; the job, and where it wrote.
async fn run(service: &Service, model: &str, batch_size: &Value) -> (Value, String) {
    let out = format!("out/{}/", uuid::Uuid::now_v7());
    let definition = json!({
        "model": format!("s3://lake/{model}/"), "input": format!("s3://lake/in/{model}/"),
        "output": {"uri": format!("s3://lake/{out}"), "format": "parquet"}, "execution": {"batch_size": batch_size},
    });
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    (job, out)
}

#[tokio::test]
async fn the_size_of_batches_and_the_number_of_workers_change_no_byte_of_a_table_and_nothing_that_counts_of_pictures_and_texts() {
    let mut seen: std::collections::BTreeMap<&str, Output> = std::collections::BTreeMap::new();
    for workers in ["1", "3"] {
        let (s3, service) = world(ServiceOptions::default().arg("--workers", workers)).await;
        for (model, tolerance) in [("churn-lightgbm", 0.0), ("loan-default-xgboost", 0.0), ("sentiment", 1e-5), ("imagenet-tags", 1e-5)] {
            for batch_size in [json!("auto"), json!(1), json!(7), json!(256)] {
                let (_, out) = run(&service, model, &batch_size).await;
                let output = Output::read(&s3, "lake", &out);
                output.check_invariants();
                let Some(first) = seen.get(model) else {
                    assert!(output.rows.len() > 10, "{model}");
                    seen.insert(model, output);
                    continue;
                };
                if tolerance == 0.0 {
                    assert_eq!(output.part_digests(), first.part_digests(), "{model}: batch size {batch_size}, {workers} workers");
                }
                assert_eq!(output.rows.len(), first.rows.len());
                for (row, wanted) in output.rows.iter().zip(&first.rows) {
                    for (name, value) in wanted {
                        assert!(agree(&row[name], value, tolerance), "{model}, batch size {batch_size}: {row:?} is not {wanted:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_size_that_is_asked_for_or_that_the_model_has_is_used_and_none_is_tried() {
    let (_s3, service) = world(ServiceOptions::default()).await;
    for (model, asked, used) in [("churn-lightgbm", json!(7), 7), ("fixed-batch-8", json!("auto"), 8), ("fixed-batch-8", json!(3), 8)] {
        let (job, _) = run(&service, model, &asked).await;
        assert_eq!(job["usage"]["batch_size"], used, "{model}");
        assert_eq!(job["usage"]["batch_sizes_tried"], json!({}), "{model}");
    }
}

#[tokio::test]
async fn the_batch_size_is_found_by_trying_on_real_records_is_told_and_is_kept_for_the_next_job() {
    let (s3, mut service) = world(ServiceOptions::default()).await;
    let picture = fixture("data/photos/china.jpg");
    for n in 0..230 {
        s3.put("lake", &format!("in/imagenet-tags/more/{n:03}.jpg"), &picture);
    }
    let (job, out) = run(&service, "imagenet-tags", &json!("auto")).await;
    let tried = job["usage"]["batch_sizes_tried"].as_object().expect("sizes").clone();
    assert!(tried.len() >= 3 && tried.contains_key("8") && tried.contains_key("4"), "{job:#}");
    assert!(tried.values().all(|rate| rate.as_f64().is_some_and(|rate| rate > 0.0)), "{tried:?}");
    let chosen = job["usage"]["batch_size"].clone();
    assert!(tried.contains_key(&chosen.to_string()), "{chosen} of {tried:?}");
    // Nothing was run twice for it.
    let output = Output::read(&s3, "lake", &out);
    output.check_invariants();
    assert_eq!(job["counts"]["records"]["succeeded"], output.rows.len());
    assert_eq!(output.manifest["batch_size"], chosen);

    assert_eq!(service.terminate(Duration::from_secs(30)).await, Some(0));
    service.restart().await;
    let (job, _) = run(&service, "imagenet-tags", &json!("auto")).await;
    assert_eq!((&job["usage"]["batch_size"], job["usage"]["batch_sizes_tried"].as_object()), (&chosen, Some(&tried)));
}

#[tokio::test]
async fn sessions_of_one_thread_and_one_of_all_threads_are_tried_the_better_is_told_and_kept_and_either_gives_the_same_bytes() {
    let (s3, mut service) = world(ServiceOptions::default().arg("--workers", "2")).await;
    let picture = fixture("data/photos/china.jpg");
    for n in 0..340 {
        s3.put("lake", &format!("in/imagenet-tags/more/{n:03}.jpg"), &picture);
    }
    for n in 0..56 {
        s3.put("lake", &format!("in/sentiment/more-{n}.jsonl"), &fixture("data/reviews/jsonl/movies-0.jsonl"));
    }
    const MODELS: [&str; 2] = ["imagenet-tags", "sentiment"];
    for model in MODELS {
        let (job, out) = run(&service, model, &json!("auto")).await;
        let usage = &job["usage"];
        let tried = usage["layouts_tried"].as_object().expect("layouts");
        assert!(tried.len() == 2 && ["2x1", "1x2"].iter().all(|layout| tried[*layout].as_f64() > Some(0.0)), "{usage:#}");
        assert!(tried.contains_key(usage["layout"].as_str().expect("a layout")), "{usage:#}");
        // Of texts there is one size.
        assert_eq!(usage["batch_sizes_tried"].as_object().map(|sizes| sizes.is_empty()), Some(model == "sentiment"), "{usage:#}");
        let output = Output::read(&s3, "lake", &out);
        output.check_invariants();
        assert_eq!(job["counts"]["records"]["succeeded"], output.rows.len());
    }
    // The trees of a model are walked by one thread.
    let (job, _) = run(&service, "churn-lightgbm", &json!("auto")).await;
    assert_eq!((&job["usage"]["layout"], &job["usage"]["layouts_tried"]), (&json!("2x1"), &json!({})));

    // What was found is kept; and with the other one written in its place, that is what the next job has.
    let files: Vec<_> =
        std::fs::read_dir(service.data_dir().join("models")).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    let files: Vec<_> = files.into_iter().filter(|file| file.to_str().is_some_and(|file| file.ends_with(".tuning.json"))).collect();
    let mut digests = Vec::new();
    for (layout, name) in [("apart", "2x1"), ("shared", "1x2")] {
        assert_eq!(service.terminate(Duration::from_secs(30)).await, Some(0));
        for file in &files {
            let mut found: Value = serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON");
            for found in found.as_object_mut().expect("an object").values_mut().filter(|found| found["shared"] != json!({})) {
                found["layout"] = json!(layout);
            }
            std::fs::write(file, found.to_string()).expect("a file");
        }
        service.restart().await;
        for model in MODELS {
            let (job, out) = run(&service, model, &json!("auto")).await;
            assert_eq!(job["usage"]["layout"], name, "{model}");
            let output = Output::read(&s3, "lake", &out);
            output.check_invariants();
            digests.push(output.part_digests());
        }
    }
    // With the size that was found; while sizes are tried, those of pictures differ in their last bits.
    assert_eq!(digests[..2], digests[2..]);
}

#[tokio::test]
async fn a_job_says_which_stage_the_others_waited_for_and_what_would_change_that() {
    let (s3, service) = world(ServiceOptions::default()).await;
    s3.put("lake", "slow/x.onnx", &fixture("models/awkward/slow.onnx"));
    for n in 0..2 {
        s3.put("lake", &format!("in/slow/{n}.jsonl"), b"{\"x\": [1, 2, 3, 4]}\n");
    }
    let definition = json!({"model": "s3://lake/slow/x.onnx", "input": "s3://lake/in/slow/", "output": "s3://lake/out/slow/"});
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    let found = &job["usage"]["bottleneck"];
    assert_eq!(found["stage"], "infer", "{job:#}");
    assert!(found["share"].as_f64().is_some_and(|share| share > 0.8 && share <= 1.0), "{found}");
    assert!(found["advice"].as_str().is_some_and(|advice| advice.contains("--workers")), "{found}");
    let said = Said::of(nightshift(None, Some(&service)).args(["jobs", "get", &id]).output().expect("it runs"));
    assert!(said.out.contains("bound by") && said.out.contains("infer, "), "{said:?}");
}

#[tokio::test]
async fn a_bench_holds_a_job_against_its_stages_and_the_runtime_and_leaves_nothing_but_results() {
    let (s3, _service) = world(ServiceOptions::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = nightshift(Some(&s3), None);
    command.current_dir(folder.path()).env("ORT_DYLIB_PATH", std::env::var("ORT_DYLIB_PATH").expect("scripts/test sets it"));
    command.args(["bench", "--model", "s3://lake/churn-lightgbm/", "--input", "s3://lake/in/churn-lightgbm/"]);
    command.args(["--output", "s3://lake/bench/", "--format", "parquet", "--runs", "1", "--output", "json"]);
    let said = Said::of(command.output().expect("it runs"));
    assert_eq!(said.code, 0, "{said:?}");
    let report = said.json();
    assert_eq!((&report["records"], &report["failed"], &report["runs"]), (&json!(2032), &json!(0), &json!(1)), "{report:#}");
    let stages: Vec<&str> = report["stages"].as_array().expect("stages").iter().filter_map(|s| s["stage"].as_str()).collect();
    assert_eq!(stages, ["fetch", "decode", "featurize", "infer", "interpret", "encode", "put"]);
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {report:#}"));
    let share: f64 = (0..stages.len()).map(|at| number(&format!("/stages/{at}/share"))).sum();
    assert!((share - 1.0).abs() < 1e-6, "{share}");
    let ratio = number("/job/records_per_second") / number("/bound/records_per_second");
    assert!((ratio - number("/ratio_to_bound")).abs() < 1e-9 * ratio.max(1.0), "{report:#}");
    assert!(number("/job/peak_bytes") > 1e6 && number("/runtime/records_per_second") > 0.0);
    // As many sizes in as many layouts as there are.
    assert!(report["runtime"]["tried"].as_array().is_some_and(|tried| tried.len() >= 11), "{report:#}");

    // What it wrote is a job's output like any other, twice; nothing else stays, in the bucket or here.
    let (first, second) = (Output::read(&s3, "lake", "bench/run-0/"), Output::read(&s3, "lake", "bench/run-1/"));
    first.check_invariants();
    assert_eq!((first.rows.len(), first.part_digests()), (2032, second.part_digests()));
    let keys = s3.keys("lake", "bench/");
    assert!(keys.iter().all(|key| key.contains("/run-")), "{keys:?}");
    let left: Vec<_> = std::fs::read_dir(folder.path().join("nightshift-data")).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Another provider on real hardware: asked for, had, said, and right; and where it is not, refused with its reason.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn a_provider_that_the_library_has_runs_the_model_and_one_that_it_lacks_is_refused_with_the_reason() {
    let library = std::env::var("NIGHTSHIFT_TEST_OPENVINO").expect("scripts/test sets it");
    let mut outputs = Vec::new();
    for provider in ["cpu", "openvino"] {
        let options = ServiceOptions::default().env("ORT_DYLIB_PATH", &library).arg("--providers", provider);
        let (s3, service) = world(options).await;
        let (job, out) = run(&service, "imagenet-tags", &json!("auto")).await;
        assert_eq!(job["usage"]["provider"], provider, "{job:#}");
        let output = Output::read(&s3, "lake", &out);
        output.check_invariants();
        assert_eq!((&output.manifest["provider"], output.errors.len()), (&json!(provider), 0));
        outputs.push(output);
    }
    assert_eq!(outputs[0].rows.len(), outputs[1].rows.len());
    for (one, other) in outputs[0].rows.iter().zip(&outputs[1].rows) {
        // Kernels of its own: quantised weights are rounded elsewhere.
        assert!(agree(&one["score"], &other["score"], 0.05), "{one:?} {other:?}");
    }

    let (_s3, service) = world(ServiceOptions::default()).await;
    let definition = json!({
        "model": "s3://lake/imagenet-tags/", "input": "s3://lake/in/imagenet-tags/", "output": "s3://lake/out/refused/",
        "execution": {"providers": ["openvino"]},
    });
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "failed", "{job:#}");
    assert!(job["error"]["type"].as_str().is_some_and(|kind| kind.ends_with("provider_unavailable")), "{job:#}");
    assert!(job["error"]["detail"].as_str().is_some_and(|why| why.contains("openvino")), "{job:#}");
}

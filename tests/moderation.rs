//! Flags, the summary that counts them, and the queue for reviewers.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
    golden,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// A store with the churn model and its customers in three objects.
async fn customers() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/churn-lightgbm", "lake", "model/");
    s3.put_fixture("data/churn-encoded/csv", "lake", "in/");
    s3
}

fn definition() -> Value {
    json!({
        "model": "s3://lake/model/", "input": "s3://lake/in/",
        "output": {"uri": "s3://lake/out/", "include_input": ["tenure"], "review": {"uri": "s3://lake/queue/", "when": ["leaving", "unsure"]}},
        "pipeline": {"flags": {
            "leaving": {"any_of": ["leaves"], "min_score": 0.8},
            "unsure": {"top_below": 0.55},
            "staying": {"any_of": ["stays"], "min_score": 0.9}
        }},
        "execution": {"chunk_records": 300, "batch_size": 64}
    })
}

fn flags(row: &golden::Row) -> Vec<&str> {
    row["flags"].as_array().expect("a list of flags").iter().map(|f| f.as_str().expect("a name")).collect()
}

#[tokio::test]
async fn flagged_records_are_counted_and_written_to_the_queue_once() {
    let s3 = customers().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition()).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = golden::Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!(output.rows.len(), 2032);
    let mut counts = std::collections::BTreeMap::from([("leaving", 0), ("unsure", 0), ("staying", 0)]);
    for row in &output.rows {
        let (label, score) = (row["label"].as_str().unwrap(), row["score"].as_f64().unwrap());
        // Two classes: the score of one is what the other leaves of 1.
        let leaves = if label == "leaves" { score } else { 1.0 - score };
        // Nearer to a border than a float is exact, either is right.
        let near = |border: f64| (leaves - border).abs() < 1e-6 || (1.0 - leaves - border).abs() < 1e-6;
        let met = flags(row);
        for (name, is_met, border) in
            [("leaving", leaves >= 0.8, 0.8), ("unsure", score < 0.55, 0.55), ("staying", 1.0 - leaves >= 0.9, 0.9)]
        {
            assert!(met.contains(&name) == is_met || near(border), "{name}: {row:?}");
            *counts.get_mut(name).unwrap() += usize::from(met.contains(&name));
        }
        assert!(met.is_sorted(), "{row:?}");
    }
    assert!(counts.values().all(|count| *count > 0), "each flag is met by some: {counts:?}");
    assert_eq!(job["summary"]["flags"], json!(counts), "{:#}", job["summary"]);
    let mut summary = job["summary"].clone();
    // Of a job alone: the manifest stands before it is compared with another.
    assert_eq!(summary.as_object_mut().and_then(|fields| fields.remove("drift")), Some(Value::Null));
    assert_eq!(summary, output.manifest["summary"]);

    let queue = golden::Output::read(&s3, "lake", "queue/");
    queue.check_invariants();
    let expected: Vec<_> = output.rows.iter().filter(|row| flags(row).iter().any(|f| ["leaving", "unsure"].contains(f))).cloned().collect();
    assert_eq!(queue.rows, expected, "the same rows, in the same order");
    assert_eq!(queue.manifest["counts"]["succeeded"], expected.len());
    assert_eq!(queue.manifest["output"]["uri"], "s3://lake/queue/");
    assert_eq!(job["output"]["review"], definition()["output"]["review"]);
}

#[tokio::test]
async fn verify_knows_a_review_queue_and_says_where_the_rest_is() {
    let s3 = customers().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition()).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    let verify = |more: &[&str]| Said::of(nightshift(Some(&s3), None).arg("verify").args(more).output().unwrap());
    let queue = verify(&["s3://lake/queue/"]);
    assert_eq!(queue.code, 0, "{queue:?}");
    assert!(queue.out.contains("review queue of  s3://lake/out/") && queue.out.contains("flagged records alone"), "{queue:?}");
    assert_eq!(verify(&["--output", "json", "s3://lake/queue/"]).json()["review_of"], "s3://lake/out/");
    let refused = verify(&["--input", "s3://lake/queue/"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    for word in ["s3://lake/queue/ is a review queue", "leaving, unsure", "nightshift verify --input s3://lake/out/"] {
        assert!(refused.err.contains(word), "{refused:?}");
    }
    let all = verify(&["--input", "--output", "json", "s3://lake/out/"]);
    assert_eq!((all.code, &all.json()["input_records"], &all.json()["review_of"]), (0, &json!(2032), &Value::Null));
}

#[tokio::test]
async fn the_queue_has_the_format_of_the_output_and_survives_killed_runners() {
    let s3 = customers().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let mut definition = definition();
    definition["output"]["format"] = json!("parquet");
    definition["execution"]["chunk_records"] = json!(100);
    let id = service.submit(&definition).await;
    let mut kills = 0;
    while kills < 3 && !service.is_final(&id).await {
        kills += u32::from(service.kill_runner());
        tokio::task::yield_now().await;
    }
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let (output, queue) = (golden::Output::read(&s3, "lake", "out/"), golden::Output::read(&s3, "lake", "queue/"));
    output.check_invariants();
    queue.check_invariants();
    let flagged = output.rows.iter().filter(|row| flags(row).iter().any(|f| ["leaving", "unsure"].contains(f))).count();
    assert_eq!((output.rows.len(), queue.rows.len()), (2032, flagged));
    let counts = &job["summary"]["labels"];
    let labels: u64 = counts.as_array().unwrap().iter().map(|l| l["count"].as_u64().unwrap()).sum();
    assert_eq!(labels, 2032, "what ran twice is counted once: {counts}");
}

#[tokio::test]
async fn a_summary_tells_labels_scores_and_numbers() {
    let s3 = customers().await;
    s3.put_fixture("models/diabetes-ridge", "lake", "ridge/");
    s3.put_fixture("data/diabetes/parquet", "lake", "patients/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    let summary = service.wait(&id, PATIENCE).await["summary"].clone();
    let output = golden::Output::read(&s3, "lake", "out/");
    for label in summary["labels"].as_array().unwrap() {
        let rows = output.rows.iter().filter(|row| row["label"] == label["label"]).count();
        assert_eq!(label["count"], rows);
    }
    let bins: Vec<u64> = summary["scores"]["bins"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!(
        (bins.len(), bins.iter().sum::<u64>(), bins[..10].iter().sum::<u64>()),
        (20, 2032, 0),
        "the better of two is at least a half"
    );
    assert_eq!((&summary["flags"], &summary["values"], &summary["images"]), (&json!({}), &Value::Null, &Value::Null));

    let id = service
        .submit(&json!({"model": "s3://lake/ridge/", "input": "s3://lake/patients/", "output": "s3://lake/numbers/",
                                    "pipeline": {"features": golden::DIABETES_COLUMNS}}))
        .await;
    let job = service.wait(&id, PATIENCE).await;
    let values = &job["summary"]["values"];
    let rows = golden::Output::read(&s3, "lake", "numbers/").rows;
    let numbers: Vec<f64> = rows.iter().map(|row| row["prediction"].as_f64().unwrap()).collect();
    let close = |found: &Value, wanted: f64| (found.as_f64().unwrap() - wanted).abs() < 1e-2;
    assert!(close(&values["min"], numbers.iter().copied().fold(f64::INFINITY, f64::min)), "{job:#}");
    assert!(close(&values["mean"], numbers.iter().sum::<f64>() / numbers.len() as f64), "{job:#}");
    assert_eq!(values["count"], numbers.len());
}

#[tokio::test]
async fn flags_that_can_never_be_met_are_refused_each_with_its_place() {
    let s3 = customers().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let mut wrong = definition();
    wrong["pipeline"]["flags"]["leaving"]["any_of"] = json!(["leaves", "leavs", "unsafe"]);
    wrong["output"]["review"]["when"] = json!(["leaving", "unsur"]);
    let (status, problem) = service.post("/v1/jobs", &wrong).await;
    assert_eq!(status, 422, "{problem:#}");
    let text = |fault: &Value, field: &str| fault[field].as_str().unwrap_or_default().to_owned();
    let found: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|f| (text(f, "pointer"), text(f, "code"), text(f, "hint"))).collect();
    assert_eq!(found[0], ("/pipeline/flags/leaving/any_of/1".into(), "unknown_label".into(), "did you mean \"leaves\"?".into()));
    assert_eq!(found[1], ("/pipeline/flags/leaving/any_of/2".into(), "unknown_label".into(), "the labels are stays, leaves".into()));

    let mut wrong = definition();
    wrong["output"]["review"]["when"] = json!(["leaving", "unsur"]);
    let (_, problem) = service.post("/v1/jobs", &wrong).await;
    assert_eq!(problem["errors"][0]["pointer"], "/output/review/when/1", "{problem:#}");
    assert_eq!(problem["errors"][0]["hint"], "did you mean \"unsure\"?", "{problem:#}");

    let mut wrong = definition();
    wrong["pipeline"]["task"] = json!("raw");
    let (_, problem) = service.post("/v1/jobs", &wrong).await;
    assert_eq!((&problem["errors"][0]["pointer"], &problem["errors"][0]["code"]), (&json!("/pipeline/flags"), &json!("no_labels")));

    // A folder's own flags have no place in the request.
    s3.put(
        "lake",
        "model/nightshift.json",
        br#"{"task": "tabular-classification", "labels": ["stays", "leaves"], "flags": {"f": {"any_of": ["x"], "min_score": 7}}}"#,
    );
    let (_, problem) =
        service.post("/v1/jobs", &json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    let codes: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|f| (text(f, "pointer"), text(f, "code"))).collect();
    assert_eq!(codes, [("/model".into(), "out_of_range".into()), ("/model".to_owned(), "unknown_label".to_owned())]);
}

#[tokio::test]
async fn a_review_prefix_in_use_is_refused() {
    let s3 = customers().await;
    s3.put("lake", "queue/_SUCCESS", b"");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let (status, problem) = service.post("/v1/jobs", &definition()).await;
    assert_eq!(status, 409, "{problem:#}");
    assert!(problem["detail"].as_str().unwrap().contains("s3://lake/queue/"), "{problem:#}");
}

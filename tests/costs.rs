//! What jobs cost: charges, budgets, sums, estimates; and that idleness costs nothing.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
    golden::Output,
    scrape::Scrape,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// A service whose cores cost so much an hour.
async fn priced(s3: &S3Server, per_hour: f64, options: ServiceOptions) -> (Service, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nightshift.toml");
    std::fs::write(&path, format!("[pricing]\ncurrency = \"EUR\"\nper_hour.cpu = {per_hour:?}\n")).unwrap();
    (Service::start(s3, options.arg("--config", path.to_str().unwrap()).arg("--workers", "2")).await, folder)
}

async fn lake(model: &str, data: &str) -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture(&format!("models/{model}"), "lake", "model/");
    s3.put_fixture(&format!("data/{data}"), "lake", "in/");
    s3
}

fn definition(output: &str, team: &str) -> Value {
    json!({
        "model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/{output}/"), "labels": {"team": team},
        "pipeline": {"task": "tabular-classification", "labels": ["bad", "good"]}, "execution": {"chunk_records": 500},
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn about(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() <= 1e-6 * wanted.abs().max(1e-6)
}

fn said(service: &Service, args: &[&str]) -> Said {
    Said::of(nightshift(None, Some(service)).args(args).output().expect("it runs"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_tells_what_it_took_and_sums_tell_it_of_all_jobs() {
    let s3 = lake("loan-default-pipeline", "loans/csv").await;
    let (service, _folder) = priced(&s3, 3.6, ServiceOptions::default()).await;
    let mut jobs = Vec::new();
    for (output, team) in [("a", "risk"), ("b", "risk"), ("c", "growth")] {
        let id = service.submit(&definition(output, team)).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "completed", "{job:#}");
        let usage = &job["usage"];
        let (held, wall) = (number(&usage["device_seconds"]), number(&usage["wall_seconds"]));
        assert!(held > 0.0 && held <= wall * 2.0, "two cores for no longer than the job took: {usage:#}");
        assert!((0.0..=1.0).contains(&number(&usage["utilisation"])), "{usage:#}");
        assert!(about(number(&usage["cost"]), held / 1000.0), "{usage:#}");
        assert!(about(number(&usage["cost_per_million_records"]), number(&usage["cost"]) / 9857.0 * 1e6), "{usage:#}");
        assert_eq!((&usage["currency"], &usage["retry_cost"], &usage["retry_device_seconds"]), (&json!("EUR"), &json!(0.0), &json!(0.0)));
        jobs.push(job);
    }
    let costs: Vec<f64> = jobs.iter().map(|job| number(&job["usage"]["cost"])).collect();
    let (_, teams) = service.get("/v1/usage?group_by=label.team").await;
    let of = |report: &Value, group: &str| {
        let items = report["items"].as_array().unwrap().clone();
        items.into_iter().find(|item| item["group"] == group).unwrap_or_else(|| panic!("no {group}: {report:#}"))
    };
    let risk = of(&teams, "risk");
    assert_eq!((&risk["jobs"], &risk["records"], &risk["currency"]), (&json!(2), &json!(2 * 9857), &json!("EUR")), "{teams:#}");
    // Sums are of billionths.
    assert!((number(&risk["cost"]) - costs[0] - costs[1]).abs() < 1e-8, "{risk:#} {costs:?}");
    assert!(number(&of(&teams, "growth")["cost"]) > 0.0 && teams["ungrouped"] == json!([]) && teams["total"][0]["jobs"] == 3, "{teams:#}");
    let (_, models) = service.get("/v1/usage?group_by=model").await;
    assert_eq!(of(&models, "s3://lake/model/")["jobs"], 3);
    let (_, days) = service.get("/v1/usage?group_by=day").await;
    assert!(days["items"].as_array().unwrap().iter().map(|day| day["jobs"].as_i64().unwrap()).sum::<i64>() == 3, "{days:#}");
    let (_, none) = service.get("/v1/usage?group_by=label.nobody").await;
    assert_eq!((&none["items"], &none["ungrouped"][0]["jobs"]), (&json!([]), &json!(3)), "{none:#}");
    let (_, limited) = service.get("/v1/usage?group_by=label.team&limit=1").await;
    assert_eq!((limited["items"].as_array().unwrap().len(), limited["others"].as_array().unwrap().len()), (1, 1), "{limited:#}");
    assert_eq!(service.get("/v1/usage?group_by=day&from=2001-01-01&to=2001-12-31").await.1["total"], json!([]));
    for query in ["", "?group_by=colour", "?group_by=label.", "?group_by=day&from=yesterday", "?group_by=day&form=2026-11-01"] {
        assert_eq!(service.status(&format!("/v1/usage{query}")).await, 422, "{query}");
    }

    let scrape = service.client().get(service.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let scrape = Scrape::parse(&scrape);
    let value = |name: &str, to: &str| {
        let sample = scrape.samples.iter().find(|s| s.name == name && s.labels.get("use").is_some_and(|found| found == to));
        sample.unwrap_or_else(|| panic!("no {name}")).value
    };
    assert!(about(value("nightshift_cost_total", "kept"), costs.iter().sum()), "{costs:?}");
    assert!(value("nightshift_device_seconds_total", "kept") > 0.0 && value("nightshift_device_seconds_total", "lost") == 0.0);

    let usage = said(&service, &["usage", "--by", "label.team"]);
    assert!(usage.code == 0 && usage.out.contains("LABEL.TEAM") && usage.out.contains("risk") && usage.out.contains("EUR"), "{usage:?}");
    let shown = said(&service, &["jobs", "get", jobs[1]["id"].as_str().unwrap()]);
    assert!(shown.out.contains("a million records") && shown.out.contains("were expected") && shown.out.contains("inferring"), "{shown:?}");
}

#[tokio::test]
async fn what_is_expected_rests_on_a_sample_first_and_then_on_what_was_measured() {
    let s3 = lake("loan-default-pipeline", "loans/parquet").await;
    let (service, _folder) = priced(&s3, 3.6, ServiceOptions::default()).await;
    let dry = async |output: &str| {
        let (status, answer) = service.post("/v1/jobs?dry_run=true", &definition(output, "risk")).await;
        assert_eq!(status, 200, "{answer:#}");
        answer["expected"].clone()
    };
    let first = dry("a").await;
    assert_eq!((&first["basis"], &first["provider"], &first["currency"]), (&json!("sample"), &json!("cpu"), &json!("EUR")), "{first:#}");
    assert!(number(&first["seconds"]) > 0.0 && about(number(&first["device_seconds"]), number(&first["seconds"]) * 2.0), "{first:#}");
    let id = service.submit(&definition("a", "risk")).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!((&job["state"], &job["estimate"]), (&json!("completed"), &json!(null)), "nothing like it was measured");

    let second = dry("b").await;
    assert_eq!(second["basis"], "measured", "{second:#}");
    assert!(about(number(&second["device_seconds"]), number(&job["usage"]["device_seconds"])), "as many records: {second:#}");
    let id = service.submit(&definition("b", "risk")).await;
    let again = service.wait(&id, PATIENCE).await;
    let estimate = &again["estimate"];
    assert_eq!((&estimate["basis"], &estimate["provider"]), (&json!("measured"), &json!("cpu")), "{again:#}");
    assert!(about(number(&estimate["cost"]), number(&job["usage"]["cost"])), "as many bytes: {estimate:#}");
    // Another pipeline was never measured.
    let mut other = definition("c", "risk");
    other["pipeline"]["probabilities"] = json!(true);
    let (_, answer) = service.post("/v1/jobs?dry_run=true", &other).await;
    assert_eq!(answer["expected"]["basis"], "sample", "{answer:#}");
}

#[tokio::test]
async fn a_budget_ends_a_job_and_what_is_done_is_kept() {
    let s3 = lake("loan-default-pipeline", "loans/csv").await;
    let (service, _folder) = priced(&s3, 3_600_000.0, ServiceOptions::default().arg("--chunk-slots", "1")).await;
    let mut dear = definition("out", "risk");
    dear["budget"] = json!({"max_cost": 0.001});
    let id = service.submit(&dear).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!((&job["state"], &job["budget"]), (&json!("failed"), &json!({"max_cost": 0.001})), "{job:#}");
    assert_eq!(job["error"]["type"], "urn:nightshift:problem:budget_exceeded", "{job:#}");
    let done = job["counts"]["chunks_done"].as_u64().unwrap();
    assert!(done == 1 && job["counts"]["chunks"].as_u64().unwrap() > 1, "the chunk that went beyond it was the last: {job:#}");
    assert!(number(&job["usage"]["cost"]) > 0.001 && job["error"]["detail"].as_str().unwrap().contains("budget.max_cost"), "{job:#}");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert!(output.manifest["complete"] == false && !output.rows.is_empty());

    let mut cheap = definition("enough", "risk");
    cheap["budget"] = json!({"max_cost": 1e9});
    let id = service.submit(&cheap).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
}

#[tokio::test]
async fn without_prices_there_are_no_costs_and_no_budgets() {
    let s3 = lake("loan-default-pipeline", "loans/csv").await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let mut with_budget = definition("out", "risk");
    with_budget["budget"] = json!({"max_cost": 5});
    let (status, problem) = service.post("/v1/jobs", &with_budget).await;
    let fault = &problem["errors"][0];
    assert_eq!((status, &fault["pointer"], &fault["code"]), (422, &json!("/budget"), &json!("no_pricing")), "{problem:#}");
    assert!(fault["hint"].as_str().unwrap().contains("per_hour.cpu"), "{problem:#}");
    for (budget, pointer) in [
        (json!({"max_cost": 0}), "/budget/max_cost"),
        (json!({}), "/budget/max_cost"),
        (json!(5), "/budget"),
        (json!({"max_costs": 5}), "/budget/max_costs"),
    ] {
        with_budget["budget"] = budget;
        let (status, problem) = service.post("/v1/jobs", &with_budget).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem:#}");
    }
    let id = service.submit(&definition("out", "risk")).await;
    let job = service.wait(&id, PATIENCE).await;
    let usage = &job["usage"];
    assert!(number(&usage["device_seconds"]) > 0.0 && usage["cost"].is_null() && usage["currency"].is_null(), "{usage:#}");
    let (_, sums) = service.get("/v1/usage?group_by=day").await;
    assert!(sums["total"][0]["jobs"] == 1 && sums["total"][0]["cost"].is_null(), "{sums:#}");
}

#[tokio::test]
async fn attempts_that_crash_are_charged_and_told_apart() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/poison/aborts-by-data.onnx", "lake", "model.onnx");
    let text: String = (0..512).map(|at| format!("{{\"x\": {}}}\n", if at == 100 { -1 } else { at % 7 + 2 })).collect();
    s3.put("lake", "in/a.jsonl", text.as_bytes());
    let (service, _folder) = priced(&s3, 3.6, ServiceOptions::default()).await;
    let definition =
        json!({"model": "s3://lake/model.onnx", "input": "s3://lake/in/", "output": "s3://lake/out/", "execution": {"batch_size": 64}});
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!((&job["state"], &job["counts"]["records"]["failed"]), (&json!("completed"), &json!(1)), "{job:#}");
    let usage = &job["usage"];
    let (all, lost) = (number(&usage["device_seconds"]), number(&usage["retry_device_seconds"]));
    assert!(0.0 < lost && lost < all, "{usage:#}");
    assert!(about(number(&usage["retry_cost"]), lost / 1000.0) && about(number(&usage["cost"]), all / 1000.0), "{usage:#}");
    let (_, sums) = service.get("/v1/usage?group_by=day").await;
    assert!((number(&sums["total"][0]["retry_cost"]) - number(&usage["retry_cost"])).abs() < 1e-8, "{sums:#}");
}

#[tokio::test]
async fn a_runner_with_nothing_to_do_is_let_go_and_comes_back_with_work() {
    let s3 = lake("loan-default-pipeline", "loans/csv").await;
    let service = Service::start(&s3, ServiceOptions::default().arg("--runner-idle-unload", "1s")).await;
    for output in ["a", "b"] {
        let id = service.submit(&definition(output, "risk")).await;
        assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
        let deadline = std::time::Instant::now() + PATIENCE;
        while !service.runner_pids().is_empty() {
            assert!(std::time::Instant::now() < deadline, "the runner stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(service.status("/readyz").await, 200, "a runner that is not there is none that cannot be had");
    let scrape = service.client().get(service.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let restarts = Scrape::parse(&scrape).samples.into_iter().filter(|s| s.name == "nightshift_runner_restarts_total");
    assert_eq!(restarts.map(|s| s.value).sum::<f64>(), 0.0, "it was not replaced");
}

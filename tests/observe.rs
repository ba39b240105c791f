//! What an operator sees: metrics, traces, logs, readiness.

mod support;

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use support::{Faults, S3Server, Service, ServiceOptions, collector::Collector, golden, scrape::Scrape};

const PATIENCE: Duration = Duration::from_secs(120);
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn with_model() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3
}

/// A table in which every tenth row has a cell that is no number.
fn table(rows: usize) -> String {
    let mut text = golden::DIABETES_COLUMNS.join(",") + "\n";
    for row in 0..rows {
        let cell = |column: usize| if row % 10 == 9 && column == 3 { "n/a".to_owned() } else { format!("0.0{}", (row + column) % 10) };
        text += &(0..10).map(cell).collect::<Vec<_>>().join(",");
        text.push('\n');
    }
    text
}

fn definition(output: &str) -> Value {
    json!({
        "model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/{output}/"),
        "execution": {"chunk_records": 100, "batch_size": 64},
    })
}

async fn scrape(service: &Service) -> Scrape {
    let answer = service.client().get(service.url("/metrics")).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    Scrape::parse(&answer.text().await.expect("a text"))
}

/// Scrapes until it is as wanted: gauges may be a second old.
async fn scrape_until(service: &Service, wanted: impl Fn(&Scrape) -> bool) -> Scrape {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let scraped = scrape(service).await;
        if wanted(&scraped) {
            return scraped;
        }
        assert!(std::time::Instant::now() < deadline, "this did not come: {:#?}", scraped.samples);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_scrape_after_a_job_says_what_the_job_did() {
    let s3 = with_model().await;
    s3.put("lake", "in/0.csv", table(300).as_bytes());
    s3.put("lake", "in/1.csv", table(250).as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition("out")).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let done = scrape_until(&service, |s| s.sum("nightshift_jobs", &[("state", "completed")]) == 1.0).await;

    let number = |pointer: &str| job.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} of {job:#}"));
    let records = |outcome| done.sum("nightshift_records_total", &[("outcome", outcome)]);
    assert_eq!((records("succeeded"), records("failed")), (495.0, 55.0));
    assert_eq!(records("succeeded"), number("/counts/records/succeeded"));
    assert_eq!(records("failed"), number("/counts/records/failed"));
    assert_eq!(done.sum("nightshift_chunk_attempts_total", &[("outcome", "committed")]), number("/counts/chunks"));
    assert_eq!(done.sum("nightshift_chunk_attempts_total", &[]), number("/counts/chunks"), "nothing was done twice");
    assert_eq!(done.sum("nightshift_jobs_finished_total", &[("state", "completed")]), 1.0);

    let output = golden::Output::read(&s3, "lake", "out/");
    output.check_invariants();
    let parts: usize = s3.keys("lake", "out/").iter().filter(|k| k.contains("part-")).map(|key| s3.get("lake", key).len()).sum();
    assert_eq!(done.sum("nightshift_written_bytes_total", &[]), parts as f64);
    assert_eq!(done.sum("nightshift_read_bytes_total", &[]), number("/usage/bytes_read"));
    for stage in ["decode", "featurize", "infer", "interpret", "encode", "put"] {
        let seconds = done.sum("nightshift_stage_seconds_total", &[("stage", stage)]);
        let told = number(&format!("/usage/stage_seconds/{stage}"));
        assert!(seconds > 0.0 && (seconds - told).abs() < 1e-3, "{stage}: {seconds} and {told}");
    }
    assert_eq!(done.sum("nightshift_batch_records_sum", &[]), 495.0, "records whose cells are no numbers do not reach the model");
    assert!(done.sum("nightshift_batch_records_count", &[]) >= 495.0 / 64.0);
    assert!(done.sum("nightshift_batch_records_bucket", &[("le", "64.0")]) > 0.0);

    for (operation, least) in [("list", 1.0), ("get", 6.0), ("put", 12.0), ("head", 1.0)] {
        let calls = done.sum("nightshift_store_requests_total", &[("operation", operation), ("outcome", "ok")]);
        assert!(calls >= least, "{operation}: {calls}");
    }
    assert_eq!(done.sum("nightshift_store_requests_total", &[("outcome", "failed")]), 0.0);
    assert_eq!(done.sum("nightshift_store_retries_total", &[]), 0.0);

    let requests =
        |route, method, status| done.sum("nightshift_http_requests_total", &[("route", route), ("method", method), ("status", status)]);
    assert_eq!(requests("/v1/jobs", "POST", "2xx"), 1.0);
    assert!(requests("/v1/jobs/{id}", "GET", "2xx") >= 1.0);
    let timed = done.sum("nightshift_http_request_duration_seconds_count", &[("route", "/v1/jobs"), ("method", "POST")]);
    assert_eq!(timed, 1.0);

    let gauge = |name, labels: &[(&str, &str)]| done.sum(name, labels);
    assert_eq!(gauge("nightshift_jobs", &[]), 1.0);
    assert_eq!(gauge("nightshift_chunks", &[]), 0.0, "chunks of finished jobs are no backlog");
    assert_eq!(gauge("nightshift_oldest_waiting_age_seconds", &[]), 0.0);
    assert_eq!(gauge("nightshift_database_up", &[]), 1.0);
    assert_eq!(gauge("nightshift_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    for process in ["service", "runner"] {
        assert!(gauge("nightshift_process_resident_memory_bytes", &[("process", process)]) > 1e6, "{process}");
        assert!(done.sum("nightshift_process_cpu_seconds_total", &[("process", process)]) > 0.0, "{process}");
    }
    let hex = id.strip_prefix("job_").expect("an id");
    assert!(!done.series().iter().any(|series| series.contains(hex) || series.contains("lake")), "{:#?}", done.series());
}

#[tokio::test]
async fn fifty_jobs_and_a_hundred_made_up_requests_add_no_series() {
    let s3 = with_model().await;
    s3.put("lake", "in/0.csv", table(20).as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let strange = |n: usize| {
        let (client, url) = (service.client().clone(), service.url(&format!("/v1/jobz/{n}")));
        let method = reqwest::Method::from_bytes(format!("METHOD{n}").as_bytes()).expect("a method");
        async move { client.request(method, url).send().await.expect("an answer").status().as_u16() }
    };
    let round = async |n: usize| {
        let id = service
            .submit(&json!({"name": format!("name-{n}"), "labels": {format!("label-{n}"): "x"},
            "model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/out-{n}/")}))
            .await;
        assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
        assert_eq!(service.get(&format!("/v1/jobs/{id}/results")).await.0, 200);
        for path in [format!("/nothing/{n}"), format!("/v1/jobs/job_{n:032x}"), format!("/v1/jobs/{n}/results/{n}")] {
            assert_eq!(service.get(&path).await.0, 404, "{path}");
        }
        assert_eq!(strange(n).await, 404);
    };
    round(0).await;
    let before = scrape_until(&service, |s| s.sum("nightshift_jobs", &[("state", "completed")]) == 1.0).await.series();
    for n in 1..=50 {
        round(n).await;
    }
    let after = scrape_until(&service, |s| s.sum("nightshift_jobs", &[("state", "completed")]) == 51.0).await;
    // What happens by chance is another matter: a listing that finds its prefix empty, or the first scrape's own route.
    let new: Vec<String> = after.series().difference(&before).filter(|s| !s.contains("\"/metrics\"")).cloned().collect();
    assert_eq!(new, Vec::<String>::new());
    assert!(after.samples.len() < 400, "{}", after.samples.len());
    assert_eq!(after.sum("nightshift_http_requests_total", &[("route", "unmatched"), ("method", "other"), ("status", "4xx")]), 51.0);
}

#[tokio::test]
async fn a_killed_runner_is_counted_with_its_reason_and_no_record_twice() {
    let s3 = with_model().await;
    for object in 0..4 {
        s3.put("lake", &format!("in/{object}.csv"), table(20_000).as_bytes());
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&definition("out")).await;
    // A kill may hit a moment in which no chunk is in flight.
    let mut kills = 0;
    while scrape(&service).await.sum("nightshift_chunk_attempts_total", &[("outcome", "crashed")]) == 0.0 {
        let before = service.job(&id).await["counts"]["chunks_done"].as_u64();
        service.until(&id, |job| job["counts"]["chunks_done"].as_u64() > before).await;
        assert!(!service.is_final(&id).await, "the job is too short for this test: it was over after {kills} kills");
        kills += usize::from(service.kill_runner());
        scrape_until(&service, |s| s.sum("nightshift_runner_restarts_total", &[]) == kills as f64).await;
    }
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let done = scrape(&service).await;
    assert_eq!(done.sum("nightshift_runner_restarts_total", &[("reason", "crashed")]), kills as f64);
    assert_eq!(done.sum("nightshift_records_total", &[]), 80_000.0);
    assert_eq!(done.sum("nightshift_records_total", &[("outcome", "failed")]), 8_000.0);
}

#[tokio::test]
async fn leases_of_a_service_that_died_are_counted_when_they_are_taken_back() {
    let s3 = with_model().await;
    // Whoever has this chunk keeps it.
    s3.put("lake", "loop/x.onnx", &support::fixture("models/broken/endless-loop.onnx"));
    s3.put("lake", "in/x.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    let mut service = Service::start(&s3, ServiceOptions::default()).await;
    let definition = json!({"model": "s3://lake/loop/x.onnx", "input": "s3://lake/in/", "output": "s3://lake/out/"});
    let id = service.submit(&definition).await;
    scrape_until(&service, |s| s.sum("nightshift_chunks", &[("state", "running")]) >= 1.0).await;
    service.kill9();
    service.restart().await;
    scrape_until(&service, |s| s.sum("nightshift_lease_expiries_total", &[]) >= 1.0).await;
    let (status, _) = service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await;
    assert_eq!(status, 202);
}

#[tokio::test]
async fn requests_that_a_store_refuses_for_a_while_are_counted_as_retries_by_reason() {
    let s3 = with_model().await;
    for object in 0..6 {
        s3.put("lake", &format!("in/{object}.csv"), table(20_000).as_bytes());
    }
    let faults = Faults { seed: support::seed(), slow_down: 0.1, server_error: 0.1, cut_body: 0.2, ..Faults::default() };
    let proxy = s3.with_faults(faults).await;
    let service = Service::start(&proxy, ServiceOptions::default()).await;
    let mut definition = definition("out");
    definition["execution"] = json!({"chunk_records": 5000});
    let id = service.submit(&definition).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    let done = scrape(&service).await;
    let happened = |what: &str| proxy.happened().iter().filter(|fault| fault.contains(what)).count() as f64;
    let retries = |reason| done.sum("nightshift_store_retries_total", &[("reason", reason)]);
    assert!(happened("503") > 0.0 && happened("500") > 0.0, "{:?}", proxy.happened());
    for (reason, fault) in [("throttled", "503"), ("server_error", "500")] {
        let (counted, happened) = (retries(reason), happened(fault));
        // A reader that has what it wanted drops the rest of its object, retry and all.
        assert!(counted > 0.0 && counted <= happened && counted >= 0.8 * happened, "{reason}: {counted} of {:?}", proxy.happened());
    }
    assert_eq!(done.sum("nightshift_records_total", &[]), 120_000.0);
}

#[tokio::test]
async fn every_metric_is_documented_with_its_help_text() {
    let s3 = with_model().await;
    s3.put("lake", "in/0.csv", table(20).as_bytes());
    let proxy = s3.with_faults(Faults { seed: support::seed(), slow_down: 0.3, ..Faults::default() }).await;
    let service = Service::start(&proxy, ServiceOptions::default()).await;
    let id = service.submit(&definition("out")).await;
    service.wait(&id, PATIENCE).await;
    let scraped = scrape_until(&service, |s| s.sum("nightshift_store_retries_total", &[]) > 0.0).await;
    let page = include_str!("../docs/OPERATIONS.md");
    let names = page.lines().filter(|l| l.starts_with("| `nightshift_")).filter_map(|l| l.split('`').nth(1));
    let documented: BTreeSet<&str> = names.filter(|name| !name.contains(' ')).collect();
    let shown: BTreeSet<String> = scraped
        .families
        .iter()
        .map(|(family, (kind, _))| if kind == "counter" { format!("{family}_total") } else { family.clone() })
        .collect();
    assert_eq!(shown.iter().map(String::as_str).collect::<BTreeSet<_>>(), documented);
    for (family, (_, help)) in &scraped.families {
        let help = help.trim_end_matches('.');
        assert!(page.contains(help), "docs/OPERATIONS.md does not say of {family}: {help}");
    }
}

#[tokio::test]
async fn a_jobs_spans_reach_the_collector_in_the_callers_trace() {
    let s3 = with_model().await;
    s3.put("lake", "in/0.csv", table(300).as_bytes());
    let collector = Collector::start().await;
    let options = ServiceOptions::default().env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url()).env("OTEL_BSP_SCHEDULE_DELAY", "100");
    // The spans do not depend on what is logged.
    let service = Service::start(&s3, options.env("NIGHTSHIFT_LOG", "error")).await;
    let request = service.client().post(service.url("/v1/jobs")).header("traceparent", CALLER).json(&definition("out"));
    let job: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    let id = job["id"].as_str().expect("an id");
    let job = service.wait(id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let finalized = collector.until("finalize job").await;
    let accepted = collector.until("accept job").await;
    let planned = collector.until("plan job").await;
    assert_eq!(accepted.parent_id, "00f067aa0ba902b7");
    assert_eq!((finalized.attribute("state"), finalized.service.as_str()), (Some("completed"), "nightshift"));
    let chunks: Vec<_> = collector.spans().into_iter().filter(|s| s.name == "run chunk").collect();
    let number = |span: &support::collector::Span, name: &str| span.attribute(name).and_then(|v| v.parse::<u64>().ok()).expect("a number");
    let seqs: BTreeSet<u64> = chunks.iter().map(|s| number(s, "chunk.seq")).collect();
    assert!(seqs.len() > 1 && seqs == (0..job["counts"]["chunks"].as_u64().expect("a number")).collect(), "{chunks:#?}");
    assert!(chunks.iter().all(|s| s.attribute("outcome") == Some("committed")), "{chunks:#?}");
    assert_eq!(chunks.iter().map(|s| number(s, "records.failed")).sum::<u64>(), 30);
    for span in chunks.iter().chain([&finalized, &planned]) {
        assert_eq!(span.parent_id, accepted.span_id, "{span:?}");
    }
    for span in collector.spans() {
        assert_eq!(span.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736", "{span:?}");
        assert_eq!(span.attribute("job.id"), Some(id), "{span:?}");
    }
}

#[tokio::test]
async fn a_callers_trace_that_is_not_sampled_or_not_valid_is_respected_or_replaced() {
    let s3 = with_model().await;
    s3.put("lake", "in/0.csv", table(20).as_bytes());
    let collector = Collector::start().await;
    let options = ServiceOptions::default().env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("{}/v1/traces", collector.url()));
    let options = options.env("OTEL_BSP_SCHEDULE_DELAY", "100").env("OTEL_RESOURCE_ATTRIBUTES", "service.name=scoring");
    let service = Service::start(&s3, options).await;
    for (n, header) in [CALLER.replace("-01", "-00"), "no trace at all".to_owned()].iter().enumerate() {
        let request = service.client().post(service.url("/v1/jobs")).header("traceparent", header);
        let answer = request.json(&definition(&format!("out-{n}"))).send().await.expect("an answer");
        assert_eq!(answer.status(), 202);
        let job: Value = answer.json().await.expect("JSON");
        service.wait(job["id"].as_str().expect("an id"), PATIENCE).await;
    }
    let finalized = collector.until("finalize job").await;
    assert_eq!(finalized.service, "scoring");
    assert!(collector.spans().iter().all(|s| s.trace_id == finalized.trace_id), "{:#?}", collector.spans());
    assert_ne!(finalized.trace_id, CALLER[3..35], "a trace that its caller does not record is not recorded here either");
}

#[tokio::test]
async fn a_dead_collector_delays_no_job_and_no_stop() {
    let s3 = with_model().await;
    s3.put("lake", "in/0.csv", table(300).as_bytes());
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    let options = ServiceOptions::default().env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let options = options.env("OTEL_BSP_MAX_QUEUE_SIZE", "4").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2");
    let mut service = Service::start(&s3, options).await;
    for n in 0..5 {
        let id = service.submit(&definition(&format!("out-{n}"))).await;
        assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    }
    assert_eq!(service.terminate(Duration::from_secs(20)).await, Some(0));
    let log = service.log();
    assert!(log.contains("dropped"), "spans that had no room are said once:\n{log}");
    let mentions = log.lines().filter(|line| line.contains("spans were lost") || line.contains("opentelemetry")).count();
    assert!(mentions < 6, "{log}");
    assert!(log.contains("the last spans did not reach the collector"), "{log}");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_used_is_said_at_the_start() {
    for (name, value, said) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is \"grpc\""),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:four", "OTEL_EXPORTER_OTLP_ENDPOINT is no address such as http://collector:4318"),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nightshift"));
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318").env(name, value).arg("serve");
        let output = command.output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn log_lines_are_json_and_name_job_and_chunk_in_both_processes() {
    let s3 = with_model().await;
    s3.put_fixture("models/churn-lightgbm", "lake", "warns/");
    s3.put_fixture("data/churn-encoded/csv", "lake", "churn/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&json!({"model": "s3://lake/warns/", "input": "s3://lake/churn/", "output": "s3://lake/out/"})).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    let lines: Vec<Value> =
        service.log().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    assert!(lines.iter().all(|l| l["level"].is_string() && l["timestamp"].is_string() && l["target"].is_string()));
    let says = |line: &Value, text: &str| line["message"].as_str().is_some_and(|m| m.contains(text));
    for (text, chunk) in [("accepted job", false), ("planned job", false), ("committed chunk", true), ("is completed", false)] {
        let line = lines.iter().find(|l| says(l, text)).unwrap_or_else(|| panic!("no line says {text:?}\n{}", service.log()));
        assert_eq!(line["job.id"], id, "{line}");
        assert!(!chunk || line["chunk.seq"].is_u64(), "{line}");
    }
    // What the runner and the runtime in it say while they work for a chunk.
    let of_runner: Vec<&Value> = lines.iter().filter(|l| l["span"]["name"] == "chunk").collect();
    assert!(of_runner.iter().any(|l| says(l, "loaded")), "{}", service.log());
    assert!(of_runner.iter().all(|l| l["span"]["job.id"] == id && l["span"]["chunk.seq"] == "0"), "{of_runner:#?}");
}

#[tokio::test]
async fn readiness_lists_its_reasons_and_comes_back_by_itself() {
    let s3 = with_model().await;
    s3.put("lake", "in/0.csv", table(20).as_bytes());
    let folder = tempfile::tempdir().expect("a folder");
    let library = folder.path().join("libonnxruntime.so");
    std::fs::write(&library, b"no library").expect("a file");
    let options = ServiceOptions::default().env("ORT_DYLIB_PATH", library.to_str().expect("UTF-8"));
    let mut service = Service::start(&s3, options).await;
    let id = service.submit(&definition("out")).await;
    let reason = async |code: &str, text: &str| {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let (status, problem) = service.get("/readyz").await;
            let errors = problem["errors"].as_array().cloned().unwrap_or_default();
            if errors.iter().any(|e| e["code"] == code && e["detail"].as_str().is_some_and(|d| d.contains(text))) {
                assert!(status == 503 && problem["detail"].as_str().is_some_and(|d| d.contains(text)), "{problem:#}");
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{status} {problem:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    reason("runner", "the runner did not start").await;
    std::fs::remove_file(&library).expect("it is there");
    reason("runner", "is no file any more").await;
    assert_eq!(service.get("/livez").await.0, 200);
    let (status, said) = healthcheck(&service);
    assert!(status == Some(1) && said.contains("is no file any more"), "{status:?} {said}");
    std::fs::copy(std::env::var_os("ORT_DYLIB_PATH").expect("a library"), &library).expect("a copy");
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(service.get("/readyz").await.0, 200);
    assert_eq!(healthcheck(&service), (Some(0), "ready\n".to_owned()));
    assert_eq!(service.terminate(Duration::from_secs(20)).await, Some(0));
    let (status, said) = healthcheck(&service);
    assert!(status == Some(1) && said.contains("does not answer"), "{status:?} {said}");
}

/// What a container's health check does.
fn healthcheck(service: &Service) -> (Option<i32>, String) {
    let listen = service.url("").trim_start_matches("http://").to_owned();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_nightshift")).args(["healthcheck", "--listen", &listen]).output();
    let output = output.expect("it runs");
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

//! The edge, as a client sees it.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Endpoint, S3Server, Service, ServiceOptions,
    golden::{self, Output},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn scored() -> (S3Server, Service, String) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/churn-lightgbm", "lake", "model/");
    s3.put_fixture("data/churn-encoded/csv", "lake", "in/");
    s3.put("lake", "in/z.csv", b"tenure,seniorcitizen,totalcharges,monthlycharges\nx,0,1,1\ny,0,1,1\nz,0,1,1\n");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let definition = json!({
        "name": "churn", "labels": {"team": "growth"},
        "model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/", "execution": {"chunk_records": 300},
    });
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    (s3, service, id)
}

#[tokio::test]
async fn a_finished_job_can_be_read_in_every_way_that_the_document_names() {
    let (s3, service, id) = scored().await;
    let job = service.job(&id).await;
    assert_eq!(job["progress"], 1.0);
    assert_eq!(job["counts"]["records"], json!({"total": 2035, "succeeded": 2032, "failed": 3}));
    assert_eq!((&job["usage"]["provider"], &job["usage"]["runtime"]), (&json!("cpu"), &json!("1.31.1")));
    assert_eq!(job["model"]["digest"].as_str().map(str::len), Some(64));
    assert_eq!(job["pipeline"]["labels"], json!(["stays", "leaves"]));
    for time in ["created_at", "started_at", "finished_at"] {
        assert!(job[time].as_str().is_some_and(|t| t.ends_with('Z')), "{time}: {}", job[time]);
    }

    let parts = service.get_all(&format!("/v1/jobs/{id}/results")).await;
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!(parts.iter().map(|p| p["records"].as_u64().unwrap()).sum::<u64>(), 2032);
    for part in &parts {
        // A presigned URL needs no credentials.
        let signed = service.client().get(part["url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(signed.status(), 200);
        assert_eq!(signed.bytes().await.unwrap().len() as u64, part["bytes"].as_u64().unwrap());
        assert!(part["expires_at"].is_string());
    }

    let path = format!("/v1/jobs/{id}/results/0");
    let whole = service.client().get(service.url(&path)).send().await.unwrap();
    assert_eq!((whole.status().as_u16(), whole.headers()["content-type"].to_str().unwrap()), (200, "application/x-ndjson"));
    let whole = whole.bytes().await.unwrap();
    for (range, wanted) in [("bytes=0-9", &whole[..10]), ("bytes=10-", &whole[10..]), ("bytes=-7", &whole[whole.len() - 7..])] {
        let part = service.client().get(service.url(&path)).header("range", range).send().await.unwrap();
        assert_eq!(part.status(), 206, "{range}");
        assert!(part.headers()["content-range"].to_str().unwrap().ends_with(&format!("/{}", whole.len())));
        assert_eq!(part.bytes().await.unwrap(), wanted, "{range}");
    }
    let beyond = service.client().get(service.url(&path)).header("range", "bytes=99999999-").send().await.unwrap();
    assert_eq!(beyond.status(), 416);
    let (status, manifest) = service.get(&format!("/v1/jobs/{id}/results/manifest")).await;
    assert_eq!((status, &manifest["counts"]), (200, &output.manifest["counts"]));

    let errors = service.get_all(&format!("/v1/jobs/{id}/errors")).await;
    assert_eq!(errors.iter().map(|e| e["_position"].as_u64().unwrap()).collect::<Vec<_>>(), [49, 57, 65]);
    let (_, page) = service.get(&format!("/v1/jobs/{id}/errors?limit=2")).await;
    let (_, rest) = service.get(&format!("/v1/jobs/{id}/errors?limit=2&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((page["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (2, 1));
    assert!(rest["next_cursor"].is_null());

    let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
    assert!(chunks.len() > 3 && chunks.iter().all(|c| c["state"] == "done" && c["claims"] == 1), "{chunks:?}");
    let (_, page) = service.get("/v1/jobs?label.team=growth&state=completed").await;
    assert_eq!(page["items"][0]["id"], id.as_str());
    assert_eq!(service.get("/v1/jobs?label.team=risk").await.1["items"], json!([]));
}

#[tokio::test]
async fn an_etag_saves_the_body_until_something_changes() {
    let (_s3, service, id) = scored().await;
    let url = service.url(&format!("/v1/jobs/{id}"));
    let first = service.client().get(&url).send().await.unwrap();
    let etag = first.headers()["etag"].clone();
    let again = service.client().get(&url).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    assert_eq!(service.client().get(&url).header("if-none-match", "\"other\"").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_output_prefix_is_used_once() {
    let (s3, service, _) = scored().await;
    let again = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"});
    let (status, problem) = service.post("/v1/jobs", &again).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:nightshift:problem:output_not_empty")), "{problem:#}");
    s3.remove("lake", "out/");
    s3.put("lake", "slow/x.onnx", &support::fixture("models/broken/endless-loop.onnx"));
    s3.put("lake", "slow-in/x.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    let id = service.submit(&json!({"model": "s3://lake/slow/x.onnx", "input": "s3://lake/slow-in/", "output": "s3://lake/out/"})).await;
    let nested = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/nested/"});
    let (status, problem) = service.post("/v1/jobs", &nested).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:nightshift:problem:output_claimed")), "{problem:#}");
    assert!(problem["detail"].as_str().unwrap().contains(&id));
    service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "cancelled");
    let (status, problem) = service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await;
    assert_eq!(status, 409, "{problem:#}");
}

#[tokio::test]
async fn whatever_is_asked_wrongly_is_answered_by_a_problem() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/churn-lightgbm", "lake", "model/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let client = service.client();
    let post = |body: &str, kind: &str| client.post(service.url("/v1/jobs")).header("content-type", kind).body(body.to_owned()).send();
    let missing = format!("/v1/jobs/job_{}", "0".repeat(32));
    let answers = [
        (post("{", "application/json").await, 400, "malformed_request"),
        (post("{}", "text/csv").await, 415, "unsupported_media_type"),
        (post("{}", "application/json").await, 422, "invalid_request"),
        (client.post(service.url("/v1/jobs?dry_run=perhaps")).body("{}").send().await, 422, "invalid_request"),
        (client.post(service.url("/v1/jobs")).header("idempotency-key", "two words").body("{}").send().await, 422, "invalid_request"),
        (client.get(service.url("/v1/job")).send().await, 404, "not_found"),
        (client.get(service.url(&missing)).send().await, 404, "not_found"),
        (client.get(service.url("/v1/jobs/../../etc/passwd")).send().await, 404, "not_found"),
        (client.get(service.url("/v1/jobs/job_x")).send().await, 404, "not_found"),
        (client.get(service.url(&format!("{missing}/results/0"))).send().await, 404, "not_found"),
        (client.delete(service.url("/v1/jobs")).send().await, 405, "method_not_allowed"),
        (client.get(service.url("/v1/jobs?stat=failed")).send().await, 422, "invalid_request"),
        (client.get(service.url("/v1/jobs?state=done")).send().await, 422, "invalid_request"),
        (client.get(service.url("/v1/jobs?limit=0")).send().await, 422, "invalid_request"),
        (client.get(service.url(&format!("{missing}?wait=1h"))).send().await, 422, "invalid_request"),
    ];
    for (answer, status, kind) in answers {
        let answer = answer.unwrap();
        let url = answer.url().clone();
        assert_eq!(answer.status().as_u16(), status, "{url}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{url}");
        assert!(answer.headers().contains_key("x-request-id"), "{url}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["type"], format!("urn:nightshift:problem:{kind}"), "{url}: {problem:#}");
        assert_eq!(problem["status"], status, "{url}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read_to_its_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let s3 = S3Server::start().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let url = service.url("");
    let mut socket = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![b'x'; (1 << 20) + 1]).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("body_too_large") {
        assert!(socket.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn what_the_model_does_not_fit_is_refused_at_the_door() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/churn-lightgbm", "lake", "model/");
    s3.put("lake", "two/a.onnx", b"x");
    s3.put("lake", "two/b.onnx", b"x");
    s3.put("lake", "bad/model.onnx", &support::fixture("models/diabetes-ridge/model.onnx"));
    s3.put("lake", "bad/nightshift.json", b"{\"taks\": \"raw\"}");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let with = |model: &str, pipeline: Value, output: Value| {
        let mut definition = json!({"model": model, "input": "s3://lake/in/", "output": {"uri": "s3://lake/out/"}, "pipeline": pipeline});
        definition["output"].as_object_mut().unwrap().extend(output.as_object().unwrap().clone());
        definition
    };
    let none = || json!({});
    let cases = [
        (with("s3://lake/nowhere/", none(), none()), "/model", "object_not_found"),
        (with("s3://elsewhere/model/", none(), none()), "/model", "bucket_not_found"),
        (with("s3://lake/two/", none(), none()), "/model", "several_onnx_files"),
        (with("s3://lake/bad/", none(), none()), "/model", "invalid_nightshift_json"),
        (with("file:///etc/", none(), none()), "/model", "outside_file_roots"),
        (with("s3://lake/model/", json!({"features": ["a"]}), none()), "/pipeline/features", "wrong_feature_count"),
        (with("s3://lake/model/", json!({"labels": ["a"]}), none()), "/pipeline/labels", "wrong_label_count"),
        (with("s3://lake/model/", json!({"outputs": ["nothing"]}), none()), "/pipeline/outputs", "unknown_output"),
        (with("s3://lake/model/", json!({"columns": {"nothing": "a"}}), none()), "/pipeline/columns", "unknown_input"),
        (with("s3://lake/model/", json!({"task": "tabular-regression"}), none()), "/pipeline/task", "no_regression_output"),
        (with("s3://lake/model/", none(), json!({"include_input": ["score"]})), "/output/prediction_prefix", "column_collision"),
        (with("s3://lake/model/", none(), json!({"include_input": ["id", "id"]})), "/output/include_input", "column_collision"),
    ];
    for (definition, pointer, code) in cases {
        let (status, problem) = service.post("/v1/jobs", &definition).await;
        assert_eq!(status, 422, "{definition}\n{problem:#}");
        let faults = problem["errors"].as_array().unwrap();
        assert!(faults.iter().any(|f| f["pointer"] == pointer && f["code"] == code), "{definition} wants {code} at {pointer}: {problem:#}");
    }
}

#[tokio::test]
async fn the_docs_are_served_without_a_request_that_leaves_the_machine() {
    let s3 = S3Server::start().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let (status, document) = service.get("/openapi.json").await;
    assert_eq!(status, 200);
    let kept: Value = serde_json::from_str(include_str!("../openapi/openapi.json")).unwrap();
    assert_eq!(document, kept, "run  cargo run -- openapi > openapi/openapi.json");
    let page = service.client().get(service.url("/docs")).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let base = page.url().clone();
    let html = page.text().await.unwrap();
    let scripts: Vec<&str> = html.split(['"', '\'']).filter(|t| t.ends_with(".js") || t.ends_with(".css")).collect();
    assert!(scripts.len() >= 3, "{html}");
    for script in scripts {
        let url = base.join(script).unwrap();
        assert_eq!(url.host_str(), Some("127.0.0.1"), "{script}");
        let text = service.client().get(url).send().await.unwrap();
        assert_eq!(text.status(), 200, "{script}");
        if script.contains("initializer") {
            let text = text.text().await.unwrap();
            assert!(text.contains("/openapi.json") && !text.contains("https://"), "{text}");
        }
    }
    assert_eq!(service.get("/livez").await, (200, json!({"status": "ok"})));
    assert_eq!(service.get("/readyz").await, (200, json!({"status": "ok"})));
}

#[tokio::test]
async fn files_are_read_and_written_below_the_configured_roots_only() {
    let s3 = S3Server::start().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let root = service.file_root();
    for file in support::fixture_files("models/diabetes-ridge").iter().chain(&support::fixture_files("data/diabetes/csv")) {
        let name = file.rsplit('/').next().unwrap();
        let folder = root.join(if file.starts_with("models") { "model" } else { "in" });
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), support::fixture(file)).unwrap();
    }
    std::os::unix::fs::symlink("/etc", root.join("escape")).unwrap();
    let at = |path: &str| format!("file://{}/{path}", root.display());
    let id = service.submit(&json!({"model": at("model/"), "input": at("in/"), "output": at("out/")})).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read_folder(&root.join("out"));
    output.check_invariants();
    assert_eq!(output.rows.len(), golden::expected("diabetes-ridge.jsonl").len());
    let (_, results) = service.get(&format!("/v1/jobs/{id}/results")).await;
    assert_eq!(results["items"][0]["url"], format!("/v1/jobs/{id}/results/0"), "files cannot be presigned");
    for outside in ["file:///etc/".to_owned(), at("escape/")] {
        let (status, problem) = service.post("/v1/jobs", &json!({"model": at("model/"), "input": outside, "output": at("out2/")})).await;
        assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("outside_file_roots")), "{problem:#}");
        let (status, problem) = service.post("/v1/jobs", &json!({"model": at("model/"), "input": at("in/"), "output": outside})).await;
        assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("outside_file_roots")), "{problem:#}");
    }
}

#[tokio::test]
async fn a_provider_that_the_machine_cannot_give_is_an_error_and_never_a_quiet_fall_back() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let definition = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/", "execution": {"providers": ["cuda", "cpu"]}});
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(
        (&job["state"], &job["error"]["type"]),
        (&json!("failed"), &json!("urn:nightshift:problem:provider_unavailable")),
        "{job:#}"
    );
    assert!(job["error"]["detail"].as_str().unwrap().contains("cuda"), "{job:#}");
}

#[tokio::test]
async fn the_curl_example_of_the_readme_works_as_it_stands() {
    let readme = include_str!("../README.md");
    let command =
        readme.split("```sh").map(|b| b.split("```").next().unwrap()).find(|b| b.contains("curl") && b.contains("/v1/jobs")).unwrap();
    let body = command.split("-d '").nth(1).and_then(|b| b.split('\'').next()).unwrap();
    let definition: Value = serde_json::from_str(body).unwrap();
    let s3 = S3Server::start().await;
    for bucket in ["models", "lake"] {
        s3.create_bucket(bucket);
    }
    s3.put_fixture("models/loan-default-pipeline", "models", "loans/");
    s3.put_fixture("data/loans/parquet", "lake", "loans/2026-11-23/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    assert!(s3.url().starts_with("http://127.0.0.1:"));
    let script = command.replace("http://127.0.0.1:8080", &service.url(""));
    let output = std::process::Command::new("bash").arg("-ec").arg(&script).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    let (_, page) = service.get("/v1/jobs").await;
    let id = page["items"][0]["id"].as_str().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stdout)));
    let job = service.wait(id, PATIENCE).await;
    assert_eq!((&job["state"], &job["counts"]["records"]["succeeded"]), (&json!("completed"), &json!(9857)), "{job:#}");
    let prefix = definition["output"]["uri"].as_str().unwrap().strip_prefix("s3://lake/").unwrap();
    Output::read(&s3, "lake", prefix).check_invariants();
}

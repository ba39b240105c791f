//! Promise 4: a bad record costs one record, a bad object one object.

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Faults, S3Server, Service, ServiceOptions, golden};

const PATIENCE: Duration = Duration::from_secs(60);

async fn with_model(model: &str) -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture(&format!("models/{model}"), "lake", "model/");
    s3
}

async fn run(s3: &S3Server, service: &Service) -> (serde_json::Value, golden::Output) {
    let id = service.submit(&json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    let job = service.wait(&id, PATIENCE).await;
    let output = golden::Output::read(s3, "lake", "out/");
    output.check_invariants();
    (job, output)
}

/// Error rows as (source, position, code).
fn errors(output: &golden::Output) -> Vec<(String, Option<u64>, String)> {
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    output.errors.iter().map(|e| (text(&e["_source"]), e["_position"].as_u64(), text(&e["code"]))).collect()
}

#[tokio::test]
async fn bad_rows_of_a_csv_become_error_rows_at_their_byte_offset() {
    let s3 = with_model("churn-lightgbm").await;
    let header = "tenure,seniorcitizen,totalcharges,monthlycharges,note\n";
    let rows: [(&str, Option<&str>); 8] = [
        ("1,0,29.85,29.85,ok\n", None),
        ("34,0,x12,56.95,unparseable\n", Some("invalid_number")),
        ("2,0,108.15,53.85,\"quoted, with\na newline\"\n", None),
        ("45,0,,42.30,missing\n", Some("missing_value")),
        ("2,0,151.65\n", Some("wrong_field_count")),
        ("8,0,820.5,99.65,\"doubled \"\"quotes\"\"\"\n", None),
        ("22,0,1949.4,89.1,ok\r\n", None),
        ("10,0,301.9,29.75,\"never ends\n1,2,3,4,5\n", Some("unterminated_quote")),
    ];
    let mut text = header.to_owned();
    let mut expected = Vec::new();
    let mut good = Vec::new();
    for (row, code) in rows {
        match code {
            Some(code) => expected.push(("in/a.csv".to_owned(), Some(text.len() as u64), code.to_owned())),
            None => good.push(text.len() as u64),
        }
        text += row;
    }
    s3.put("lake", "in/a.csv", text.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let (job, output) = run(&s3, &service).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(errors(&output), expected);
    assert_eq!(output.rows.iter().map(|r| r["_position"].as_u64().unwrap()).collect::<Vec<_>>(), good);
    let paged = service.get_all(&format!("/v1/jobs/{}/errors", job["id"].as_str().unwrap())).await;
    assert_eq!(paged.len(), expected.len());
}

#[tokio::test]
async fn bad_lines_of_json_lines_become_error_rows_at_their_byte_offset() {
    let s3 = with_model("churn-lightgbm").await;
    let long = format!("{{\"tenure\": 1, \"note\": \"{}\"}}\n", "x".repeat(17 << 20));
    let lines: [(&str, Option<&str>); 8] = [
        ("{\"tenure\": 1, \"seniorcitizen\": 0, \"totalcharges\": 29.85, \"monthlycharges\": 29.85}\n", None),
        ("{\"tenure\": 1, \"seniorcitizen\": 0,\n", Some("invalid_json")),
        ("[1, 2]\n", Some("not_an_object")),
        ("\n", None),
        ("{\"tenure\": 1, \"seniorcitizen\": 0, \"totalcharges\": 29.85}\n", Some("missing_value")),
        ("{\"tenure\": \"x\", \"seniorcitizen\": 0, \"totalcharges\": 1, \"monthlycharges\": 2}\n", Some("wrong_type")),
        (&long, Some("record_too_large")),
        ("{\"tenure\": 2, \"seniorcitizen\": 1, \"totalcharges\": 1e2, \"monthlycharges\": 53}", None),
    ];
    let mut text = String::new();
    let (mut expected, mut good) = (Vec::new(), Vec::new());
    for (line, code) in lines {
        match code {
            Some(code) => expected.push(("in/a.jsonl".to_owned(), Some(text.len() as u64), code.to_owned())),
            None if line.trim().is_empty() => {}
            None => good.push(text.len() as u64),
        }
        text += line;
    }
    s3.put("lake", "in/a.jsonl", text.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let (job, output) = run(&s3, &service).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(errors(&output), expected);
    assert_eq!(output.rows.iter().map(|r| r["_position"].as_u64().unwrap()).collect::<Vec<_>>(), good);
}

#[tokio::test]
async fn an_object_whose_columns_do_not_fit_costs_its_own_records_only() {
    let s3 = with_model("churn-lightgbm").await;
    s3.put("lake", "in/a.csv", b"tenure,seniorcitizen,totalcharges,monthlycharges\n1,0,29.85,29.85\n");
    s3.put("lake", "in/b.csv", b"Tenure,seniorcitizen,totalcharges\n1,0,29.85\n2,0,30\n");
    s3.put("lake", "in/c.csv", b"tenure,seniorcitizen,totalcharges,monthlycharges\n2,0,29.85,29.85\n");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let (job, output) = run(&s3, &service).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let sources: Vec<_> = output.rows.iter().map(|r| r["_source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["in/a.csv", "in/c.csv"]);
    assert_eq!(errors(&output).len(), 2);
    assert!(errors(&output).iter().all(|(source, _, code)| source == "in/b.csv" && code == "missing_column"), "{:?}", output.errors);
}

#[tokio::test]
async fn a_truncated_parquet_object_and_one_that_vanished_cost_those_objects_only() {
    let s3 = with_model("churn-lightgbm").await;
    for (index, object) in ["churn-0", "churn-1", "churn-2"].iter().enumerate() {
        let bytes = support::fixture(&format!("data/churn-encoded/parquet/customers-{index}.parquet"));
        s3.put("lake", &format!("in/{object}.parquet"), &bytes);
    }
    let whole = s3.get("lake", "in/churn-1.parquet");
    s3.put("lake", "in/churn-1.parquet", &whole[..whole.len() * 2 / 3]);
    let proxy = s3.with_faults(Faults { missing: vec!["in/churn-2.parquet".to_owned()], ..Faults::default() }).await;
    let service = Service::start(&proxy, ServiceOptions::default()).await;
    let (job, output) = run(&s3, &service).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert!(output.rows.iter().all(|r| r["_source"] == "in/churn-0.parquet") && !output.rows.is_empty());
    assert_eq!(
        errors(&output),
        [
            ("in/churn-1.parquet".to_owned(), None, "invalid_parquet".to_owned()),
            ("in/churn-2.parquet".to_owned(), None, "object_not_found".to_owned()),
        ]
    );
}

#[tokio::test]
async fn an_object_that_changes_under_the_job_is_an_error_and_never_a_mixture() {
    let s3 = with_model("churn-lightgbm").await;
    let text = "tenure,seniorcitizen,totalcharges,monthlycharges\n1,0,29.85,29.85\n";
    s3.put("lake", "in/a.csv", text.as_bytes());
    s3.put("lake", "in/b.csv", text.as_bytes());
    let proxy = s3.with_faults(Faults { changed: vec!["in/b.csv".to_owned()], ..Faults::default() }).await;
    let service = Service::start(&proxy, ServiceOptions::default()).await;
    let (job, output) = run(&s3, &service).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(output.rows.len(), 1);
    assert_eq!(errors(&output), [("in/b.csv".to_owned(), None, "input_changed".to_owned())]);
}

#[tokio::test]
async fn a_store_that_often_fails_gives_the_same_output_as_one_that_never_does() {
    let s3 = with_model("churn-lightgbm").await;
    for index in 0..3 {
        let bytes = support::fixture(&format!("data/churn-encoded/csv/customers-{index}.csv"));
        s3.put("lake", &format!("in/{index}.csv"), &bytes);
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let (_, calm) = run(&s3, &service).await;
    drop(service);
    s3.remove("lake", "out/");
    let faults = Faults { seed: support::seed(), slow_down: 0.2, server_error: 0.05, cut_body: 0.1, ..Faults::default() };
    let proxy = s3.with_faults(faults).await;
    let service = Service::start(&proxy, ServiceOptions::default()).await;
    let (job, stormy) = run(&s3, &service).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(calm.part_digests(), stormy.part_digests(), "promise 8");
}

#[tokio::test]
async fn inputs_that_cannot_be_listed_fail_the_job_with_the_reason() {
    let s3 = with_model("churn-lightgbm").await;
    s3.put("lake", "in/a.csv", b"x\n");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    for (input, code) in
        [("s3://lake/empty/", "input_empty"), ("s3://nowhere/in/", "bucket_not_found"), ("s3://lake/in/b.csv", "object_not_found")]
    {
        let id = service.submit(&json!({"model": "s3://lake/model/", "input": input, "output": "s3://lake/out/"})).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "failed", "{input}: {job:#}");
        assert!(job["error"]["type"].as_str().unwrap().ends_with(code), "{input}: {:#}", job["error"]);
    }
}

#[tokio::test]
async fn refused_credentials_are_said_and_never_shown() {
    let s3 = with_model("churn-lightgbm").await;
    let options = ServiceOptions::default().env("AWS_SECRET_ACCESS_KEY", "not-the-secret-key");
    let service = Service::start(&s3, options).await;
    let (status, problem) =
        service.post("/v1/jobs", &json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    assert_eq!(status, 422, "{problem:#}");
    assert_eq!(problem["errors"][0]["pointer"], "/model", "{problem:#}");
    assert_eq!(problem["errors"][0]["code"], "access_denied", "{problem:#}");
    assert!(!problem.to_string().contains("not-the-secret-key") && !service.log().contains("not-the-secret-key"));
}

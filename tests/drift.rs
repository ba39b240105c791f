//! Runs beside earlier ones: what moved is told, and what did not is not.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, fixture, fixture_files, receiver::Receiver};

const PATIENCE: Duration = Duration::from_secs(120);
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A bucket with a churn model and a table of its customers.
async fn world() -> (S3Server, String) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/churn-pipeline", "lake", "model/");
    let files = fixture_files("data/churn/csv");
    let table = String::from_utf8(fixture(files.first().expect("a table"))).expect("UTF-8");
    s3.put("lake", "before/x.csv", table.as_bytes());
    (s3, table)
}

/// The table as it could be some months later: one column three times as large, another empty every second time.
fn later(table: &str, grown: &str, thinned: &str) -> String {
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let headers = reader.headers().expect("a header").clone();
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&headers).expect("it is in memory");
    for (row, record) in reader.records().enumerate() {
        let record = record.expect("a record");
        let cells = headers.iter().zip(&record).map(|(column, cell)| match column {
            _ if column == grown => (cell.parse::<f64>().expect("a number") * 3.0).to_string(),
            _ if column == thinned && row % 2 == 0 => String::new(),
            _ => cell.to_owned(),
        });
        writer.write_record(cells.collect::<Vec<_>>()).expect("it is in memory");
    }
    String::from_utf8(writer.into_inner().expect("it is in memory")).expect("UTF-8")
}

async fn run(service: &Service, input: &str, drift: Value, webhook: Value) -> Value {
    let definition = json!({
        "model": "s3://lake/model/", "input": format!("s3://lake/{input}/"),
        "output": {"uri": format!("s3://lake/out/{}/", uuid::Uuid::now_v7()), "include_input": ["contract", "gender"]}, "drift": drift, "webhook": webhook, "execution": {"chunk_records": 300},
    });
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    job
}

#[tokio::test]
async fn a_job_says_how_far_its_columns_and_predictions_are_from_those_of_an_earlier_one_and_tells_beyond_the_threshold() {
    let (s3, table) = world().await;
    s3.put("lake", "after/x.csv", later(&table, "monthlycharges", "contract").as_bytes());
    let receiver = Receiver::start("127.0.0.1");
    let options = ServiceOptions::default().env("NIGHTSHIFT_WEBHOOK_ALLOW_NETWORKS", "127.0.0.0/8");
    let service = Service::start(&s3, options).await;

    let first = run(&service, "before", json!({}), Value::Null).await;
    assert_eq!(first["summary"]["drift"], Value::Null, "there is nothing to compare with");
    let drift = json!({"against": first["id"], "threshold": 0.25});
    let hook = json!({"url": receiver.url("/"), "secret": SECRET, "events": ["job.completed", "job.drift"]});

    let same = run(&service, "before", drift.clone(), hook.clone()).await;
    let found = &same["summary"]["drift"];
    assert_eq!((&found["against"], &found["exceeded"]), (&first["id"], &json!(false)), "{found:#}");
    assert!(found["predictions"].as_f64().expect("labels were counted") < 1e-6, "{found:#}");
    assert!(found["inputs"].as_array().expect("columns").iter().all(|c| c["psi"].as_f64() < Some(1e-6)), "{found:#}");
    assert_eq!(found["columns"], 6, "those that the model takes, and those that are carried: {found:#}");

    let moved = run(&service, "after", drift, hook).await;
    let found = &moved["summary"]["drift"];
    assert_eq!(found["exceeded"], true, "{found:#}");
    let column =
        |name: &str| found["inputs"].as_array().and_then(|all| all.iter().find(|c| c["column"] == name)).expect("the column").clone();
    let (grown, thinned) = (column("monthlycharges"), column("contract"));
    assert!(grown["psi"].as_f64() > Some(0.25) && thinned["psi"].as_f64() > Some(0.25), "{found:#}");
    assert!(column("gender")["psi"].as_f64() < Some(0.01), "what did not move has not: {found:#}");
    let ratio = grown["quantiles"][2].as_f64().expect("a median") / grown["quantiles_before"][2].as_f64().expect("a median");
    assert!((2.2..4.0).contains(&ratio), "three times as large: {grown:#}");
    assert_eq!(thinned["null_rate_before"], 0.0);
    assert!((thinned["null_rate"].as_f64().expect("a share") - 0.5).abs() < 0.1, "{thinned:#}");

    let heard = receiver.hears(3).await;
    let kinds: Vec<String> = heard.iter().map(|h| h.json()["type"].as_str().expect("a type").to_owned()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "job.drift").count(), 1, "{kinds:?}");
    let told = heard.iter().find(|h| h.json()["type"] == "job.drift").expect("it was told");
    assert!(told.is_signed_with(SECRET));
    let data = told.json()["data"].clone();
    assert_eq!((&data["id"], &data["drift"]["against"], &data["drift"]["threshold"]), (&moved["id"], &first["id"], &json!(0.25)));
    assert_eq!(data["drift"]["column_psi"], found["inputs"][0]["psi"]);
}

#[tokio::test]
async fn a_column_is_compared_across_formats_and_an_unknown_job_is_refused() {
    let (s3, table) = world().await;
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let headers = reader.headers().expect("a header").clone();
    let mut lines = String::new();
    for record in reader.records() {
        let record = record.expect("a record");
        let cell = |text: &str| if text.parse::<f64>().is_ok() { text.to_owned() } else { json!(text).to_string() };
        let fields: Vec<String> = headers.iter().zip(&record).map(|(name, text)| format!("{}: {}", json!(name), cell(text))).collect();
        lines += &format!("{{{}}}\n", fields.join(", "));
    }
    s3.put("lake", "lines/x.jsonl", lines.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let first = run(&service, "before", json!({}), Value::Null).await;
    let second = run(&service, "lines", json!({"against": first["id"]}), Value::Null).await;
    let drift = &second["summary"]["drift"];
    let charges = drift["inputs"].as_array().and_then(|all| all.iter().find(|c| c["column"] == "monthlycharges")).expect("the column");
    assert!(charges["psi"].as_f64() < Some(0.05), "{charges:#}");

    let definition = json!({
        "model": "s3://lake/model/", "input": "s3://lake/before/", "output": "s3://lake/other/",
        "drift": {"against": "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071", "threshold": 0},
    });
    let (status, problem) = service.post("/v1/jobs", &definition).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/drift/threshold")), "{problem:#}");
    let definition = json!({
        "model": "s3://lake/model/", "input": "s3://lake/before/", "output": "s3://lake/other/",
        "drift": {"against": "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"},
    });
    let (status, problem) = service.post("/v1/jobs", &definition).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/drift/against")), "{problem:#}");
}

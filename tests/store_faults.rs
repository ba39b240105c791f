//! Object stores that fail: what a job writes is the same, and a store in trouble is left in peace.

mod support;

use std::{collections::BTreeMap, fs, io::Write, time::Duration};

use futures::{StreamExt, future::join_all};
use nightshift::{
    domain::Uri,
    objects::{Bucket, BucketSettings, Manners, Options, Stores},
};
use serde_json::{Value, json};
use support::{ACCESS_KEY, Endpoint, FaultProxy, Faults, S3Server, SECRET_KEY, Service, ServiceOptions, golden::Output};

const PATIENCE: Duration = Duration::from_secs(120);
/// So that a store that has fallen silent is asked again before a test grows long.
const TIMEOUT: &str = "1";

async fn store(model: &str) -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture(&format!("models/{model}"), "lake", "model/");
    s3
}

/// Objects of every kind: many small ones, a table cut into several chunks, a compressed one that is streamed, Parquet.
fn put_inputs(s3: &S3Server) -> usize {
    let texts: Vec<String> = (0..3)
        .map(|index| String::from_utf8(support::fixture(&format!("data/churn-encoded/csv/customers-{index}.csv"))).expect("UTF-8"))
        .collect();
    let header = texts[0].lines().next().expect("a header");
    let rows: Vec<&str> = texts.iter().flat_map(|text| text.lines().skip(1)).collect();
    let table = |rows: &[&str]| format!("{header}\n{}\n", rows.join("\n"));
    for (at, some) in rows.chunks(rows.len().div_ceil(150)).enumerate() {
        s3.put("lake", &format!("in/small/{at:03}.csv"), table(some).as_bytes());
    }
    let many: Vec<&str> = rows.iter().cycle().take(4 * rows.len()).copied().collect();
    s3.put("lake", "in/large.csv", table(&many).as_bytes());
    // Stored rather than compressed: its body is as long as its text.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    packed.write_all(table(&many).as_bytes()).expect("packed");
    s3.put("lake", "in/packed.csv.gz", &packed.finish().expect("packed"));
    for index in 0..3 {
        s3.put("lake", &format!("in/{index}.parquet"), &support::fixture(&format!("data/churn-encoded/parquet/customers-{index}.parquet")));
    }
    2 * rows.len() + 2 * many.len()
}

async fn run(s3: &S3Server, service: &Service, definition: &Value) -> (Value, Output) {
    let id = service.submit(definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read(s3, "lake", "out/");
    output.check_invariants();
    (job, output)
}

#[tokio::test]
async fn a_store_with_every_fault_at_once_gives_byte_identical_output() {
    let s3 = store("churn-lightgbm").await;
    let records = put_inputs(&s3);
    let options = || ServiceOptions::default().arg("--chunk-bytes", "262144").arg("--chunk-objects", "40").arg("--store-timeout", TIMEOUT);
    let definition = json!({"model": "s3://lake/model/", "input": "s3://lake/in/",
                            "output": {"uri": "s3://lake/out/", "include_input": true, "prediction_prefix": "predicted_"}});
    let service = Service::start(&s3, options()).await;
    let (_, calm) = run(&s3, &service, &definition).await;
    assert_eq!(calm.rows.len(), records);
    assert!(calm.part_digests().len() >= 8, "several chunks: {:?}", calm.part_digests());
    drop(service);
    s3.remove("lake", "out/");

    let faults = Faults {
        seed: support::seed(),
        slow_down: 0.2,
        server_error: 0.05,
        stall: 0.02,
        cut_body: 0.1,
        lost_answer: 0.02,
        conflict: 0.02,
        ..Faults::default()
    };
    let proxy = s3.with_faults(faults).await;
    let service = Service::start(&proxy, options()).await;
    let (job, stormy) = run(&s3, &service, &definition).await;
    let happened = proxy.counts();
    println!("{} requests, of which {happened:?}; {}", proxy.requests(), job["usage"]["wall_seconds"]);
    for fault in ["503", "500", "stall", "cut"] {
        assert!(happened.contains_key(fault), "no {fault} among {happened:?}");
    }
    assert_eq!(calm.part_digests(), stormy.part_digests());
    assert_eq!(stormy.errors.len(), 0);
}

/// A job whose part is several pieces long: what is carried is large.
fn put_large_rows(s3: &S3Server, rows: usize) -> Value {
    let note = "x".repeat(100_000);
    let cells = json!({"age": 0.03, "sex": 0.05, "bmi": 0.06, "bp": 0.02, "s1": -0.04, "s2": -0.03, "s3": -0.04, "s4": -0.002, "s5": 0.01, "s6": -0.01});
    let text: String = (0..rows)
        .map(|row| {
            let mut record = cells.clone();
            record["note"] = json!(format!("{row} {note}"));
            format!("{record}\n")
        })
        .collect();
    s3.put("lake", "in/large.jsonl", text.as_bytes());
    json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": {"uri": "s3://lake/out/", "include_input": true}})
}

#[tokio::test]
async fn a_multipart_upload_whose_end_was_not_confirmed_is_found_complete() {
    let s3 = store("diabetes-ridge").await;
    let definition = put_large_rows(&s3, 500);
    let proxy = s3.with_faults(Faults { lost_completions: 1, ..Faults::default() }).await;
    let service = Service::start(&proxy, ServiceOptions::default().arg("--chunk-bytes", "100000000")).await;
    let (job, output) = run(&s3, &service, &definition).await;
    assert_eq!(output.rows.len(), 500);
    assert_eq!(proxy.counts().get("lost"), Some(&1), "the part is put in pieces");
    let id = job["id"].as_str().expect("an id");
    let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
    assert!(chunks.len() == 1 && chunks[0]["failures"] == 0, "it costs no attempt: {chunks:#?}");
}

#[tokio::test]
async fn multipart_uploads_of_a_killed_runner_are_ended_when_the_job_is() {
    let s3 = store("diabetes-ridge").await;
    let definition = put_large_rows(&s3, 800);
    let proxy = s3.with_faults(Faults::default()).await;
    let service = Service::start(&proxy, ServiceOptions::default().arg("--chunk-bytes", "100000000")).await;
    let id = service.submit(&definition).await;
    for _ in 0..2 {
        let before = proxy.unfinished_uploads().len();
        while proxy.unfinished_uploads().len() == before {
            assert!(!service.is_final(&id).await, "the job is too short for this test");
        }
        assert!(service.kill_runner(), "a runner is at work");
    }
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(Output::read(&s3, "lake", "out/").rows.len(), 800);
    assert_eq!(proxy.unfinished_uploads(), Vec::<String>::new());
}

#[tokio::test]
async fn an_object_that_changes_in_the_middle_of_its_body_is_an_error_and_never_a_mixture() {
    let s3 = store("churn-lightgbm").await;
    put_inputs(&s3);
    s3.remove("lake", "in/small/");
    let changed_midway = vec!["in/packed.csv.gz".to_owned(), "in/0.parquet".to_owned()];
    let proxy = s3.with_faults(Faults { changed_midway: changed_midway.clone(), ..Faults::default() }).await;
    let service = Service::start(&proxy, ServiceOptions::default()).await;
    let definition = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"});
    let (_, output) = run(&s3, &service, &definition).await;
    let mut found: Vec<(&Value, &Value)> = output.errors.iter().map(|row| (&row["_source"], &row["code"])).collect();
    found.sort_by_key(|(source, _)| source.as_str());
    assert_eq!(found, [(&json!("in/0.parquet"), &json!("input_changed")), (&json!("in/packed.csv.gz"), &json!("input_changed"))]);
    assert!(output.rows.iter().all(|row| row["_source"] != "in/0.parquet"), "a small object is read before it is decoded");
    // What was decoded before stands: it is the pinned object's.
    let text = s3.get("lake", "in/large.csv");
    let positions: Vec<u64> =
        output.rows.iter().filter(|row| row["_source"] == "in/packed.csv.gz").filter_map(|row| row["_position"].as_u64()).collect();
    assert!(positions.iter().all(|at| *at as usize <= text.len() / 2), "no record of the second half");
}

/// The bucket behind a proxy, as a process of its own would see it.
fn bucket(proxy: &FaultProxy, requests: usize, folder: &tempfile::TempDir) -> Bucket {
    let secret = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        Some(path)
    };
    let settings = BucketSettings {
        endpoint: Some(proxy.url()),
        allow_http: Some(true),
        region: Some("us-east-1".to_owned()),
        access_key_id_file: secret("id", ACCESS_KEY),
        secret_access_key_file: secret("key", SECRET_KEY),
        ..BucketSettings::default()
    };
    let buckets = BTreeMap::from([("lake".to_owned(), settings)]);
    let manners = Manners { requests, ..Manners::default() };
    let stores = Stores::new(Options { buckets, manners, ..Options::default() }).expect("settings");
    stores.budgeted().open(&Uri::parse("s3://lake/").expect("a location")).expect("a bucket")
}

/// Heads of one object side by side; how many went well.
async fn heads(bucket: &Bucket, count: usize) -> usize {
    join_all((0..count).map(|_| bucket.head("a"))).await.iter().filter(|answer| answer.is_ok()).count()
}

#[tokio::test]
async fn a_store_that_is_down_is_not_asked_more_often_than_the_budget_allows() {
    let s3 = S3Server::start().await;
    s3.put("lake", "a", b"a");
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = s3.with_faults(Faults { server_error: 1.0, ..Faults::default() }).await;
    let bucket = bucket(&proxy, 64, &folder);
    assert_eq!(heads(&bucket, 300).await, 0);
    assert!(proxy.requests() <= 300 + 200, "{} requests", proxy.requests());
    let error = bucket.head("a").await.expect_err("it is down");
    assert!(error.retryable() && error.to_string().contains("server_error"), "{error}");
    proxy.play(Faults::default());
    assert_eq!(heads(&bucket, 300).await, 300, "it is up again");
}

#[tokio::test]
async fn requests_made_ahead_for_a_list_that_is_not_read_hold_up_nobody() {
    let s3 = S3Server::start().await;
    // Its lists have no etags: each object is asked for one, some ahead of who reads the list.
    (0..40).for_each(|object| s3.put("lake", &format!("in/{object:02}"), b"a"));
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = s3.with_faults(Faults::default()).await;
    let bucket = bucket(&proxy, 1, &folder);
    let read_all = async {
        let (mut objects, mut read) = (bucket.list("in/", None), 0);
        while let Some(object) = objects.next().await {
            let object = object.expect("an object");
            read += bucket.read(&object.key, object.etag.as_deref(), 0..object.size).await.expect("its bytes").len();
        }
        read
    };
    assert_eq!(tokio::time::timeout(PATIENCE, read_all).await, Ok(40));
    assert_eq!(proxy.most_at_once(), 1);
}

#[tokio::test]
async fn a_bucket_that_asks_to_slow_down_gets_fewer_requests_at_once_and_more_again_later() {
    let s3 = S3Server::start().await;
    s3.put("lake", "a", b"a");
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = s3.with_faults(Faults::default()).await;
    let bucket = bucket(&proxy, 32, &folder);
    assert_eq!(heads(&bucket, 200).await, 200);
    assert!(proxy.most_at_once() <= 32);
    proxy.play(Faults { slow_down: 1.0, ..Faults::default() });
    assert_eq!(heads(&bucket, 8).await, 0);
    proxy.play(Faults::default());
    proxy.most_at_once();
    assert_eq!(heads(&bucket, 20).await, 20);
    let few = proxy.most_at_once();
    assert!(few <= 8, "{few} at once just after it asked to slow down");
    assert_eq!(heads(&bucket, 1_000).await, 1_000);
    let more = proxy.most_at_once();
    assert!(more > few && more <= 32, "{more} at once after {few}");
}

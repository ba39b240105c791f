//! A disk that fills up: the service says so, loses nothing, and goes on by itself when there is room.
//!
//! The data folder lies on a small disk in memory, mounted in a namespace of the service's own: `unshare --map-root-user --mount` must
//! be allowed.

mod support;

use std::{
    fs,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, golden::Output};

const PATIENCE: Duration = Duration::from_secs(120);
const DISK_BYTES: u64 = 12 * 1024 * 1024;

/// Fills the data folder but for `left` bytes; the file to be removed.
fn fill(service: &Service, left: u64) -> PathBuf {
    let path = service.seen_data_dir().join("ballast");
    let mut ballast = fs::File::create(&path).expect("a file");
    let block = vec![1u8; 4096];
    while ballast.write_all(&block).is_ok() {}
    let length = ballast.metadata().expect("a file").len();
    ballast.set_len(length.saturating_sub(left)).expect("shorter");
    path
}

/// The codes of the reasons that `/readyz` gives; none when it is ready.
async fn reasons(service: &Service) -> Vec<String> {
    let (status, answer) = service.get("/readyz").await;
    let errors = answer["errors"].as_array().cloned().unwrap_or_default();
    assert_eq!(status == 200, errors.is_empty(), "{answer:#}");
    errors.iter().filter_map(|reason| reason["code"].as_str()).map(str::to_owned).collect()
}

async fn until_reasons(service: &Service, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reasons = reasons(service).await;
        if wanted(&reasons) {
            return reasons;
        }
        assert!(Instant::now() < deadline, "this did not come: {reasons:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn post(service: &Service, body: &Value) -> (u16, bool, Value) {
    let answer = service.client().post(service.url("/v1/jobs")).json(body).send().await.expect("an answer");
    let retry = answer.headers().contains_key("retry-after");
    (answer.status().as_u16(), retry, answer.json().await.expect("JSON"))
}

fn table(rows: usize) -> String {
    let row = "0.0381,0.0507,0.0617,0.0219,-0.0442,-0.0348,-0.0434,-0.0026,0.0199,-0.0176\n";
    "age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n".to_owned() + &row.repeat(rows)
}

#[tokio::test]
async fn a_database_without_room_accepts_nothing_loses_nothing_and_goes_on_by_itself() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    // One that outlives what happens to it, and others that are soon done.
    for object in 0..30 {
        s3.put("lake", &format!("long/{object:02}.csv"), table(1000).as_bytes());
    }
    s3.put("lake", "short/0.csv", table(1000).as_bytes());
    let options = ServiceOptions::default().disk(DISK_BYTES).arg("--chunk-slots", "1").arg("--lease-ttl", "3");
    let service = Service::start(&s3, options).await;
    let definition = |input: &str, output: &str| {
        json!({"model": "s3://lake/model/", "input": format!("s3://lake/{input}/"), "output": format!("s3://lake/{output}/"),
               "execution": {"chunk_records": 100}})
    };
    let id = service.submit(&definition("long", "out")).await;
    service.until(&id, |job| job["counts"]["chunks_done"].as_u64() > Some(3)).await;

    let ballast = fill(&service, 0);
    let said = until_reasons(&service, |reasons| !reasons.is_empty()).await;
    assert!(said.contains(&"storage".to_owned()), "{said:?}");
    // What the write-ahead log has room for is still accepted; then nothing is.
    let mut accepted = vec![(id.clone(), "out".to_owned(), 30_000)];
    let refused = loop {
        let output = format!("more-{}", accepted.len());
        let (status, retry, answer) = post(&service, &definition("short", &output)).await;
        match status {
            202 => accepted.push((answer["id"].as_str().expect("an id").to_owned(), output, 1000)),
            _ => break (status, retry, answer),
        }
    };
    assert_eq!((refused.0, refused.1), (503, true), "{:#}", refused.2);
    assert_eq!(service.status("/livez").await, 200);
    assert_eq!(service.status(&format!("/v1/jobs/{id}")).await, 200, "what is known can be read");
    assert!(!service.is_final(&id).await, "the job is too short for this test");

    fs::remove_file(ballast).expect("room");
    until_reasons(&service, <[String]>::is_empty).await;
    accepted.push((service.submit(&definition("short", "last")).await, "last".to_owned(), 1000));
    for (id, output, records) in accepted {
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!((&job["state"], &job["counts"]["records"]["succeeded"]), (&json!("completed"), &json!(records)), "{job:#}");
        let output = Output::read(&s3, "lake", &format!("{output}/"));
        output.check_invariants();
        assert_eq!(output.rows.len(), records);
    }
}

#[tokio::test]
async fn a_model_cache_without_room_is_a_reason_costs_no_attempt_and_leaves_nothing_half_fetched() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    // White space makes the model large and nothing else.
    let section = s3.get("lake", "model/nightshift.json");
    s3.put("lake", "model/nightshift.json", &[section, vec![b' '; 3 * 1024 * 1024]].concat());
    for object in 0..60 {
        s3.put("lake", &format!("in/{object:02}.csv"), table(20).as_bytes());
    }
    let service = Service::start(&s3, ServiceOptions::default().disk(DISK_BYTES).arg("--chunk-objects", "1")).await;
    let definition =
        |output: &str| json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/{output}/")});
    let folders = || {
        let entries = fs::read_dir(service.seen_data_dir().join("models")).expect("a cache").filter_map(Result::ok);
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with("tmp-")).collect::<Vec<_>>()
    };

    let ballast = fill(&service, 2 * 1024 * 1024);
    let (status, retry, answer) = post(&service, &definition("refused")).await;
    assert_eq!((status, retry), (503, true), "{answer:#}");
    assert!(answer["detail"].as_str().expect("a detail").contains("No space left"), "{answer:#}");
    assert_eq!(reasons(&service).await, ["model_cache"]);
    assert_eq!(folders(), Vec::<String>::new());

    fs::remove_file(ballast).expect("room");
    let id = service.submit(&definition("first")).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    assert_eq!(reasons(&service).await, Vec::<String>::new());

    // A job that was accepted waits for room: its model, pinned, is fetched again.
    let id = service.submit(&definition("second")).await;
    for entry in fs::read_dir(service.seen_data_dir().join("models")).expect("a cache").filter_map(Result::ok) {
        fs::remove_dir_all(entry.path()).expect("removed");
    }
    let ballast = fill(&service, 2 * 1024 * 1024);
    // While a part of the model lies there, there is no room for anything else either.
    until_reasons(&service, |reasons| reasons == ["model_cache"]).await;
    fs::remove_file(ballast).expect("room");
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
    assert_eq!(chunks.len(), 60);
    assert!(chunks.iter().all(|chunk| chunk["failures"] == 0 && chunk["state"] == "done"), "{chunks:#?}");
    assert_eq!((folders(), reasons(&service).await), (Vec::new(), Vec::new()));
}

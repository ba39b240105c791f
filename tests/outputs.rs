//! Where outputs go: mirrored names, and prefixes that hold an earlier job's output.

mod support;

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    golden::{self, Output},
};

const PATIENCE: Duration = Duration::from_secs(120);

async fn store() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3
}

/// `rows` rows of a table; every `bad`th, if any, has a cell that is no number.
fn table(rows: usize, bad: Option<usize>) -> String {
    let mut text = golden::DIABETES_COLUMNS.join(",") + "\n";
    for row in 0..rows {
        let cell = if bad.is_some_and(|bad| row % bad == 0) { "n/a".to_owned() } else { format!("{}.5", row % 7) };
        text += &format!("{}\n", vec![cell; 10].join(","));
    }
    text
}

fn job(input: &str, output: Value) -> Value {
    let mut definition = json!({"model": "s3://lake/model/", "input": format!("s3://lake/{input}/"), "output": {"uri": "s3://lake/out/"}});
    for (name, value) in output.as_object().unwrap() {
        definition["output"][name] = value.clone();
    }
    definition
}

async fn completed(service: &Service, definition: &Value) -> String {
    let id = service.submit(definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    id
}

/// Every object below the output prefix, with its bytes.
fn content(s3: &S3Server) -> BTreeMap<String, Vec<u8>> {
    s3.keys("lake", "out/").into_iter().map(|key| (key.clone(), s3.get("lake", &key))).collect()
}

#[tokio::test]
async fn layout_mirror_gives_each_input_object_one_output_of_its_name() {
    let s3 = store().await;
    s3.put("lake", "in/a/b.csv", table(3000, Some(1000)).as_bytes());
    s3.put("lake", "in/a/c.csv", table(20, None).as_bytes());
    s3.put("lake", "in/d.csv", table(20, Some(1)).as_bytes());
    // A size that would be cut otherwise.
    let service = Service::start(&s3, ServiceOptions::default().arg("--chunk-bytes", "10000")).await;
    let id = completed(&service, &job("in", json!({"layout": "mirror", "compression": "gzip"}))).await;
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!((output.rows.len(), output.errors.len()), (2997 + 20, 3 + 20));
    let keys: Vec<&Value> = output.manifest["parts"].as_array().unwrap().iter().map(|part| &part["key"]).collect();
    assert_eq!(keys, [&json!("a/b.csv.jsonl.gz"), &json!("a/c.csv.jsonl.gz"), &Value::Null]);
    assert_eq!(output.manifest["output"]["layout"], "mirror");

    let (_, results) = service.get(&format!("/v1/jobs/{id}/results")).await;
    assert_eq!(results["items"][0]["uri"], "s3://lake/out/a/b.csv.jsonl.gz");
    let url = results["items"][0]["url"].as_str().unwrap();
    let bytes = service.client().get(url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(bytes, s3.get("lake", "out/a/b.csv.jsonl.gz"));
    assert_eq!(service.status(&format!("/v1/jobs/{id}/results/1")).await, 200);

    let (status, refused) = service.post("/v1/jobs", &job("in", json!({"layout": "mirror"}))).await;
    assert_eq!(status, 409, "{refused:#}");
}

#[tokio::test]
async fn layout_mirror_writes_over_nothing_that_is_not_a_jobs() {
    let s3 = store().await;
    s3.put("lake", "in/a.csv", table(5, None).as_bytes());
    s3.put("lake", "out/a.csv.jsonl", b"somebody's");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    for if_exists in ["fail", "replace"] {
        let (status, refused) = service.post("/v1/jobs", &job("in", json!({"layout": "mirror", "if_exists": if_exists}))).await;
        assert_eq!((status, &refused["type"]), (409, &json!("urn:nightshift:problem:output_not_empty")), "{refused:#}");
        assert!(refused["detail"].as_str().unwrap().contains("a.csv.jsonl"), "{refused:#}");
    }
    let definition = json!({"model": "s3://lake/model/", "input": {"manifest": "s3://lake/list.jsonl"},
                            "output": {"uri": "s3://lake/other/", "layout": "mirror"}});
    let (status, refused) = service.post("/v1/jobs", &definition).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (422, &json!("layout_needs_prefix")), "{refused:#}");
}

#[tokio::test]
async fn a_service_killed_while_it_mirrors_ends_with_every_output_once() {
    let s3 = store().await;
    let objects: Vec<String> = (0..400).map(|n| format!("in/{}/{n:03}.csv", n % 7)).collect();
    for key in &objects {
        s3.put("lake", key, table(2, None).as_bytes());
    }
    let mut service = Service::start(&s3, ServiceOptions::default().arg("--lease-ttl", "3")).await;
    let id = service.submit(&job("in", json!({"layout": "mirror"}))).await;
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut finalising = 0;
    while !service.is_final(&id).await {
        // Half of the kills hit the finaliser at its work.
        if service.job(&id).await["state"] == "finalizing" && finalising < 6 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
            finalising += 1;
            service.kill9();
            service.restart().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("killed {finalising} times while finalising");
    let job = service.job(&id).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    let places: Vec<_> = objects.iter().flat_map(|key| golden::csv_positions(&s3, "lake", key)).collect();
    output.assert_one_outcome_each(&places);
    assert_eq!(output.manifest["parts"].as_array().unwrap().len(), objects.len());
    let mut names: Vec<String> = objects.iter().map(|key| format!("{}.jsonl", key.replace("in/", "out/"))).collect();
    names.extend(["out/_manifest.json".to_owned(), "out/_SUCCESS".to_owned()]);
    names.sort();
    assert_eq!(s3.keys("lake", "out/"), names);
}

#[tokio::test]
async fn a_job_that_replaces_leaves_its_own_output_alone_and_what_is_not_a_jobs() {
    let s3 = store().await;
    s3.put("lake", "in/a.csv", table(50, Some(10)).as_bytes());
    s3.put("lake", "in/b.csv", table(5, None).as_bytes());
    s3.put("lake", "new/c.csv", table(30, None).as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    // Mirrored outputs are the earlier manifest's to name, parts have names of their own.
    completed(&service, &job("in", json!({"layout": "mirror"}))).await;
    s3.put("lake", "out/notes.txt", b"somebody's");
    s3.put("lake", "out/part-000000-0123456789abcdef.jsonl", b"{}\n");
    let (status, refused) = service.post("/v1/jobs", &job("new", json!({}))).await;
    assert_eq!(status, 409);
    assert!(refused["detail"].as_str().unwrap().contains("if_exists"), "{refused:#}");

    completed(&service, &job("new", json!({"if_exists": "replace"}))).await;
    assert_eq!(s3.get("lake", "out/notes.txt"), b"somebody's");
    s3.remove_object("lake", "out/notes.txt");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!((output.rows.len(), output.errors.len()), (30, 0));

    // And again, the other way round.
    completed(&service, &job("in", json!({"if_exists": "replace", "layout": "mirror"}))).await;
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!((output.rows.len(), output.errors.len()), (50, 5));
}

#[tokio::test]
async fn an_earlier_output_is_as_it_was_when_the_job_that_would_replace_it_fails_or_is_cancelled() {
    let s3 = store().await;
    s3.put("lake", "in/a.csv", table(50, Some(10)).as_bytes());
    s3.put_fixture("models/broken", "lake", "broken/");
    s3.put("lake", "loop/x.jsonl", b"{\"x\": [1.0, 2.0, 0.5, -1.0]}\n");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    completed(&service, &job("in", json!({}))).await;
    let before = content(&s3);

    let id = service.submit(&job("nothing-here", json!({"if_exists": "replace"}))).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "failed");
    assert_eq!(content(&s3), before);

    let mut endless = job("loop", json!({"if_exists": "replace"}));
    endless["model"] = json!("s3://lake/broken/endless-loop.onnx");
    let id = service.submit(&endless).await;
    service.until(&id, |job| job["state"] == "in_progress").await;
    // While it runs as well: the claim alone changes nothing.
    assert_eq!(content(&s3), before);
    service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "cancelled");
    assert_eq!(content(&s3), before);
}

#[tokio::test]
async fn what_no_job_wrote_at_a_jobs_names_is_not_replaced() {
    let s3 = store().await;
    s3.put("lake", "in/a.csv", table(5, None).as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    for (name, bytes) in [("_manifest.json", &b"{\"entries\": []}"[..]), ("_SUCCESS", b"")] {
        s3.put("lake", &format!("out/{name}"), bytes);
        let (status, refused) = service.post("/v1/jobs", &job("in", json!({"if_exists": "replace"}))).await;
        assert_eq!((status, refused["detail"].as_str().is_some_and(|d| d.contains(name))), (409, true), "{refused:#}");
        s3.remove_object("lake", &format!("out/{name}"));
    }
    // A manifest that names what lies elsewhere can be written by anybody who may write here.
    completed(&service, &job("in", json!({}))).await;
    let mut manifest: Value = serde_json::from_slice(&s3.get("lake", "out/_manifest.json")).unwrap();
    s3.put("lake", "precious/x", b"mine");
    manifest["parts"][0]["key"] = json!("../precious/x");
    manifest["parts"][0]["errors"] = json!({"key": "/precious/x", "records": 1, "bytes": 1, "sha256": ""});
    s3.put("lake", "out/_manifest.json", manifest.to_string().as_bytes());
    completed(&service, &job("in", json!({"if_exists": "replace"}))).await;
    assert_eq!(s3.get("lake", "precious/x"), b"mine");
    Output::read(&s3, "lake", "out/").check_invariants();
}

#[tokio::test]
async fn a_service_killed_while_it_replaces_ends_with_one_output() {
    let s3 = store().await;
    for n in 0..150 {
        s3.put("lake", &format!("in/{n:03}.csv"), table(2, None).as_bytes());
        s3.put("lake", &format!("new/{n:03}.csv"), table(3, None).as_bytes());
    }
    let mut service = Service::start(&s3, ServiceOptions::default().arg("--lease-ttl", "3").arg("--chunk-objects", "1")).await;
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    for (input, layout) in [("in", "mirror"), ("new", "mirror"), ("in", "parts"), ("new", "mirror")] {
        let id = service.submit(&job(input, json!({"if_exists": "replace", "layout": layout}))).await;
        let mut kills = 0;
        while !service.is_final(&id).await {
            if service.job(&id).await["state"] == "finalizing" && kills < 3 {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..80))).await;
                kills += 1;
                service.kill9();
                service.restart().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let job = service.job(&id).await;
        assert_eq!(job["state"], "completed", "{job:#}");
        let output = Output::read(&s3, "lake", "out/");
        output.check_invariants();
        assert_eq!(output.manifest["job"], json!(id));
        assert_eq!(output.rows.len(), if input == "in" { 300 } else { 450 });
    }
}

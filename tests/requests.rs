//! What callers ask of the service beyond a plain job: once, dry, later, again, before others.

mod support;

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    golden::{self, Output, patients},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Model `diabetes-ridge`, and a model that never ends.
async fn lake() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put("lake", "endless/x.onnx", &support::fixture("models/broken/endless-loop.onnx"));
    s3.put("lake", "endless-in/x.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    s3
}

/// A service that runs one chunk at a time, so that what goes first is seen.
async fn one_at_a_time(s3: &S3Server) -> Service {
    let options = ServiceOptions::default().arg("--chunk-slots", "1").arg("--chunk-objects", "1");
    Service::start(s3, options).await
}

fn job(input: &str, output: &str) -> Value {
    json!({"model": "s3://lake/model/", "input": format!("s3://lake/{input}"), "output": format!("s3://lake/{output}")})
}

/// Submits a job that holds the only slot until it is cancelled; its id.
async fn plug(service: &Service, output: &str) -> String {
    let definition = json!({
        "model": "s3://lake/endless/x.onnx", "input": "s3://lake/endless-in/", "output": format!("s3://lake/{output}"),
        "execution": {"priority": 100},
    });
    let id = service.submit(&definition).await;
    until_chunks(service, &id, |chunks| chunks.iter().any(|c| c["state"] == "running")).await;
    id
}

async fn unplug(service: &Service, id: &str) {
    assert_eq!(steer(service, id, "cancel").await.0, 202);
    assert_eq!(service.wait(id, PATIENCE).await["state"], "cancelled");
}

async fn until_chunks(service: &Service, id: &str, wanted: impl Fn(&[Value]) -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
        if wanted(&chunks) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "this did not come: {chunks:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn steer(service: &Service, id: &str, what: &str) -> (u16, Value) {
    service.post(&format!("/v1/jobs/{id}/{what}"), &Value::Null).await
}

fn kind(problem: &Value) -> &str {
    problem["type"].as_str().and_then(|t| t.strip_prefix("urn:nightshift:problem:")).unwrap_or_else(|| panic!("{problem:#}"))
}

async fn post_with_key(service: &Service, key: &str, body: &str) -> (u16, bool, Value) {
    let request = service.client().post(service.url("/v1/jobs")).header("content-type", "application/json");
    let answer = request.header("idempotency-key", key).body(body.to_owned()).send().await.unwrap();
    let replayed = answer.headers().get("idempotency-replayed").is_some_and(|v| v == "true");
    (answer.status().as_u16(), replayed, answer.json().await.unwrap())
}

#[tokio::test]
async fn fifty_concurrent_posts_with_one_key_make_one_job() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let body = job("in/", "out/").to_string();
    let answers = futures::future::join_all((0..50).map(|_| post_with_key(&service, "one-key", &body))).await;
    assert!(answers.iter().all(|(status, ..)| *status == 202), "{answers:#?}");
    let ids: BTreeSet<&str> = answers.iter().map(|(_, _, job)| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|(_, replayed, _)| !replayed).count(), 1, "one of them made it, the others say that they did not");
    assert_eq!(service.get_all("/v1/jobs").await.len(), 1);
    let id = ids.into_iter().next().unwrap();
    assert_eq!(service.wait(id, PATIENCE).await["state"], "completed");
    Output::read(&s3, "lake", "out/").check_invariants();
}

#[tokio::test]
async fn a_request_that_is_sent_again_gets_its_job_as_it_is_now() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let mut service = Service::start(&s3, ServiceOptions::default()).await;
    let (status, replayed, first) = post_with_key(&service, "k", &job("in/", "out/").to_string()).await;
    assert_eq!((status, replayed), (202, false));
    let id = first["id"].as_str().unwrap().to_owned();
    service.wait(&id, PATIENCE).await;
    service.kill9();
    service.restart().await;
    // Its output is there now, and its model is gone: neither matters.
    s3.remove("lake", "model/");
    let reordered = r#"{"output":"s3://lake/out/", "input":"s3://lake/in/",  "model":"s3:\/\/lake\/model\/"}"#;
    let (status, replayed, again) = post_with_key(&service, "k", reordered).await;
    assert_eq!((status, replayed, &again["id"], &again["state"]), (202, true, &json!(id), &json!("completed")), "{again:#}");
    let (status, _, problem) = post_with_key(&service, "k", &job("in/", "other/").to_string()).await;
    assert_eq!((status, kind(&problem)), (422, "idempotency_key_reused"), "{problem:#}");
    assert!(problem["detail"].as_str().unwrap().contains(&id), "{problem:#}");

    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    let (status, _, problem) = post_with_key(&service, "mended", r#"{"model": "s3://lake/model/"}"#).await;
    assert_eq!((status, kind(&problem)), (422, "invalid_request"));
    let (status, replayed, _) = post_with_key(&service, "mended", &job("in/", "mended/").to_string()).await;
    assert_eq!((status, replayed), (202, false), "a refused request leaves no key");
    let (status, _, problem) = post_with_key(&service, "two words", &job("in/", "x/").to_string()).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("Idempotency-Key")), "{problem:#}");
}

#[tokio::test]
async fn a_dry_run_shows_what_a_job_would_write_and_writes_nothing() {
    let s3 = lake().await;
    s3.put("lake", "csv/a.csv", &patients(6, &[2]));
    s3.put("lake", "csv/b.csv", &patients(40, &[]));
    s3.put_fixture("data/diabetes/parquet", "lake", "parquet/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    for (input, columns_type, records) in [("csv/", "text", 46), ("parquet/", "Float64", 442)] {
        let mut definition = job(input, "out/");
        definition["output"] = json!({"uri": "s3://lake/out/", "include_input": ["age"]});
        let before = s3.keys("lake", "");
        let (status, dry) = service.post("/v1/jobs?dry_run=true&records=12", &definition).await;
        assert_eq!((status, &dry["problems"]), (200, &json!([])), "{dry:#}");
        assert_eq!(s3.keys("lake", ""), before, "nothing is written");
        assert!(service.get_all("/v1/jobs").await.iter().all(|job| job["state"] == "completed"), "no job is made");
        assert_eq!(dry["pipeline"]["task"], "tabular-regression", "{dry:#}");
        let columns: Vec<&str> = dry["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(columns, golden::DIABETES_COLUMNS);
        assert_eq!(dry["columns"][0]["type"], columns_type);
        assert_eq!(dry["inputs"][0]["columns"], json!(golden::DIABETES_COLUMNS));
        assert_eq!(
            (&dry["provider"], &dry["estimate"]["all"], dry["estimate"]["objects"].as_u64()),
            (&json!("cpu"), &json!(true), Some(2))
        );
        let estimated = dry["estimate"]["records"].as_u64().unwrap();
        assert_eq!(dry["estimate"]["records_exact"], input == "parquet/");
        assert!(estimated.abs_diff(records) <= if input == "parquet/" { 0 } else { 6 }, "{estimated} of {records}");
        assert_eq!((&dry["estimate"]["chunks"], &dry["estimate"]["chunks_exact"]), (&json!(1), &json!(true)));

        let id = service.submit(&definition).await;
        let done = service.wait(&id, PATIENCE).await;
        assert_eq!((&done["state"], &done["counts"]["chunks"]), (&json!("completed"), &json!(1)));
        let output = Output::read(&s3, "lake", "out/");
        let (rows, errors) = (dry["rows"].as_array().unwrap(), dry["errors"].as_array().unwrap());
        assert_eq!(rows.len() + errors.len(), 12);
        assert_eq!(rows.iter().map(|r| r.as_object().unwrap().clone()).collect::<Vec<_>>(), output.rows[..rows.len()]);
        assert_eq!(errors.iter().map(|r| r.as_object().unwrap().clone()).collect::<Vec<_>>(), output.errors);
        assert_eq!(errors.len(), usize::from(input == "csv/"));

        let (_, occupied) = service.post("/v1/jobs?dry_run=true", &definition).await;
        assert_eq!(kind(&occupied["problems"][0]), "output_not_empty", "{occupied:#}");
        assert_eq!(occupied["rows"].as_array().unwrap().len() + occupied["errors"].as_array().unwrap().len(), 10);
        s3.remove("lake", "out/");
    }
}

#[tokio::test]
async fn a_dry_run_tells_what_would_stand_in_the_way_of_a_job() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    s3.put("lake", "no-numbers/a.csv", b"a,b\n1,2\n");
    let service = Service::start(&s3, ServiceOptions::default().arg("--batch-timeout", "1")).await;
    let dry = async |definition: &Value| {
        let (status, dry) = service.post("/v1/jobs?dry_run=true", definition).await;
        assert_eq!(status, 200, "{dry:#}");
        dry
    };
    let empty = dry(&job("nothing/", "out/")).await;
    assert_eq!((kind(&empty["problems"][0]), &empty["rows"]), ("input_empty", &json!([])), "{empty:#}");
    let nowhere = dry(&json!({"model": "s3://lake/model/", "input": "s3://nowhere/in/", "output": "s3://lake/out/"})).await;
    assert_eq!(kind(&nowhere["problems"][0]), "bucket_not_found", "{nowhere:#}");
    let mut cuda = job("in/", "out/");
    cuda["execution"] = json!({"providers": ["cuda"]});
    assert_eq!(kind(&dry(&cuda).await["problems"][0]), "provider_unavailable");
    let endless = json!({"model": "s3://lake/endless/x.onnx", "input": "s3://lake/endless-in/", "output": "s3://lake/out/"});
    assert_eq!(kind(&dry(&endless).await["problems"][0]), "inference_timeout");
    let unfit = dry(&job("no-numbers/", "out/")).await;
    assert_eq!((&unfit["inputs"][0]["columns"], &unfit["columns"][1]["name"]), (&json!([]), &json!("b")), "{unfit:#}");
    assert!(unfit["errors"][0]["detail"].as_str().unwrap().contains("pipeline.features"), "{unfit:#}");
    let id = plug(&service, "out/").await;
    assert_eq!(kind(&dry(&job("in/", "out/nested/")).await["problems"][0]), "output_claimed");
    unplug(&service, &id).await;

    let mut faulty = job("in/", "out/");
    faulty["pipeline"] = json!({"labels": ["a"], "outputs": ["nothing"]});
    let (status, dry) = service.post("/v1/jobs?dry_run=true", &faulty).await;
    let (_, real) = service.post("/v1/jobs", &faulty).await;
    assert_eq!((status, &dry["errors"]), (422, &real["errors"]), "faults are those of the job itself");
    for query in ["dry_run=yes", "dry_run=true&records=0", "dry_run=true&records=101", "records=5"] {
        assert_eq!(service.post(&format!("/v1/jobs?{query}"), &job("in/", "out/")).await.0, 422, "{query}");
    }
}

#[tokio::test]
async fn a_paused_job_waits_and_lets_others_go_first() {
    let s3 = lake().await;
    for object in 0..3 {
        s3.put("lake", &format!("in/{object}.csv"), &patients(5, &[]));
    }
    let service = one_at_a_time(&s3).await;
    let blocker = plug(&service, "blocker/").await;
    let id = service.submit(&job("in/", "out/")).await;
    service.until(&id, |job| job["counts"]["chunks"] == 3).await;
    let etag = async || service.client().get(service.url(&format!("/v1/jobs/{id}"))).send().await.unwrap().headers()["etag"].clone();
    let running = etag().await;
    let (status, paused) = steer(&service, &id, "pause").await;
    assert_eq!((status, &paused["state"]), (202, &json!("paused")), "{paused:#}");
    assert!(paused["paused_at"].is_string());
    assert_ne!(etag().await, running, "a pause changes the tag");
    assert_eq!(steer(&service, &id, "pause").await.0, 202, "asking twice is no error");
    assert_eq!(service.get_all("/v1/jobs").await.iter().filter(|job| job["state"] == "paused").count(), 1);
    assert_eq!(service.get("/v1/jobs?state=paused").await.1["items"][0]["id"], id.as_str());
    unplug(&service, &blocker).await;
    // A job that came later is done meanwhile: the paused one was passed over.
    let later = service.submit(&job("in/", "later/")).await;
    assert_eq!(service.wait(&later, PATIENCE).await["state"], "completed");
    let waiting = service.job(&id).await;
    assert_eq!((&waiting["state"], &waiting["counts"]["chunks_done"]), (&json!("paused"), &json!(0)));
    let (status, problem) = steer(&service, &id, "retry").await;
    assert_eq!((status, kind(&problem)), (409, "wrong_state"));
    let (status, resumed) = steer(&service, &id, "resume").await;
    assert_eq!((status, &resumed["state"], &resumed["paused_at"]), (202, &json!("in_progress"), &Value::Null));
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    Output::read(&s3, "lake", "out/").check_invariants();
    for what in ["pause", "resume"] {
        let (status, problem) = steer(&service, &id, what).await;
        assert_eq!((status, kind(&problem)), (409, "wrong_state"), "{what}");
        assert_eq!(steer(&service, &format!("job_{}", "0".repeat(32)), what).await.0, 404);
    }
}

#[tokio::test]
async fn a_retry_mends_what_failed_and_readers_see_a_good_manifest_all_the_time() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[1]));
    s3.put("lake", "in/b.csv", &patients(7, &[]));
    let lost = s3.get("lake", "in/b.csv");
    let service = one_at_a_time(&s3).await;
    let blocker = plug(&service, "blocker/1/").await;
    let id = service.submit(&job("in/", "out/")).await;
    service.until(&id, |job| job["counts"]["chunks"] == 2).await;
    s3.remove_object("lake", "in/b.csv");
    unplug(&service, &blocker).await;
    let done = service.wait(&id, PATIENCE).await;
    assert_eq!((&done["state"], &done["counts"]["records"]["failed"]), (&json!("completed"), &json!(2)), "{done:#}");
    let first = Output::read(&s3, "lake", "out/");
    first.check_invariants();

    // Its object is back. Until the retry is over, the old results are whole.
    s3.put("lake", "in/b.csv", &lost);
    let blocker = plug(&service, "blocker/2/").await;
    let (status, retrying) = steer(&service, &id, "retry").await;
    assert_eq!(
        (status, &retrying["state"], &retrying["retries"], &retrying["finished_at"]),
        (202, &json!("in_progress"), &json!(1), &Value::Null)
    );
    assert_eq!(retrying["counts"]["records"], json!({"total": null, "succeeded": 0, "failed": 0}), "both chunks had error rows");
    let meanwhile = Output::read(&s3, "lake", "out/");
    meanwhile.check_invariants();
    assert_eq!(meanwhile.manifest, first.manifest);
    assert_eq!(kind(&service.post("/v1/jobs", &job("in/", "out/")).await.1), "output_not_empty");

    // Cancelled half-way, its output says no more that it is complete.
    assert_eq!(steer(&service, &id, "cancel").await.0, 202);
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "cancelled");
    assert!(!s3.exists("lake", "out/_SUCCESS") && s3.keys("lake", "out/").is_empty(), "{:?}", s3.keys("lake", "out/"));

    assert_eq!(steer(&service, &id, "retry").await.0, 202);
    unplug(&service, &blocker).await;
    let done = service.wait(&id, PATIENCE).await;
    assert_eq!((&done["state"], &done["retries"]), (&json!("completed"), &json!(2)), "{done:#}");
    assert_eq!(done["counts"]["records"], json!({"total": 12, "succeeded": 11, "failed": 1}));
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!((output.rows.len(), output.errors.len()), (11, 1));

    let fresh = service.submit(&job("in/", "fresh/")).await;
    let fresh = service.wait(&fresh, PATIENCE).await["summary"].clone();
    assert_eq!(done["summary"]["values"]["count"], 11);
    assert!(golden::agree(&done["summary"], &fresh, 1e-9), "what was lost and mended is counted once: {:#}\n{fresh:#}", done["summary"]);

    // What cannot be mended fails again; the chunk without error rows is not touched, and while the other waits the summary is its own.
    let part = output.manifest["parts"][1]["key"].clone();
    let blocker = plug(&service, "blocker/3/").await;
    let (status, retrying) = steer(&service, &id, "retry").await;
    assert_eq!((status, &retrying["counts"]["records"]["succeeded"]), (202, &json!(7)));
    s3.put("lake", "alone/b.csv", &lost);
    unplug(&service, &blocker).await;
    assert_eq!(service.wait(&id, PATIENCE).await["summary"], done["summary"]);
    let alone = service.submit(&job("alone/", "alone-out/")).await;
    let alone = service.wait(&alone, PATIENCE).await["summary"].clone();
    assert!(golden::agree(&retrying["summary"], &alone, 1e-9), "{:#}\n{alone:#}", retrying["summary"]);
    assert_eq!(service.wait(&id, PATIENCE).await["counts"]["records"]["failed"], 1);
    let again = Output::read(&s3, "lake", "out/");
    again.check_invariants();
    assert_eq!(again.manifest["parts"][1]["key"], part);
    assert_ne!(again.manifest["parts"][0]["key"], output.manifest["parts"][0]["key"]);
}

#[tokio::test]
async fn a_retry_that_has_nothing_to_do_or_whose_output_is_anothers_is_refused() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let failed = service.submit(&job("late/", "out/")).await;
    assert_eq!(service.wait(&failed, PATIENCE).await["state"], "failed");
    let done = service.submit(&job("in/", "out/")).await;
    assert_eq!(service.wait(&done, PATIENCE).await["state"], "completed");
    let (status, problem) = steer(&service, &done, "retry").await;
    assert_eq!((status, kind(&problem)), (409, "nothing_to_retry"), "{problem:#}");
    let (status, problem) = steer(&service, &failed, "retry").await;
    assert_eq!((status, kind(&problem)), (409, "output_not_empty"), "{problem:#}");
    Output::read(&s3, "lake", "out/").check_invariants();
    s3.remove("lake", "out/");
    let id = plug(&service, "out/").await;
    let (status, problem) = steer(&service, &failed, "retry").await;
    assert_eq!((status, kind(&problem)), (409, "output_claimed"), "{problem:#}");
    unplug(&service, &id).await;
    // What it did not find is there now.
    s3.put("lake", "late/a.csv", &patients(3, &[]));
    assert_eq!(steer(&service, &failed, "retry").await.0, 202);
    let job = service.wait(&failed, PATIENCE).await;
    assert_eq!((&job["state"], &job["counts"]["records"]["succeeded"], &job["error"]), (&json!("completed"), &json!(3), &Value::Null));
    Output::read(&s3, "lake", "out/").check_invariants();
}

#[tokio::test]
async fn a_deadline_ends_a_job_and_keeps_what_is_done() {
    let s3 = lake().await;
    for object in 0..200 {
        s3.put("lake", &format!("in/{object:03}.csv"), &patients(2, &[]));
    }
    let service = one_at_a_time(&s3).await;
    let mut definition = job("in/", "out/");
    definition["execution"] = json!({"deadline": "3s"});
    let id = service.submit(&definition).await;
    service.until(&id, |job| job["counts"]["chunks_done"].as_u64() >= Some(1)).await;
    // Paused, so that the deadline passes first however fast the machine is.
    assert_eq!(steer(&service, &id, "pause").await.0, 202);
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!((&job["state"], kind(&job["error"])), (&json!("expired"), "deadline_passed"), "{job:#}");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!((&output.manifest["complete"], &output.manifest["ending"]), (&json!(false), &json!("expired")));
    assert!(!output.rows.is_empty() && output.manifest["parts"].as_array().unwrap().len() < 200);
}

#[tokio::test]
async fn higher_priority_goes_first_and_equals_share() {
    let s3 = lake().await;
    for object in 0..6 {
        s3.put("lake", &format!("in/{object}.csv"), &patients(2, &[]));
    }
    let service = one_at_a_time(&s3).await;
    let blocker = plug(&service, "blocker/").await;
    let mut ids = Vec::new();
    for (output, priority) in [("a/", 0), ("b/", 0), ("urgent/", 7), ("last/", -3)] {
        let mut definition = job("in/", output);
        definition["execution"] = json!({"priority": priority});
        let id = service.submit(&definition).await;
        service.until(&id, |job| job["counts"]["chunks"] == 6).await;
        ids.push(id);
    }
    unplug(&service, &blocker).await;
    let mut order = Vec::new();
    for (job, id) in ids.iter().enumerate() {
        assert_eq!(service.wait(id, PATIENCE).await["state"], "completed");
        let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
        order.extend(chunks.iter().map(|c| (c["started_at"].as_str().unwrap().to_owned(), job)));
    }
    order.sort();
    let order: Vec<usize> = order.into_iter().map(|(_, job)| job).collect();
    assert_eq!(order[..6], [2; 6], "the urgent job is done before another begins: {order:?}");
    assert_eq!(order[18..], [3; 6], "the last one waits for all others: {order:?}");
    assert!(order[6..18].windows(2).all(|turn| turn[0] != turn[1]), "equals take turns: {order:?}");
}

#[tokio::test]
async fn an_error_policy_by_count_is_judged_at_once_and_one_by_share_at_the_end() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(10, &[1, 2, 3]));
    s3.put("lake", "in/b.csv", &patients(10, &[]));
    let service = one_at_a_time(&s3).await;
    let cases = [
        (json!({"max_failed_records": 2}), "failed", ["done", "cancelled"]),
        (json!({"max_failed_records": 3}), "completed", ["done", "done"]),
        (json!({"max_failed_ratio": 0.1}), "failed", ["done", "done"]),
        (json!({"max_failed_ratio": 0.15}), "completed", ["done", "done"]),
    ];
    for (policy, ending, states) in cases {
        let mut definition = job("in/", "out/");
        definition["error_policy"] = policy.clone();
        let blocker = plug(&service, "blocker/").await;
        let id = service.submit(&definition).await;
        service.until(&id, |job| job["counts"]["chunks"] == 2).await;
        unplug(&service, &blocker).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], ending, "{policy}: {job:#}");
        if ending == "failed" {
            assert_eq!(kind(&job["error"]), "error_policy_violated", "{job:#}");
            let detail = job["error"]["detail"].as_str().unwrap();
            assert!(detail.contains("3 ") && detail.contains("invalid_number × 3"), "{detail}");
        }
        let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
        assert_eq!(chunks.iter().map(|c| c["state"].as_str().unwrap()).collect::<Vec<_>>(), states, "{policy}");
        s3.remove("lake", "out/");
    }
}

#[tokio::test]
async fn jobs_are_found_by_state_label_and_time_page_by_page() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(2, &[]));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let mut created = Vec::new();
    for n in 0..5 {
        let mut definition = job("in/", &format!("out/{n}/"));
        definition["labels"] = json!({"team": "risk", "half": if n < 3 { "first" } else { "second" }, "a b/c": "ä&="});
        let id = service.submit(&definition).await;
        created.push((id.clone(), service.wait(&id, PATIENCE).await["created_at"].as_str().unwrap().to_owned()));
    }
    let list = async |query: &str| {
        let (status, page) = service.get(&format!("/v1/jobs?{query}")).await;
        assert_eq!(status, 200, "{query}: {page:#}");
        let items = page["items"].as_array().unwrap().iter();
        let places = items.map(|job| created.iter().position(|(id, _)| id == job["id"].as_str().unwrap()).unwrap());
        (places.collect::<Vec<_>>(), page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(list("label.team=risk&label.half=first&state=completed").await.0, [2, 1, 0]);
    assert_eq!(list("label.a%20b/c=%C3%A4%26%3D&limit=200").await.0, [4, 3, 2, 1, 0]);
    assert_eq!(list(&format!("created_after={}&created_before={}", created[0].1, created[3].1)).await.0, [2, 1]);
    assert_eq!(list(&format!("created_after={}", created[4].1)).await.0, [0_usize; 0]);
    assert_eq!(list("created_before=2020-01-01T00:00:00%2B02:00").await.0, [0_usize; 0]);
    let (first, cursor) = list("label.team=risk&limit=2").await;
    let (second, cursor) = list(&format!("label.team=risk&limit=2&cursor={}", cursor.unwrap())).await;
    let (third, end) = list(&format!("label.team=risk&limit=2&cursor={}", cursor.unwrap())).await;
    assert_eq!((first, second, third, end), (vec![4, 3], vec![2, 1], vec![0], None));
    for wrong in ["created_after=yesterday", "created_before=2026-11-23", "createdafter=2026-11-23T00:00:00Z", "state=pausd"] {
        assert_eq!(service.get(&format!("/v1/jobs?{wrong}")).await.0, 422, "{wrong}");
    }
}

#[tokio::test]
async fn results_can_be_read_while_the_job_runs() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[1]));
    s3.put("lake", "in/b.csv", &patients(5, &[]));
    let service = one_at_a_time(&s3).await;
    let mut patient = job("in/", "out/");
    patient["execution"] = json!({"max_parallel_chunks": 1});
    let blocker = plug(&service, "blocker/1/").await;
    let id = service.submit(&patient).await;
    service.until(&id, |job| job["counts"]["chunks"] == 2).await;
    let (status, manifest) = service.get(&format!("/v1/jobs/{id}/results/manifest")).await;
    assert_eq!((status, &manifest["complete"], &manifest["parts"]), (200, &json!(false), &json!([])));
    // The slot is given to one chunk, and then to another endless job.
    let next = json!({"model": "s3://lake/endless/x.onnx", "input": "s3://lake/endless-in/", "output": "s3://lake/blocker/2/"});
    let next = service.submit(&next).await;
    service.until(&next, |job| job["counts"]["chunks"] == 1).await;
    unplug(&service, &blocker).await;
    until_chunks(&service, &next, |chunks| chunks[0]["state"] == "running").await;
    let job = service.job(&id).await;
    assert_eq!((&job["state"], &job["counts"]["chunks_done"]), (&json!("in_progress"), &json!(1)), "{job:#}");
    let (_, results) = service.get(&format!("/v1/jobs/{id}/results")).await;
    assert_eq!((results["items"].as_array().unwrap().len(), &results["items"][0]["records"]), (1, &json!(4)), "{results:#}");
    let (status, manifest) = service.get(results["manifest_url"].as_str().unwrap()).await;
    assert_eq!((status, &manifest["complete"], &manifest["ending"]), (200, &json!(false), &Value::Null), "{manifest:#}");
    assert_eq!(manifest["counts"], json!({"objects": 2, "chunks": 2, "records": 5, "succeeded": 4, "failed": 1}));
    let part = s3.get("lake", &format!("out/{}", manifest["parts"][0]["key"].as_str().unwrap()));
    assert_eq!(manifest["parts"][0]["bytes"].as_u64(), Some(part.len() as u64));
    let (_, errors) = service.get(&format!("/v1/jobs/{id}/errors")).await;
    assert_eq!((errors["items"].as_array().unwrap().len(), &errors["items"][0]["code"]), (1, &json!("invalid_number")));
    unplug(&service, &next).await;
    service.wait(&id, PATIENCE).await;
    let (_, manifest) = service.get(&format!("/v1/jobs/{id}/results/manifest")).await;
    assert_eq!(manifest, Output::read(&s3, "lake", "out/").manifest, "once the job has ended, it is the object in the bucket");

    let nothing = service.submit(&self::job("nothing/", "nothing-out/")).await;
    service.wait(&nothing, PATIENCE).await;
    let (status, manifest) = service.get(&format!("/v1/jobs/{nothing}/results/manifest")).await;
    assert_eq!(
        (status, &manifest["complete"], &manifest["ending"], &manifest["parts"]),
        (200, &json!(false), &json!("failed"), &json!([]))
    );
}

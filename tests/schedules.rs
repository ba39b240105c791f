//! Jobs that are made again and again, that read only what is new, and that wait: for data, and for each other.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{
    Faults, S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
    golden::{self, patients},
    postgres::database,
};

const PATIENCE: Duration = Duration::from_secs(90);

async fn lake() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3
}

/// A schedule whose fires are those that are asked for.
fn on_request(job: Value) -> Value {
    json!({"name": "on request", "cron": "0 0 1 1 *", "overlap": "queue", "job": job})
}

/// The same, of jobs that read what is new and write to a prefix each.
fn only_new() -> Value {
    let output = "s3://lake/out/{{ fire_time | date(\"%H%M%S-%6f\") }}/";
    let mut definition = on_request(json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": output}));
    definition["only_new"] = true.into();
    definition
}

async fn create(service: &Service, definition: &Value) -> String {
    let (status, answer) = service.post("/v1/schedules", definition).await;
    assert_eq!(status, 201, "{answer:#}");
    answer["id"].as_str().expect("an id").to_owned()
}

async fn patch(service: &Service, id: &str, patch: &Value) -> (u16, Value) {
    let answer = service.client().patch(service.url(&format!("/v1/schedules/{id}"))).json(patch).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn runs(service: &Service, id: &str) -> Vec<Value> {
    service.get_all(&format!("/v1/schedules/{id}/runs")).await
}

/// Runs a schedule now; the fire once it is settled.
async fn run_now(service: &Service, id: &str) -> Value {
    let (status, fire) = service.post(&format!("/v1/schedules/{id}/run"), &Value::Null).await;
    assert_eq!(status, 202, "{fire:#}");
    assert!(fire["manual"] == true && fire["state"] == "waiting", "{fire:#}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let runs = runs(service, id).await;
        let run = runs.iter().find(|run| run["fire_time"] == fire["fire_time"]).expect("the fire");
        if run["state"] != "waiting" {
            return run.clone();
        }
        assert!(Instant::now() < deadline, "{run:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a schedule now; its job once that has ended.
async fn job_now(service: &Service, id: &str) -> Value {
    let run = run_now(service, id).await;
    assert_eq!(run["state"], "started", "{run:#}");
    service.wait(run["job"].as_str().expect("a job"), PATIENCE).await
}

/// How many records of each object the parts below a prefix have.
fn scored(s3: &S3Server, prefix: &str) -> BTreeMap<String, usize> {
    let mut scored = BTreeMap::new();
    for key in s3.keys("lake", prefix).into_iter().filter(|key| key[prefix.len()..].starts_with("part-")) {
        for line in String::from_utf8(s3.get("lake", &key)).unwrap().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            *scored.entry(row["_source"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    scored
}

/// The prefix that a job writes to, below the bucket.
fn output(job: &Value) -> String {
    job["output"]["uri"].as_str().unwrap().strip_prefix("s3://lake/").unwrap().to_owned()
}

fn code(problem: &Value) -> &str {
    problem["type"].as_str().and_then(|t| t.strip_prefix("urn:nightshift:problem:")).unwrap_or_else(|| panic!("{problem:#}"))
}

fn of(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(key, rows)| ((*key).to_owned(), *rows)).collect()
}

#[tokio::test]
async fn each_second_has_its_one_job_over_three_nodes_that_are_killed() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(3, &[]));
    let options =
        ServiceOptions::default().arg("--lease-ttl", "3").arg("--database-connections", "4").env("DATABASE_URL", &database().await);
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Service::start(&s3, options.clone()).await);
    }
    let end = jiff::Timestamp::now() + Duration::from_secs(12);
    let definition = json!({
        "name": "each second", "cron": "* * * * * *", "overlap": "queue", "catch_up": "all", "end_at": end.to_string(),
        "job": {"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/{{ fire_time | date(\"%H%M%S\") }}/"},
    });
    let id = create(&nodes[0], &definition).await;
    let path = format!("/v1/schedules/{id}");
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        nodes[round % 3].kill9();
        nodes[round % 3].restart().await;
    }
    let deadline = Instant::now() + Duration::from_secs(180);
    let runs = loop {
        let (_, schedule) = nodes[1].get(&path).await;
        let runs = runs(&nodes[1], &id).await;
        if schedule["state"] == "ended" && runs.iter().all(|run| run["state"] != "waiting") {
            break runs;
        }
        assert!(Instant::now() < deadline, "{schedule:#} {runs:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let times: Vec<String> = runs.iter().rev().map(|run| run["fire_time"].as_str().unwrap().to_owned()).collect();
    assert!(times.len() >= 10, "{times:?}");
    for pair in times.windows(2) {
        let [earlier, later] = [&pair[0], &pair[1]].map(|time| time.parse::<jiff::Timestamp>().unwrap());
        assert_eq!(later.as_second() - earlier.as_second(), 1, "{times:?}");
    }
    assert!(runs.iter().all(|run| run["state"] == "started"), "{runs:#?}");
    let made: BTreeSet<&str> = runs.iter().map(|run| run["job"].as_str().unwrap()).collect();
    let jobs = nodes[2].get_all("/v1/jobs").await;
    assert_eq!((made.len(), jobs.len()), (runs.len(), runs.len()), "a job each, and no other");
    for run in &runs {
        let job = nodes[0].wait(run["job"].as_str().unwrap(), PATIENCE).await;
        assert_eq!((&job["state"], &job["schedule"]["id"]), (&json!("completed"), &json!(id)), "{job:#}");
        assert_eq!(job["schedule"]["fire_time"], run["fire_time"]);
        assert_eq!(scored(&s3, &output(&job)), of(&[("in/a.csv", 3)]));
    }
}

#[tokio::test]
async fn a_run_reads_what_was_added_and_changed_and_what_a_failed_run_had() {
    let s3 = lake().await;
    for (key, rows) in [("in/a.csv", 5), ("in/b.csv", 6), ("in/c.csv", 7)] {
        s3.put("lake", key, &patients(rows, &[]));
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let mut definition = only_new();
    definition["job"]["error_policy"] = json!({"max_failed_records": 0});
    let id = create(&service, &definition).await;

    let first = job_now(&service, &id).await;
    assert_eq!((&first["state"], &first["schedule"]["only_new"]), (&json!("completed"), &json!(true)), "{first:#}");
    assert_eq!(scored(&s3, &output(&first)), of(&[("in/a.csv", 5), ("in/b.csv", 6), ("in/c.csv", 7)]));

    // One is added, one is changed, one is gone.
    s3.put("lake", "in/d.csv", &patients(4, &[]));
    s3.put("lake", "in/b.csv", &patients(9, &[]));
    s3.remove_object("lake", "in/c.csv");
    let second = job_now(&service, &id).await;
    assert_eq!(second["state"], "completed", "{second:#}");
    assert_eq!(scored(&s3, &output(&second)), of(&[("in/b.csv", 9), ("in/d.csv", 4)]));
    assert_eq!((&first["summary"]["drift"], &second["summary"]["drift"]["against"]), (&Value::Null, &first["id"]));

    let third = job_now(&service, &id).await;
    assert_eq!((&third["state"], &third["counts"]["objects"]), (&json!("completed"), &json!(0)), "{third:#}");
    assert!(third["note"].as_str().is_some_and(|note| note.contains("all 3 objects")), "{third:#}");
    assert!(s3.exists("lake", &format!("{}_SUCCESS", output(&third))), "whoever waits for the marker need not wait");
    assert!(scored(&s3, &output(&third)).is_empty());
    assert_eq!(first["note"], Value::Null);

    // A run that fails covers nothing, be it new or not.
    s3.put("lake", "in/e.csv", &patients(3, &[1]));
    s3.put("lake", "in/a.csv", &patients(2, &[]));
    let fourth = job_now(&service, &id).await;
    assert_eq!(fourth["state"], "failed", "{fourth:#}");
    let (status, _) = patch(&service, &id, &json!({"job": {"error_policy": null}})).await;
    assert_eq!(status, 200);
    let fifth = job_now(&service, &id).await;
    assert_eq!(fifth["state"], "completed", "{fifth:#}");
    assert_eq!(scored(&s3, &output(&fifth)), of(&[("in/a.csv", 2), ("in/e.csv", 2)]));
    assert_eq!(fifth["counts"]["records"], json!({"total": 5, "succeeded": 4, "failed": 1}));
    assert!(job_now(&service, &id).await["note"].is_string());
}

#[tokio::test]
async fn what_a_run_read_that_is_retried_in_vain_comes_again() {
    let s3 = lake().await;
    let objects = [("in/a.csv", patients(5, &[])), ("in/b.csv", patients(3, &[1]))];
    let put = || objects.iter().for_each(|(key, bytes)| s3.put("lake", key, bytes));
    put();
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = create(&service, &only_new()).await;
    let first = job_now(&service, &id).await;
    assert_eq!(first["counts"]["records"], json!({"total": 8, "succeeded": 7, "failed": 1}), "{first:#}");
    assert!(job_now(&service, &id).await["note"].is_string(), "all of it is covered");

    // Its objects are away while it is retried, and come back as they were.
    objects.iter().for_each(|(key, _)| s3.remove_object("lake", key));
    let first = first["id"].as_str().unwrap();
    assert_eq!(service.post(&format!("/v1/jobs/{first}/retry"), &Value::Null).await.0, 202);
    let failed = service.wait(first, PATIENCE).await;
    assert_eq!(failed["state"], "failed", "{failed:#}");
    put();
    let again = job_now(&service, &id).await;
    assert_eq!(again["state"], "completed", "{again:#}");
    assert_eq!(scored(&s3, &output(&again)), of(&[("in/a.csv", 5), ("in/b.csv", 2)]));
    assert!(job_now(&service, &id).await["note"].is_string());
}

#[tokio::test]
async fn a_run_that_waits_when_its_schedule_is_deleted_does_not_read_everything() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = create(&service, &only_new()).await;
    assert_eq!(job_now(&service, &id).await["state"], "completed");
    assert_eq!(patch(&service, &id, &json!({"wait_for": {"uri": "s3://lake/go"}})).await.0, 200);
    let waiting = run_now(&service, &id).await["job"].as_str().expect("a job").to_owned();
    let deleted = service.client().delete(service.url(&format!("/v1/schedules/{id}"))).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    let job = service.wait(&waiting, PATIENCE).await;
    assert_eq!((&job["state"], code(&job["error"])), (&json!("cancelled"), "schedule_deleted"), "{job:#}");
    // Nor does it when somebody insists.
    s3.put("lake", "go", b"");
    assert_eq!(service.post(&format!("/v1/jobs/{waiting}/retry"), &Value::Null).await.0, 202);
    let job = service.wait(&waiting, PATIENCE).await;
    assert_eq!((&job["state"], code(&job["error"])), (&json!("failed"), "schedule_deleted"), "{job:#}");
    assert!(scored(&s3, &output(&job)).is_empty());
}

#[tokio::test]
async fn a_job_waits_for_its_data_and_says_so() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let definition = |output: &str, wait: Value| json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/{output}/"), "wait_for": wait});
    let wait = json!({"uri": "s3://lake/in/_SUCCESS", "timeout": "4h"});
    let (status, dry) = service.post("/v1/jobs?dry_run=true", &definition("out", wait.clone())).await;
    assert_eq!((status, &dry["waiting_for"]["uri"]), (200, &wait["uri"]), "{dry:#}");
    let id = service.submit(&definition("out", wait.clone())).await;
    let late = service.submit(&definition("late", json!({"uri": "s3://lake/never", "timeout": "2s"}))).await;
    let job = service.job(&id).await;
    assert_eq!((&job["state"], &job["waiting_for"]["uri"], &job["wait_for"]), (&json!("queued"), &wait["uri"], &wait), "{job:#}");
    let failed = service.wait(&late, PATIENCE).await;
    assert_eq!((&failed["state"], code(&failed["error"])), (&json!("failed"), "wait_timeout"), "{failed:#}");
    assert_eq!(service.job(&id).await["state"], "queued");
    s3.put("lake", "in/_SUCCESS", b"");
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!((&job["state"], &job["waiting_for"]), (&json!("completed"), &Value::Null), "{job:#}");
    assert_eq!(scored(&s3, "out/"), of(&[("in/a.csv", 5)]));
    let (_, dry) = service.post("/v1/jobs?dry_run=true", &definition("dry", wait)).await;
    assert_eq!(dry["waiting_for"], Value::Null);
}

#[tokio::test]
async fn jobs_that_wait_for_a_store_that_says_nothing_keep_no_other_from_being_planned() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let proxy = s3.with_faults(Faults { below: "markers/".to_owned(), stall: 1.0, ..Faults::default() }).await;
    let service = Service::start(&proxy, ServiceOptions::default()).await;
    let definition = |output: String| json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": output});
    for n in 0..12 {
        let mut waiting = definition(format!("s3://lake/waiting/{n}/"));
        waiting["wait_for"] = json!({"uri": format!("s3://lake/markers/{n}")});
        service.submit(&waiting).await;
    }
    let deadline = Instant::now() + PATIENCE;
    while proxy.counts().get("stall").is_none_or(|stalled| *stalled < 4) {
        assert!(Instant::now() < deadline, "{:?}", proxy.counts());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = service.submit(&definition("s3://lake/out/".to_owned())).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
}

#[tokio::test]
async fn a_chain_of_jobs_needs_nobody_to_watch_it() {
    let s3 = lake().await;
    // Numbers as JSON has them stay numbers on their way from one job to the next; the third record has a cell that is none.
    let line = |row: usize| {
        let cell = |column: usize| if (row, column) == (2, 3) { json!("n/a") } else { json!((row * 31 + column * 17) as f64 / 1000.0) };
        let cells = golden::DIABETES_COLUMNS.iter().enumerate().map(|(column, name)| ((*name).to_owned(), cell(column)));
        format!("{}\n", Value::Object(cells.collect()))
    };
    s3.put("lake", "in/a.jsonl", (0..5).map(line).collect::<String>().as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let first = service
        .submit(&json!({
            "model": "s3://lake/model/", "input": "s3://lake/in/", "output": {"uri": "s3://lake/scored/", "include_input": golden::DIABETES_COLUMNS},
            "wait_for": {"uri": "s3://lake/go"},
        }))
        .await;
    let chained = |parents: &[&str], output: &str| {
        json!({
            "model": "s3://lake/model/", "output": format!("s3://lake/{output}/"), "depends_on": parents,
            "pipeline": {"features": golden::DIABETES_COLUMNS},
            "input": {"uri": format!("{{{{ parents.{}.output }}}}", parents[0]), "include": ["part-*"]},
            "name": format!("after {{{{ parents.{}.output }}}}", parents[0]),
        })
    };
    let second = service.submit(&chained(&[&first], "again")).await;
    let third = service.submit(&chained(&[&second, &first], "thrice")).await;
    let job = service.job(&third).await;
    assert_eq!((&job["state"], &job["waiting_for"]["jobs"]), (&json!("queued"), &json!([second, first])), "{job:#}");
    assert_eq!((&job["input"]["uri"], &job["name"]), (&json!("s3://lake/again/"), &json!("after s3://lake/again/")));
    let (_, dry) = service.post("/v1/jobs?dry_run=true", &chained(&[&first], "dry")).await;
    assert_eq!(dry["waiting_for"]["jobs"], json!([first]), "{dry:#}");
    s3.put("lake", "go", b"");
    assert_eq!(service.wait(&second, PATIENCE).await["state"], "completed");
    assert_eq!(scored(&s3, "again/").values().sum::<usize>(), 4, "the record that failed is no input of the next");
    // What the second wrote has no columns that the model knows.
    let job = service.wait(&third, PATIENCE).await;
    assert_eq!(job["state"], "failed", "{job:#}");

    let empty = json!({"model": "s3://lake/model/", "input": "s3://lake/nothing/", "output": "s3://lake/x/"});
    let failing = service.submit(&empty).await;
    let child = json!({"model": "s3://lake/model/", "input": "{{ parent.output }}", "output": "s3://lake/y/", "depends_on": [failing]});
    let child = service.submit(&child).await;
    let grandchild = service.submit(&chained(&[&child], "z")).await;
    for (id, parent) in [(&child, &failing), (&grandchild, &child)] {
        let job = service.wait(id, PATIENCE).await;
        assert_eq!((&job["state"], code(&job["error"])), (&json!("cancelled"), "dependency_failed"), "{job:#}");
        assert!(job["error"]["detail"].as_str().unwrap().contains(parent.as_str()), "{job:#}");
    }

    let unknown = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071";
    let (status, problem) = service
        .post(
            "/v1/jobs",
            &json!({"model": "s3://lake/model/", "input": "{{ parent.output }}", "output": "s3://lake/w/", "depends_on": [unknown, "x"]}),
        )
        .await;
    assert_eq!(status, 422);
    assert_eq!(places(&problem), [("/depends_on/0", "unknown_job"), ("/depends_on/1", "unknown_job"), ("/input", "invalid_placeholder")]);
}

fn places(problem: &Value) -> Vec<(&str, &str)> {
    let faults = problem["errors"].as_array().unwrap_or_else(|| panic!("{problem:#}"));
    let mut places: Vec<_> = faults.iter().map(|f| (f["pointer"].as_str().unwrap(), f["code"].as_str().unwrap())).collect();
    assert!(faults.iter().all(|fault| fault["hint"].as_str().is_some_and(|hint| hint.len() > 5)), "{problem:#}");
    places.sort_unstable();
    places
}

#[tokio::test]
async fn a_template_is_checked_whole_when_the_schedule_is_made_and_when_it_is_changed() {
    let s3 = lake().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let bad = json!({
        "name": "bad", "cron": "0 25 * * *", "time_zone": "Europe/Belin",
        "job": {
            "model": "s3://lake/model/", "input": {"uri": "s3://lake/{{ fire_tme }}/", "format": "parqet", "include": ["{{ fire_time | dat(\"%Y\") }}"]},
            "output": {"uri": "s3://lake/{{ fire_time | date(\"%Y\") }/"}, "labels": {"day": "{{ fire_time | minus(\"1 day\") }}"},
        },
        "wait_for": {"uri": "s3://lake/{{ parent.output }}/_SUCCESS", "timeout": "soon"},
    });
    let wanted = [
        ("/cron", "invalid_cron"),
        ("/job/input/format", "unknown_value"),
        ("/job/input/include/0", "invalid_placeholder"),
        ("/job/input/uri", "invalid_placeholder"),
        ("/job/labels/day", "invalid_placeholder"),
        ("/job/output/uri", "invalid_placeholder"),
        ("/time_zone", "unknown_time_zone"),
        ("/wait_for/timeout", "invalid_duration"),
        ("/wait_for/uri", "invalid_placeholder"),
    ];
    let (status, problem) = service.post("/v1/schedules", &bad).await;
    assert_eq!(status, 422, "{problem:#}");
    assert_eq!(places(&problem), wanted);
    for (definition, place) in [
        (json!({"cron": "0 0 30 2 *"}), ("/cron", "never_fires")),
        (json!({"end_at": "2020-01-01T00:00:00Z"}), ("/end_at", "never_fires")),
        (
            json!({"job": {"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/in/out/"}}),
            ("/job/output", "output_overlaps_input"),
        ),
    ] {
        let mut good = on_request(json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"}));
        definition.as_object().unwrap().iter().for_each(|(name, value)| good[name] = value.clone());
        let (status, problem) = service.post("/v1/schedules", &good).await;
        assert_eq!((status, places(&problem)), (422, vec![place]));
    }

    let day = "{{ fire_time | minus(\"1d\") | date(\"%Y-%m-%d\") }}";
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let good = json!({
        "name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin",
        "job": {
            "model": "s3://lake/model/", "input": format!("s3://lake/tx/{day}/"), "output": format!("s3://lake/scores/{day}/"),
            "name": format!("{{{{ schedule }}}} {day}"), "webhook": {"url": "https://hooks.example.com/", "secret": secret},
        },
        "wait_for": {"uri": format!("s3://lake/tx/{day}/_SUCCESS"), "timeout": "4h"},
    });
    let (status, preview) = service.post("/v1/schedules?dry_run=true", &good).await;
    assert_eq!((status, preview["next_fires"].as_array().map(Vec::len)), (200, Some(10)), "{preview:#}");
    assert!(service.get_all("/v1/schedules").await.is_empty(), "a dry run keeps nothing");
    let id = create(&service, &good).await;
    let (_, schedule) = service.get(&format!("/v1/schedules/{id}")).await;
    assert_eq!((&schedule["state"], &schedule["next_fires"]), (&json!("active"), &preview["next_fires"]), "{schedule:#}");
    for fire in schedule["next_fires"].as_array().unwrap() {
        let local = fire["local_time"].as_str().unwrap();
        assert!(local[10..].starts_with("T02:30:00+0") || local[10..].starts_with("T03:00:00+02"), "{fire}");
        let day = (local[..10].parse::<jiff::civil::Date>().unwrap()).yesterday().unwrap();
        assert_eq!(fire["input"], format!("s3://lake/tx/{day}/"));
        assert_eq!(fire["output"], format!("s3://lake/scores/{day}/"));
        assert_eq!(fire["wait_for"], format!("s3://lake/tx/{day}/_SUCCESS"));
        assert_eq!(fire["name"], format!("nightly {day}"));
    }
    assert!(!schedule.to_string().contains(secret) && !service.log().contains(secret), "a secret is shown nowhere");

    let (status, problem) = patch(&service, &id, &json!({"job": {"output": {"uri": "s3://lake/{{ x }}/"}}})).await;
    assert_eq!((status, places(&problem)), (422, vec![("/job/output/uri", "invalid_placeholder")]));
    let (status, changed) = patch(&service, &id, &json!({"cron": "0 4 * * *", "job": {"labels": {"team": "risk"}}})).await;
    assert_eq!((status, &changed["job"]["labels"]["team"], &changed["name"]), (200, &json!("risk"), &schedule["name"]), "{changed:#}");
    assert!(changed["next_fires"][0]["local_time"].as_str().unwrap().contains("T04:00:00"));
    for (verb, state) in [("pause", "paused"), ("pause", "paused"), ("resume", "active"), ("resume", "active")] {
        let (status, answer) = service.post(&format!("/v1/schedules/{id}/{verb}"), &Value::Null).await;
        assert_eq!((status, &answer["state"]), (202, &json!(state)), "{answer:#}");
    }
    let deleted = service.client().delete(service.url(&format!("/v1/schedules/{id}"))).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    assert_eq!(service.get(&format!("/v1/schedules/{id}")).await.0, 404);
    assert_eq!(service.post(&format!("/v1/schedules/{id}/run"), &Value::Null).await.0, 404);
}

#[tokio::test]
async fn over_a_change_of_daylight_saving_a_night_has_one_fire() {
    let s3 = lake().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    // Ten Sundays of a month have one among them on which the clocks change: on which days that is, what it shows then, and what else.
    for (zone, cron, days, changed, before, after) in [
        ("Europe/Berlin", "30 2 * 3 SUN", 25..=31, "03:00:00+02:00", "02:30:00+01:00", "02:30:00+02:00"),
        ("Europe/Berlin", "30 2 * 10 SUN", 25..=31, "02:30:00+02:00", "02:30:00+02:00", "02:30:00+01:00"),
        ("America/New_York", "30 2 * 3 SUN", 8..=14, "03:00:00-04:00", "02:30:00-05:00", "02:30:00-04:00"),
        ("America/New_York", "30 1 * 11 SUN", 1..=7, "01:30:00-04:00", "01:30:00-04:00", "01:30:00-05:00"),
    ] {
        let mut definition = on_request(json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"}));
        definition["cron"] = cron.into();
        definition["time_zone"] = zone.into();
        let (status, preview) = service.post("/v1/schedules?dry_run=true", &definition).await;
        assert_eq!(status, 200, "{preview:#}");
        let fires = preview["next_fires"].as_array().unwrap();
        let (mut dates, mut changes) = (BTreeSet::new(), 0);
        for fire in fires {
            let (date, time) = fire["local_time"].as_str().unwrap().split_once('T').unwrap();
            let day: i8 = date[8..].parse().unwrap();
            changes += usize::from(days.contains(&day));
            let wanted = match day {
                day if days.contains(&day) => changed,
                day if day < *days.start() => before,
                _ => after,
            };
            assert_eq!(time, wanted, "{zone} {date}");
            assert!(dates.insert(date), "{zone} {date} has two fires");
        }
        assert!(fires.len() == 10 && changes > 0, "{preview:#}");
    }
}

#[tokio::test]
async fn a_fire_that_can_make_no_job_says_why_and_the_next_one_is_tried() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = create(&service, &on_request(json!({"model": "s3://lake/late/", "input": "s3://lake/in/", "output": "s3://lake/out/"}))).await;
    let run = run_now(&service, &id).await;
    assert_eq!((&run["state"], &run["job"], code(&run["problem"])), (&json!("failed"), &Value::Null, "invalid_request"), "{run:#}");
    assert!(run["problem"]["detail"].as_str().unwrap().contains("/model"), "{run:#}");
    s3.put_fixture("models/diabetes-ridge", "lake", "late/");
    let job = job_now(&service, &id).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    // Its output is taken now.
    let run = run_now(&service, &id).await;
    assert_eq!((&run["state"], code(&run["problem"])), (&json!("failed"), "output_not_empty"), "{run:#}");
    service.submit(&json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/other/"})).await;
    let (_, own) = service.get(&format!("/v1/jobs?schedule={id}")).await;
    assert_eq!(own["items"].as_array().unwrap().iter().map(|job| &job["id"]).collect::<Vec<_>>(), [&job["id"]]);
}

#[tokio::test]
async fn braces_in_the_name_of_a_schedule_mean_themselves() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let job = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/", "name": "{{ schedule }} by hand"});
    let mut definition = on_request(job);
    definition["name"] = "nightly {{ region }}".into();
    let id = create(&service, &definition).await;
    let job = job_now(&service, &id).await;
    assert_eq!((&job["state"], &job["name"]), (&json!("completed"), &json!("nightly {{ region }} by hand")), "{job:#}");
}

#[tokio::test]
async fn schedules_are_steered_from_the_command_line() {
    let s3 = lake().await;
    s3.put("lake", "in/a.csv", &patients(5, &[]));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schedule.json");
    let definition = on_request(json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"}));
    std::fs::write(&file, definition.to_string()).unwrap();
    let say = |args: &[&str]| {
        Said::of(nightshift(None, None).args(["schedules"].iter().chain(args)).args(["--api", &service.url("")]).output().unwrap())
    };
    let ok = |args: &[&str]| {
        let said = say(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said
    };
    let path = file.to_str().unwrap();
    assert!(ok(&["create", path, "--dry-run"]).out.contains("NEXT FIRE"));
    let made = ok(&["create", path, "--set", "time_zone=Europe/Berlin", "--output", "json"]).json();
    let id = made["id"].as_str().unwrap();
    assert_eq!((&made["time_zone"], &made["overlap"]), (&json!("Europe/Berlin"), &json!("queue")));
    let listed = ok(&["list"]).out;
    assert!(listed.contains(id) && listed.contains("0 0 1 1 *") && listed.contains("-01-01T00:00:00+01:00"), "{listed}");
    assert!(ok(&["pause", id]).out.contains("paused"));
    assert!(ok(&["resume", id]).out.contains("active"));
    assert!(ok(&["get", id]).out.contains("s3://lake/out/"));
    assert!(ok(&["run", id]).out.starts_with("fire 20"));
    let deadline = Instant::now() + PATIENCE;
    while !ok(&["runs", id]).out.contains("started  job_") {
        assert!(Instant::now() < deadline, "{:?}", ok(&["runs", id]));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ok(&["runs", id, "--output", "json"]).json()["items"][0]["manual"], true);
    ok(&["delete", id]);
    assert!(!ok(&["list"]).out.contains(id));
    let said = say(&["get", "../x"]);
    assert!(said.code == 2 && said.err.contains("nightshift schedules list"), "{said:?}");
    let said = say(&["create", path, "--set", "cron=x"]);
    assert!(said.code == 1 && said.err.contains("/cron"), "{said:?}");
}

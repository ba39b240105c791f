//! Jobs, followed live: streams of events that can be cut off anywhere and resumed.

mod support;

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::get};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
    events::{Stream, Told, ask, states},
    golden,
    postgres::database,
    scrape::Scrape,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};

const PATIENCE: Duration = Duration::from_secs(60);
const LIFE: [&str; 5] = ["queued", "validating", "in_progress", "finalizing", "completed"];

/// Model `diabetes-ridge`, a model that never ends, and `objects` small tables.
async fn lake(objects: usize) -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put("lake", "endless/x.onnx", &support::fixture("models/broken/endless-loop.onnx"));
    s3.put("lake", "endless-in/x.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    let row = (0..10).map(|column| format!("0.0{column}")).collect::<Vec<_>>().join(",");
    let table = golden::DIABETES_COLUMNS.join(",") + "\n" + &(row + "\n").repeat(5);
    for n in 0..objects {
        s3.put("lake", &format!("in/{n:03}.csv"), table.as_bytes());
    }
    s3
}

fn job(output: &str) -> Value {
    json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/{output}")})
}

fn endless(output: &str) -> Value {
    json!({"model": "s3://lake/endless/x.onnx", "input": "s3://lake/endless-in/", "output": format!("s3://lake/{output}")})
}

fn path(id: &str) -> String {
    format!("/v1/jobs/{id}/events")
}

async fn steer(service: &Service, id: &str, what: &str) -> u16 {
    service.post(&format!("/v1/jobs/{id}/{what}"), &Value::Null).await.0
}

#[tokio::test]
async fn a_stream_of_an_ended_job_ends_however_many_changes_are_left_of_it() {
    let s3 = lake(1).await;
    let service = Service::start(&s3, ServiceOptions::default().flag("--no-executor")).await;
    let id = service.submit(&job("out/")).await;
    service.until(&id, |job| job["state"] == "in_progress").await;
    for _ in 0..102 {
        assert_eq!((steer(&service, &id, "pause").await, steer(&service, &id, "resume").await), (202, 202));
    }
    assert_eq!(steer(&service, &id, "cancel").await, 202);
    let all = Stream::open(&service, &path(&id), None).await.rest().await;
    let ids: Vec<i64> = all.iter().filter_map(|told| if let Told::State(id, ..) = told { Some(*id) } else { None }).collect();
    assert_eq!(all.last().and_then(Told::state), Some("cancelled"));
    // Changes are read 200 at a time.
    for left in [199, 200, 201] {
        let after = ids[ids.len() - left - 1];
        let rest = Stream::open(&service, &path(&id), Some(after)).await.rest().await;
        assert_eq!(states(&rest).len(), left);
    }
}

#[tokio::test]
async fn a_stream_tells_a_jobs_whole_life_in_order_and_ends_with_it() {
    let s3 = lake(12).await;
    let service = Service::start(&s3, ServiceOptions::default().arg("--chunk-objects", "1")).await;
    let id = service.submit(&job("out/")).await;
    let live = Stream::open(&service, &path(&id), None).await.rest().await;
    assert_eq!(states(&live), LIFE);
    let ids: Vec<i64> = live.iter().filter_map(|told| if let Told::State(id, ..) = told { Some(*id) } else { None }).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let Some(Told::State(last, _, end)) = live.last() else { panic!("{live:#?}") };
    let now = service.job(&id).await;
    for field in ["id", "name", "labels", "state", "counts", "progress", "created_at", "started_at", "finished_at"] {
        assert_eq!(end[field], now[field], "{field}");
    }
    assert_eq!((&end["error"], &end["counts"]["records"]["succeeded"]), (&Value::Null, &json!(60)));
    // Who comes later hears the same.
    let later = Stream::open(&service, &path(&id), None).await.rest().await;
    assert_eq!(states(&later), LIFE);
    assert_eq!(later.last(), live.last());
    // And who has heard the end is told that there is no more.
    assert_eq!(ask(&service, &path(&id), Some(&last.to_string())).await.status(), 204);
    let rest = Stream::open(&service, &path(&id), Some(ids[2])).await.rest().await;
    assert_eq!(states(&rest), LIFE[3..]);
}

#[tokio::test]
async fn a_failed_job_says_why_without_quoting_its_data() {
    let s3 = lake(0).await;
    s3.put("lake", "in/a.csv", (golden::DIABETES_COLUMNS.join(",") + "\n" + &["secret"; 10].join(",") + "\n").as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&job("out/")).await;
    let told = Stream::open(&service, &path(&id), None).await.rest().await;
    let Some(Told::State(_, state, end)) = told.last() else { panic!("{told:#?}") };
    assert_eq!((state.as_str(), &end["error"]["type"]), ("failed", &service.job(&id).await["error"]["type"]));
    assert!(!end.to_string().contains("secret"), "{end:#}");
}

#[tokio::test]
async fn a_client_that_is_killed_twenty_times_misses_no_state_and_its_progress_is_current() {
    let s3 = lake(40).await;
    let service = Service::start(&s3, ServiceOptions::default().arg("--chunk-objects", "1").arg("--chunk-slots", "1")).await;
    let mut random = StdRng::seed_from_u64(support::seed());
    let id = service.submit(&job("out/")).await;
    let mut seen: Vec<(i64, String)> = Vec::new();
    for kill in 0..20 {
        // Something happens while nobody is connected, and while somebody is.
        let asked = if kill % 2 == 0 { "pause" } else { "resume" };
        let mut stream = Stream::open(&service, &path(&id), seen.last().map(|(id, _)| *id)).await;
        let before = steer(&service, &id, asked).await;
        for _ in 0..random.random_range(0..4) {
            // A stream on which nothing more happens is left as well.
            match tokio::time::timeout(Duration::from_millis(100), stream.next()).await {
                Ok(Ok(Some(Told::State(id, state, _)))) => seen.push((id, state)),
                Ok(Ok(Some(Told::Progress(progress)))) => {
                    let (counts, now) = (&progress["counts"], service.job(&id).await);
                    assert!(counts["chunks_done"].as_u64() <= now["counts"]["chunks_done"].as_u64(), "{progress:#}");
                }
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => panic!("{error}"),
            }
        }
        drop(stream);
        assert!([202, 409].contains(&before), "{before}");
    }
    steer(&service, &id, "resume").await;
    let rest = Stream::open(&service, &path(&id), seen.last().map(|(id, _)| *id)).await.rest().await;
    seen.extend(rest.iter().filter_map(|told| if let Told::State(id, state, _) = told { Some((*id, state.clone())) } else { None }));
    let whole = Stream::open(&service, &path(&id), None).await.rest().await;
    let whole: Vec<(i64, String)> =
        whole.into_iter().filter_map(|told| if let Told::State(id, state, _) = told { Some((id, state)) } else { None }).collect();
    assert_eq!(seen, whole);
    assert!(whole.iter().filter(|(_, state)| state == "paused").count() > 1, "{whole:?}");
    assert_eq!(whole.last().unwrap().1, "completed");
    golden::Output::read(&s3, "lake", "out/").check_invariants();
}

#[tokio::test]
async fn progress_is_told_while_a_job_runs_and_first_of_all_to_who_comes_late() {
    let s3 = lake(6).await;
    let service = Service::start(&s3, ServiceOptions::default().arg("--chunk-objects", "1").arg("--chunk-slots", "1")).await;
    // Holds the slot after some chunks of the other job are done.
    let id = service.submit(&job("out/")).await;
    service.until(&id, |job| job["counts"]["chunks_done"].as_u64() > Some(0)).await;
    steer(&service, &id, "pause").await;
    let plug = service.submit(&endless("plug/")).await;
    service.until(&plug, |job| !job["started_at"].is_null()).await;
    let now = service.job(&id).await;
    let mut stream = Stream::open(&service, &path(&id), None).await;
    let told = stream.until(|told| matches!(told, Told::Progress(_))).await;
    let Some(Told::Progress(progress)) = told.last() else { panic!("{told:#?}") };
    assert_eq!((&progress["counts"], &progress["progress"]), (&now["counts"], &now["progress"]));
    assert_eq!(steer(&service, &plug, "cancel").await, 202);
    if now["state"] == "paused" {
        assert_eq!(steer(&service, &id, "resume").await, 202);
    }
    assert_eq!(stream.rest().await.last().and_then(Told::state), Some("completed"));
}

#[tokio::test]
async fn an_id_that_was_never_given_begins_at_the_beginning_and_one_that_is_none_is_refused() {
    let s3 = lake(1).await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&job("out/")).await;
    service.wait(&id, PATIENCE).await;
    let told = Stream::open(&service, &path(&id), Some(i64::MAX)).await.rest().await;
    assert_eq!(states(&told), LIFE);
    for wrong in ["abc", "-1", "1.5", "99999999999999999999"] {
        let answer = ask(&service, &path(&id), Some(wrong)).await;
        assert_eq!(answer.status(), 422, "{wrong}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["errors"][0]["pointer"], "Last-Event-ID", "{problem:#}");
    }
    assert_eq!(ask(&service, "/v1/jobs/job_00000000000000000000000000000000/events", None).await.status(), 404);
    // All jobs, from before the first of them.
    let mut all = Stream::open(&service, "/v1/events", Some(0)).await;
    let told = all.until(|told| told.state() == Some("completed")).await;
    assert_eq!(states(&told), LIFE);
}

#[tokio::test]
async fn the_stream_of_all_jobs_tells_of_those_that_fit_the_filter() {
    let s3 = lake(2).await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let earlier = service.submit(&job("earlier/")).await;
    service.wait(&earlier, PATIENCE).await;
    let mut all = Stream::open(&service, "/v1/events", None).await;
    let mut some = Stream::open(&service, "/v1/events?label.team=risk&state=completed", None).await;
    let labelled = |output: &str, team: &str| {
        let mut definition = job(output);
        definition["labels"] = json!({"team": team});
        definition
    };
    let other = service.submit(&labelled("other/", "media")).await;
    service.wait(&other, PATIENCE).await;
    let wanted = service.submit(&labelled("wanted/", "risk")).await;
    service.wait(&wanted, PATIENCE).await;
    let of = |told: &Told, id: &str| matches!(told, Told::State(_, _, data) if data["id"] == id);
    let told = all.until(|told| of(told, &wanted) && told.state() == Some("completed")).await;
    for id in [&other, &wanted] {
        let own: Vec<Told> = told.iter().filter(|told| of(told, id)).cloned().collect();
        assert_eq!(states(&own), LIFE);
    }
    assert!(!told.iter().any(|told| of(told, &earlier)), "from now on");
    let told: Vec<Told> = some.until(|told| told.state().is_some()).await.into_iter().filter(|told| told.state().is_some()).collect();
    assert!(told.len() == 1 && of(&told[0], &wanted), "{told:#?}");
    let (status, problem) = service.get("/v1/events?state=done&limit=3").await;
    assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("unknown_parameter")), "{problem:#}");
}

#[tokio::test]
async fn a_stream_on_which_nothing_happens_says_that_it_lives() {
    let s3 = lake(0).await;
    let service = Service::start(&s3, ServiceOptions::default().arg("--stream-heartbeat", "0.05")).await;
    let mut all = Stream::open(&service, "/v1/events", None).await;
    for _ in 0..3 {
        assert_eq!(all.next().await.unwrap(), Some(Told::Comment));
    }
}

#[tokio::test]
async fn a_service_that_is_asked_to_stop_ends_its_streams_and_does_not_wait_for_them() {
    let s3 = lake(1).await;
    let mut service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&endless("out/")).await;
    service.until(&id, |job| job["state"] == "in_progress").await;
    assert_eq!(steer(&service, &id, "pause").await, 202);
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(Stream::open(&service, &path(&id), None).await);
        streams.push(Stream::open(&service, "/v1/events", None).await);
    }
    service.ask_to_stop();
    let ends = futures::future::join_all(streams.into_iter().map(Stream::rest)).await;
    assert!(ends.iter().step_by(2).all(|told| states(told).last() == Some(&"paused")), "{ends:#?}");
    assert_eq!(service.exit_status(PATIENCE).await, Some(0));
    assert!(!service.log().contains("were cut off"), "the streams ended by themselves");
    // And they go on where they ended.
    service.restart().await;
    let seen = ends[0].iter().filter_map(|told| if let Told::State(id, ..) = told { Some(*id) } else { None }).max();
    let mut stream = Stream::open(&service, &path(&id), seen).await;
    assert_eq!(steer(&service, &id, "cancel").await, 202);
    let told = stream.until(|told| told.state() == Some("cancelled")).await;
    assert_eq!(states(&told), ["cancelling", "cancelled"]);
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_until_one_ends() {
    let s3 = lake(0).await;
    let service = Service::start(&s3, ServiceOptions::default().arg("--max-streams", "2").arg("--stream-heartbeat", "0.05")).await;
    let first = Stream::open(&service, "/v1/events", None).await;
    let _second = Stream::open(&service, "/v1/events", None).await;
    let refused = ask(&service, "/v1/events", None).await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
    let problem: Value = refused.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("--max-streams"), "{problem:#}");
    drop(first);
    let deadline = std::time::Instant::now() + PATIENCE;
    while ask(&service, "/v1/events", None).await.status() != 200 {
        assert!(std::time::Instant::now() < deadline, "the place stays taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_place() {
    let s3 = lake(1).await;
    let options = ServiceOptions::default().flag("--no-executor").arg("--max-streams", "1").arg("--stream-heartbeat", "0.5");
    let service = Service::start(&s3, options).await;
    // Events enough that no kernel takes them all for a client.
    let mut definition = job("out/");
    definition["labels"] = (0..32).map(|n| (format!("label-{n}"), json!("x".repeat(256)))).collect::<serde_json::Map<_, _>>().into();
    let id = service.submit(&definition).await;
    for _ in 0..300 {
        assert_eq!((steer(&service, &id, "pause").await, steer(&service, &id, "resume").await), (202, 202));
    }
    let address: std::net::SocketAddr = service.url("").trim_start_matches("http://").parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut silent = socket.connect(address).await.unwrap();
    let request = format!("GET /v1/events HTTP/1.1\r\nhost: {address}\r\nlast-event-id: 0\r\n\r\n");
    silent.write_all(request.as_bytes()).await.unwrap();
    let open = async || Scrape::parse(&ask(&service, "/metrics", None).await.text().await.unwrap()).sum("nightshift_event_streams", &[]);
    let until = async |wanted: f64, why: &str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while open().await != wanted {
            assert!(std::time::Instant::now() < deadline, "{why}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(1.0, "the stream does not open").await;
    until(0.0, "the place stays taken").await;
    assert_eq!(ask(&service, "/v1/events", None).await.status(), 200);
    drop(silent);
}

#[tokio::test]
async fn what_happens_on_one_node_is_told_by_another() {
    let s3 = lake(3).await;
    let options = ServiceOptions::default().arg("--database-connections", "4").env("DATABASE_URL", &database().await);
    let first = Service::start(&s3, options.clone()).await;
    let second = Service::start(&s3, options.flag("--no-executor")).await;
    let mut all = Stream::open(&second, "/v1/events", None).await;
    let id = first.submit(&job("out/")).await;
    let told = all.until(|told| told.state() == Some("completed")).await;
    assert_eq!(states(&told), LIFE);
    let own = Stream::open(&second, &path(&id), None).await.rest().await;
    assert_eq!(states(&own), LIFE);
}

/// Passes connections on to a service, until they are cut.
async fn proxy(service: &Service, cut: Arc<Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let to = service.url("").trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (to, cut) = (to.clone(), cut.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(&to).await.unwrap();
                tokio::select! {
                    _ended = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = cut.notified() => {}
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_watch_whose_stream_breaks_goes_on_where_it_was() {
    let s3 = lake(0).await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&endless("out/")).await;
    service.until(&id, |job| job["state"] == "in_progress").await;
    let cut = Arc::new(Notify::new());
    let url = proxy(&service, cut.clone()).await;
    let mut command = nightshift(None, None);
    let command = command.args(["jobs", "watch", &id, "--api", &url, "--output", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let watch = command.spawn().unwrap();
    let opened = async |times: usize| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while service.log().matches(&format!("/v1/jobs/{id}/events 200")).count() < times {
            assert!(std::time::Instant::now() < deadline, "the watch opens no stream:\n{}", service.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    opened(1).await;
    assert_eq!(steer(&service, &id, "pause").await, 202);
    cut.notify_waiters();
    opened(2).await;
    assert_eq!(steer(&service, &id, "cancel").await, 202);
    let said = tokio::task::spawn_blocking(move || Said::of(watch.wait_with_output().unwrap())).await.unwrap();
    assert_eq!((said.code, &said.json()["state"]), (1, &json!("cancelled")), "{said:?}");
    let mut told: Vec<&str> = said.err.lines().filter_map(|line| line.split_whitespace().next()).collect();
    told.dedup();
    assert_eq!(told, ["queued", "validating", "in_progress", "paused", "cancelling", "cancelled"], "{}", said.err);
}

/// A service from before there were events.
#[tokio::test]
async fn a_watch_of_an_older_service_asks_for_the_job_instead_and_says_so() {
    let id = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071";
    let looks = Arc::new(AtomicUsize::new(0));
    let old = Router::new().route(
        "/v1/jobs/{id}",
        get(|State(looks): State<Arc<AtomicUsize>>| async move {
            let state = if looks.fetch_add(1, Ordering::Relaxed) < 2 { "in_progress" } else { "completed" };
            Json(json!({"id": "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071", "state": state, "progress": 0.5, "counts": {}}))
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(axum::serve(listener, old.with_state(looks.clone())).into_future());
    let mut command = nightshift(None, None);
    let command = command.args(["jobs", "watch", id, "--api", &url, "--output", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let watch = command.spawn().unwrap();
    let said = tokio::task::spawn_blocking(move || Said::of(watch.wait_with_output().unwrap())).await.unwrap();
    assert_eq!((said.code, &said.json()["state"]), (0, &json!("completed")), "{said:?}");
    assert_eq!(said.err.matches("without live events").count(), 1, "{}", said.err);
    assert_eq!(looks.load(Ordering::Relaxed), 3);
    server.abort();
}

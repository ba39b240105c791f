//! Promise 5: who asked is told, signed, at least once under one id, wherever the configuration lets a message go and nowhere else.

mod support;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use nightshift::{
    domain::{WebhookSecret, WebhookUrl},
    notify::{Answer, Deliverer, Guard, Message, Timeouts},
};
use serde_json::{Value, json};
use sqlx::Connection;
use support::{
    S3Server, Service, ServiceOptions, golden,
    receiver::{Receiver, Reply},
};

const PATIENCE: Duration = Duration::from_secs(120);
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OLD_SECRET: &str = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xk";
/// All of loopback: the network that these tests are made on.
const LOOPBACK: &str = "127.0.0.0/8,::1/128";

/// A bucket with a model and an input of two records, and a service that may call loopback.
async fn service(options: ServiceOptions) -> (S3Server, Service) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    let header = golden::DIABETES_COLUMNS.join(",");
    let row = ["0.01"; 10].join(",");
    s3.put("lake", "in/0.csv", format!("{header}\n{row}\n{row}\n").as_bytes());
    let service = Service::start(&s3, options).await;
    (s3, service)
}

fn loopback() -> ServiceOptions {
    ServiceOptions::default().env("NIGHTSHIFT_WEBHOOK_ALLOW_NETWORKS", LOOPBACK)
}

/// Retries follow at once.
fn hasty() -> ServiceOptions {
    loopback().arg("--webhook-retry-scale", "0")
}

fn hook(url: &str) -> Value {
    json!({"url": url, "secret": SECRET})
}

fn job(output: &str, webhook: &Value) -> Value {
    json!({
        "name": "churn", "labels": {"team": "growth"}, "model": "s3://lake/model/", "input": "s3://lake/in/",
        "output": format!("s3://lake/{output}/"), "webhook": webhook,
    })
}

async fn completed(service: &Service, output: &str, webhook: &Value) -> String {
    let id = service.submit(&job(output, webhook)).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    id
}

/// Waits until the deliveries that a query finds are as wanted.
async fn deliveries(service: &Service, query: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, page) = service.get(&format!("/v1/webhook-deliveries?limit=200{query}")).await;
        assert_eq!(status, 200, "{page:#}");
        let items = page["items"].as_array().expect("items");
        if wanted(items) {
            return items.clone();
        }
        assert!(Instant::now() < deadline, "this did not come: {page:#}\n{}", service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The one delivery of a job once it is in this state, in full.
async fn delivery(service: &Service, job: &str, state: &str) -> Value {
    let found = deliveries(service, &format!("&job={job}"), |d| d.len() == 1 && d[0]["state"] == state).await;
    let (status, delivery) = service.get(&format!("/v1/webhook-deliveries/{}", found[0]["id"].as_str().unwrap())).await;
    assert_eq!(status, 200, "{delivery:#}");
    delivery
}

fn seconds_between(earlier: &Value, later: &Value) -> f64 {
    let time = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).parse::<jiff::Timestamp>().unwrap();
    time(later).duration_since(time(earlier)).as_secs_f64()
}

const MESSAGE: Message<'_> = Message { id: "msg_x", body: "{}", trace: None };

#[tokio::test]
async fn a_receiver_that_fails_twice_hears_one_message_three_times_each_time_signed() {
    let receiver = Receiver::start("127.0.0.1");
    receiver.replies(&[Reply::Status(500), Reply::Status(503), Reply::Status(204)]);
    let (_s3, service) = service(hasty().arg("--public-url", "https://nightshift.example/base/")).await;
    let id = completed(&service, "out", &hook(&receiver.url("/hook?x=1"))).await;
    let heard = receiver.hears(3).await;
    let ids: BTreeSet<&str> = heard.iter().map(|h| h.header("webhook-id")).collect();
    assert_eq!((heard.len(), ids.len()), (3, 1), "{heard:?}");
    for request in &heard {
        assert!(request.is_signed_with(SECRET) && !request.is_signed_with(OLD_SECRET));
        assert_eq!((request.header("content-type"), request.path.as_str()), ("application/json", "/hook"));
        assert_eq!(request.body, heard[0].body, "frozen");
    }
    let message = heard[0].json();
    let job = service.job(&id).await;
    assert_eq!((&message["type"], &message["timestamp"]), (&json!("job.completed"), &job["finished_at"]));
    assert_eq!(message["data"]["counts"]["records"], json!({"succeeded": 2, "failed": 0}));
    for field in ["id", "name", "labels", "state", "created_at", "started_at", "finished_at"] {
        assert_eq!(message["data"][field], job[field], "{field}");
    }
    let address = format!("https://nightshift.example/base/v1/jobs/{id}");
    let links = json!({"job": address, "results": format!("{address}/results"), "manifest": format!("{address}/results/manifest")});
    assert_eq!(message["data"]["links"], links);

    let delivery = delivery(&service, &id, "delivered").await;
    assert_eq!((&delivery["webhook_id"], &delivery["event"]), (&json!(heard[0].header("webhook-id")), &json!("job.completed")));
    assert_eq!((&delivery["attempt_count"], &delivery["endpoint"], &delivery["payload"]), (&json!(3), &Value::Null, &message));
    let attempts = delivery["attempts"].as_array().unwrap();
    assert_eq!(attempts.iter().map(|a| &a["status"]).collect::<Vec<_>>(), [500, 503, 204]);
    assert_eq!((&attempts[1]["error"], &attempts[2]["error"]), (&json!("answered 503 Service Unavailable"), &Value::Null));
    assert!(attempts.iter().all(|a| a["latency_seconds"].as_f64().unwrap() > 0.0), "{delivery:#}");
    assert_eq!(delivery["last_attempt"], attempts[2]);
}

#[tokio::test]
async fn a_kill_between_the_end_of_a_job_and_its_message_loses_none() {
    let receiver = Receiver::start("127.0.0.1");
    receiver.replies(&[Reply::Hang]);
    let (_s3, mut service) = service(loopback()).await;
    let mut webhook = hook(&receiver.url("/"));
    webhook["events"] = json!(["job.started", "job.completed"]);
    let mut jobs = BTreeSet::new();
    for round in 0..3 {
        for n in 0..3 {
            jobs.insert(service.submit(&job(&format!("out/{round}/{n}"), &webhook)).await);
        }
        for id in &jobs {
            assert_eq!(service.wait(id, PATIENCE).await["state"], "completed", "a result waits for no receiver");
        }
        service.kill9();
        service.restart().await;
    }
    receiver.forget();
    receiver.replies(&[Reply::Status(200)]);
    service.kill9();
    service.restart().await;
    deliveries(&service, "&state=delivered", |d| d.len() == 18).await;
    let heard = receiver.heard();
    for kind in ["job.started", "job.completed"] {
        let told: BTreeSet<String> =
            heard.iter().map(|h| h.json()).filter(|m| m["type"] == kind).map(|m| m["data"]["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(told, jobs, "{kind}");
    }
    assert_eq!(heard.iter().map(|h| h.header("webhook-id").to_owned()).collect::<BTreeSet<_>>().len(), 18);
    assert!(heard.iter().all(|h| h.is_signed_with(SECRET)));
}

#[tokio::test]
async fn a_stop_waits_for_no_receiver_and_loses_no_message() {
    let receiver = Receiver::start("127.0.0.1");
    receiver.replies(&[Reply::Hang, Reply::Status(200)]);
    let (_s3, mut service) = service(loopback()).await;
    let id = completed(&service, "out", &hook(&receiver.url("/"))).await;
    let first = receiver.hears(1).await;
    assert_eq!(service.terminate(Duration::from_secs(30)).await, Some(0), "before the receiver's time is up");
    service.restart().await;
    let heard = receiver.hears(2).await;
    assert_eq!(heard[1].header("webhook-id"), first[0].header("webhook-id"));
    delivery(&service, &id, "delivered").await;
}

/// A port that is free on 127.0.0.1 and on ::1, with a canary on both.
fn canaries() -> (Receiver, Receiver, u16) {
    for _ in 0..100 {
        let four = Receiver::start("127.0.0.1");
        let port = four.address().port();
        let six = SocketAddr::new("::1".parse().unwrap(), port);
        if std::net::TcpListener::bind(six).is_ok() {
            return (four, Receiver::at(six), port);
        }
    }
    panic!("no port is free on both");
}

/// Literal addresses that lead to this machine's loopback.
const LITERALS: [&str; 28] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "0177.1",
    "00000177.0.0.01",
    "017700000001",
    "127.0.0.0x1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "%31%32%37.0.0.1",
    "0.0.0.0",
    "0",
    "0x0",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
];
/// Names that lead there.
const NAMES: [&str; 3] = ["localhost", "LOCALHOST", "ｌｏｃａｌｈｏｓｔ"];

#[tokio::test]
async fn neither_a_literal_nor_a_name_nor_a_redirect_leads_a_webhook_to_a_network_that_is_not_allowed() {
    let (four, six, port) = canaries();
    let detour = Receiver::start("127.0.0.2");
    let hosts: Vec<&str> = LITERALS.into_iter().chain(NAMES).collect();
    let mut urls: Vec<String> = hosts.iter().enumerate().map(|(n, host)| format!("http://{host}:{port}/{n}")).collect();
    let redirects: Vec<Reply> = [301, 302, 303, 307, 308]
        .into_iter()
        .flat_map(|status| {
            ["127.0.0.1", "[::1]", "2130706433"].map(|host| Reply::With(status, "location", format!("http://{host}:{port}/")))
        })
        .collect();
    urls.extend((0..redirects.len()).map(|n| detour.url(&format!("/{n}"))));
    let all = urls.len();
    assert!(all >= 40);
    for canary in [&four, &six] {
        canary.replies(&[Reply::Status(500)]);
    }
    detour.replies(&redirects);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nightshift.toml");
    let allow = |networks: &str| std::fs::write(&file, format!("[webhooks]\nallow_networks = [{networks}]\n")).unwrap();

    // Everything is allowed: what is to be kept out later does come in now. Nothing is tried twice within the hour.
    allow("\"0.0.0.0/0\", \"::/0\"");
    let options = ServiceOptions::default().env("NIGHTSHIFT_CONFIG", file.to_str().unwrap()).arg("--webhook-retry-scale", "1000");
    let (_s3, mut service) = service(options).await;
    for (n, url) in urls.iter().enumerate() {
        service.submit(&job(&format!("out/{n}"), &hook(url))).await;
    }
    let tried = |count: u64| move |d: &[Value]| d.iter().filter(|d| d["attempt_count"] == count).count() == all;
    let first = deliveries(&service, "", tried(1)).await;
    let paths: BTreeSet<String> = [&four, &six].iter().flat_map(|canary| canary.heard()).map(|h| h.path).collect();
    for (n, host) in hosts.iter().enumerate() {
        assert!(paths.contains(&format!("/{n}")), "{host} does not lead here, so that refusing it would show nothing");
    }
    assert_eq!(paths.len(), hosts.len(), "a redirect was followed");

    // One network is allowed, which is not the canaries'.
    allow("\"127.0.0.2/32\"");
    service.terminate(Duration::from_secs(60)).await.expect("it stops");
    for canary in [&four, &six] {
        canary.forget();
    }
    detour.replies(&redirects);
    service.restart().await;
    for delivery in &first {
        let (status, answer) =
            service.post(&format!("/v1/webhook-deliveries/{}/replay", delivery["id"].as_str().unwrap()), &Value::Null).await;
        assert_eq!(status, 202, "{answer:#}");
    }
    for delivery in deliveries(&service, "", tried(2)).await {
        let (url, error) = (delivery["url"].as_str().unwrap(), delivery["last_attempt"]["error"].as_str().unwrap());
        let word = if url.contains("127.0.0.2") { "redirects are not followed" } else { "allow_networks does not allow it" };
        assert!(error.contains(word), "{url}: {error}");
        assert_eq!(delivery["state"], "pending", "{url}");
    }
    for (host, url) in hosts.iter().zip(&urls) {
        if NAMES.contains(host) {
            service.submit(&job(&format!("again/{host}"), &hook(url))).await;
            continue;
        }
        let (status, problem) = service.post("/v1/jobs", &job("again/literal", &hook(url))).await;
        let fault = &problem["errors"][0];
        assert_eq!((status, &fault["pointer"], &fault["code"]), (422, &json!("/webhook/url"), &json!("forbidden_address")), "{host}");
    }
    deliveries(&service, "", |d| d.len() == all + NAMES.len() && d.iter().all(|d| d["attempt_count"] != 0)).await;
    assert_eq!((four.connections(), six.connections()), (0, 0), "not even a connection was made");
}

#[tokio::test]
async fn no_form_of_a_special_address_gets_past_the_deliverer() {
    let (four, six, port) = canaries();
    let deliverer = Deliverer::new(Guard::default(), Timeouts::default()).unwrap();
    let elsewhere = [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[::7f00:1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[ff02::1]",
        "224.0.0.1",
        "255.255.255.255",
    ];
    let secrets = [WebhookSecret::parse(SECRET).unwrap()];
    for host in LITERALS.iter().chain(&NAMES).chain(&elsewhere) {
        let url = WebhookUrl::parse(&format!("http://{host}:{port}/")).unwrap();
        let (answer, _) = deliverer.attempt(&url, MESSAGE, &secrets).await;
        assert!(matches!(answer, Answer::Refused { .. }), "{host}: {answer:?}");
    }
    assert_eq!((four.connections(), six.connections()), (0, 0));
}

#[tokio::test]
async fn an_attempt_that_is_not_answered_ends_in_words() {
    let receiver = Receiver::start("127.0.0.1");
    receiver.replies(&[Reply::Hang]);
    let closed = Receiver::start("127.0.0.1").url("/secret-path");
    let timeouts = Timeouts { total: Duration::from_millis(300), ..Timeouts::default() };
    let deliverer = Deliverer::new(Guard::new(vec!["127.0.0.0/8".parse().unwrap()]), timeouts).unwrap();
    let secrets = [WebhookSecret::parse(SECRET).unwrap()];
    for (url, words) in [
        (receiver.url("/"), "no answer within 0.3 s"),
        (closed, "no connection: "),
        ("http://no-such-host.invalid/secret-path".to_owned(), "no "),
        (receiver.url("/").replace("http:", "https:"), "no "),
    ] {
        let (answer, latency) = deliverer.attempt(&WebhookUrl::parse(&url).unwrap(), MESSAGE, &secrets).await;
        let Answer::Silence { error } = answer else { panic!("{url}: {answer:?}") };
        assert!(error.starts_with(words) && !error.contains("secret-path"), "{url}: {error}");
        assert!(latency > Duration::ZERO);
    }
}

#[tokio::test]
async fn a_receiver_that_never_answers_delays_nobody_else() {
    let (silent, other) = (Receiver::start("127.0.0.1"), Receiver::start("127.0.0.1"));
    silent.replies(&[Reply::Hang]);
    let (_s3, service) = service(loopback()).await;
    let mut webhook = hook(&silent.url("/"));
    webhook["events"] = json!(["job.started", "job.completed"]);
    for n in 0..6 {
        completed(&service, &format!("silent/{n}"), &webhook).await;
    }
    let id = completed(&service, "other", &hook(&other.url("/"))).await;
    other.hears(1).await;
    delivery(&service, &id, "delivered").await;
    let heard = silent.heard().len() as u64;
    let pending = deliveries(&service, "&state=pending", |d| d.len() == 12).await;
    let recorded: u64 = pending.iter().map(|d| d["attempt_count"].as_u64().unwrap()).sum();
    assert!(heard.saturating_sub(recorded) <= 4, "{heard} requests, {recorded} of them over");
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_not_asked_again() {
    let receiver = Receiver::start("127.0.0.1");
    receiver.replies(&[Reply::Status(410)]);
    let (_s3, service) = service(hasty()).await;
    let id = completed(&service, "out", &hook(&receiver.url("/"))).await;
    let delivery = delivery(&service, &id, "gone").await;
    assert_eq!((&delivery["attempt_count"], &delivery["next_attempt_at"]), (&json!(1), &Value::Null));
    assert!(delivery["finished_at"].is_string());
    completed(&service, "out2", &hook(&receiver.url("/next"))).await;
    let heard = receiver.hears(2).await;
    assert_eq!(heard.iter().map(|h| h.path.as_str()).collect::<Vec<_>>(), ["/", "/next"]);
}

#[tokio::test]
async fn a_receiver_can_ask_for_later_by_seconds_and_by_date() {
    let receiver = Receiver::start("127.0.0.1");
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(7200));
    receiver.replies(&[Reply::With(503, "retry-after", "3600".to_owned()), Reply::With(429, "retry-after", date)]);
    let (_s3, service) = service(hasty()).await;
    for (output, status, wait) in [("by/seconds", 503, 3600.0), ("by/date", 429, 7200.0)] {
        let id = completed(&service, output, &hook(&receiver.url("/"))).await;
        let found = deliveries(&service, &format!("&job={id}"), |d| d.len() == 1 && d[0]["attempt_count"] == 1).await;
        assert_eq!((&found[0]["state"], &found[0]["last_attempt"]["status"]), (&json!("pending"), &json!(status)));
        let waits = seconds_between(&found[0]["last_attempt"]["at"], &found[0]["next_attempt_at"]);
        assert!((wait - PATIENCE.as_secs_f64()..wait + PATIENCE.as_secs_f64()).contains(&waits), "{waits}");
    }
}

#[tokio::test]
async fn ten_attempts_are_made_and_then_the_delivery_has_failed() {
    let receiver = Receiver::start("127.0.0.1");
    receiver.replies(&[Reply::Status(500)]);
    let (_s3, service) = service(hasty()).await;
    let id = completed(&service, "out", &hook(&receiver.url("/"))).await;
    let failed = delivery(&service, &id, "failed").await;
    assert_eq!((failed["attempts"].as_array().unwrap().len(), receiver.heard().len()), (10, 10));
    receiver.replies(&[Reply::Status(500), Reply::Status(204)]);
    let path = format!("/v1/webhook-deliveries/{}/replay", failed["id"].as_str().unwrap());
    let (status, replayed) = service.post(&path, &Value::Null).await;
    assert_eq!((status, &replayed["state"]), (202, &json!("pending")), "{replayed:#}");
    let delivered = delivery(&service, &id, "delivered").await;
    assert_eq!(delivered["attempt_count"], 12, "a replay has the whole schedule before it");
    let ids: BTreeSet<String> = receiver.heard().iter().map(|h| h.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 1, "the same id");
    for wrong in ["whd_00000000000000000000000000000000", "x"] {
        assert_eq!(service.get(&format!("/v1/webhook-deliveries/{wrong}")).await.0, 404);
        assert_eq!(service.post(&format!("/v1/webhook-deliveries/{wrong}/replay"), &Value::Null).await.0, 404);
    }
    assert_eq!(service.get("/v1/webhook-deliveries?state=done").await.0, 422);
}

/// A configuration file that tests change between starts.
struct Configuration {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Configuration {
    fn new(endpoints: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let configuration = Self { path: folder.path().join("nightshift.toml"), _folder: folder };
        configuration.set(endpoints);
        configuration
    }

    fn set(&self, endpoints: &str) {
        std::fs::write(&self.path, format!("[webhooks]\nallow_networks = [\"127.0.0.0/8\"]\n{endpoints}")).unwrap();
    }

    fn options(&self) -> ServiceOptions {
        let options = ServiceOptions::default().env("NIGHTSHIFT_CONFIG", self.path.to_str().unwrap());
        options.env("HOOK_SECRET", SECRET).env("OLD_HOOK_SECRET", OLD_SECRET)
    }
}

#[tokio::test]
async fn configured_endpoints_hear_every_job_and_both_secrets_of_a_rotation_sign() {
    let (audit, ops) = (Receiver::start("127.0.0.1"), Receiver::start("127.0.0.1"));
    let endpoint = |name: &str, url: &str, rest: &str| format!("[[webhooks.endpoints]]\nname = {name:?}\nurl = {url:?}\n{rest}\n");
    let old = endpoint("audit", &audit.url("/old"), "secret_env = \"OLD_HOOK_SECRET\"");
    let ops_endpoint = endpoint("ops", &ops.url("/"), "secret_env = \"HOOK_SECRET\"\nevents = [\"job.failed\"]");
    let file = Configuration::new(&format!("{old}{ops_endpoint}"));
    let (_s3, mut service) = service(file.options()).await;
    audit.replies(&[Reply::Status(204), Reply::Status(503)]);
    let id = completed(&service, "out", &Value::Null).await;
    let heard = audit.hears(2).await;
    assert_eq!(heard.iter().map(|h| h.json()["type"].clone()).collect::<Vec<_>>(), ["job.started", "job.completed"]);
    assert!(heard.iter().all(|h| h.is_signed_with(OLD_SECRET) && !h.is_signed_with(SECRET) && h.path == "/old"));
    let waiting = deliveries(&service, &format!("&job={id}&state=pending"), |d| d.len() == 1 && d[0]["attempt_count"] != 0).await;
    assert_eq!((&waiting[0]["endpoint"], &waiting[0]["event"]), (&json!("audit"), &json!("job.completed")));
    let replay = format!("/v1/webhook-deliveries/{}/replay", waiting[0]["id"].as_str().unwrap());

    // The secret is being changed, and the receiver has moved: both hold for what waits.
    let rest = "secret_env = \"HOOK_SECRET\"\nprevious_secret_env = \"OLD_HOOK_SECRET\"";
    file.set(&format!("{}{ops_endpoint}", endpoint("audit", &audit.url("/new"), rest)));
    service.terminate(PATIENCE).await.expect("it stops");
    audit.forget();
    service.restart().await;
    service.post(&replay, &Value::Null).await;
    let heard = audit.hears(1).await;
    assert!(heard[0].is_signed_with(OLD_SECRET) && heard[0].is_signed_with(SECRET), "{heard:?}");
    assert_eq!((heard[0].path.as_str(), heard[0].header("webhook-signature").split(' ').count()), ("/new", 2));

    // The endpoint is gone from the configuration: what waits for it ends, and says why.
    deliveries(&service, &format!("&job={id}&state=pending"), |d| d.len() == 1 && d[0]["attempt_count"].as_u64() >= Some(2)).await;
    file.set(&ops_endpoint);
    service.terminate(PATIENCE).await.expect("it stops");
    service.restart().await;
    service.post(&replay, &Value::Null).await;
    let failed = deliveries(&service, &format!("&job={id}&state=failed"), |d| d.len() == 1).await;
    assert_eq!(failed[0]["last_attempt"]["error"], "the configuration has no endpoint \"audit\" any more");

    assert!(ops.heard().is_empty(), "no job failed");
    let broken = json!({"model": "s3://lake/model/", "input": "s3://lake/nothing.csv", "output": "s3://lake/broken/"});
    let broken = service.submit(&broken).await;
    assert_eq!(service.wait(&broken, PATIENCE).await["state"], "failed");
    let heard = ops.hears(1).await;
    let message = heard[0].json();
    assert_eq!((&message["type"], &message["data"]["id"]), (&json!("job.failed"), &json!(broken)));
    assert_eq!(message["data"]["error"]["type"], service.job(&broken).await["error"]["type"]);
}

#[tokio::test]
async fn a_secret_shows_in_no_answer_no_log_no_message_and_no_delivery() {
    let receiver = Receiver::start("127.0.0.1");
    receiver.replies(&[Reply::Status(500), Reply::Status(204)]);
    let file = Configuration::new(&format!(
        "[[webhooks.endpoints]]\nname = \"audit\"\nurl = {:?}\nsecret_env = \"OLD_HOOK_SECRET\"\nevents = [\"job.completed\"]",
        receiver.url("/")
    ));
    let (s3, service) =
        service(file.options().arg("--webhook-retry-scale", "0").arg("--log", "debug,nightshift=trace,reqwest=trace,hyper_util=trace"))
            .await;
    let id = completed(&service, "out", &hook(&receiver.url("/"))).await;
    let (_, refused) = service.post("/v1/jobs", &job("x", &json!({"url": "https://u:cGFzc3dvcmQ@x/", "secret": &SECRET[1..]}))).await;
    let done = deliveries(&service, "&state=delivered", |d| d.len() == 2).await;
    let mut seen = vec![refused.to_string(), service.log()];
    for path in [&format!("/v1/jobs/{id}"), "/v1/jobs", "/v1/webhook-deliveries", &format!("/v1/jobs/{id}/results/manifest")] {
        seen.push(service.get(path).await.1.to_string());
    }
    for delivery in &done {
        seen.push(service.get(&format!("/v1/webhook-deliveries/{}", delivery["id"].as_str().unwrap())).await.1.to_string());
    }
    seen.extend(receiver.heard().iter().map(|h| format!("{:?} {:?}", h.headers, h.body)));
    seen.push(String::from_utf8(s3.get("lake", "out/_manifest.json")).unwrap());
    let database = format!("sqlite://{}?mode=ro", service.data_dir().join("nightshift.db").display());
    let mut database = sqlx::SqliteConnection::connect(&database).await.unwrap();
    let rows = "SELECT url || body FROM webhook_delivery UNION ALL SELECT COALESCE(error, '') FROM webhook_attempt UNION ALL SELECT data FROM event";
    let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut database).await.unwrap();
    assert_eq!(rows.len(), 2 + 3 + 2);
    seen.extend(rows);
    for text in &seen {
        for secret in [&SECRET[6..], &OLD_SECRET[6..], "cGFzc3dvcmQ"] {
            assert!(!text.contains(secret), "{secret} in {}", &text[..text.len().min(3000)]);
        }
    }
    assert_eq!(
        service.job(&id).await["webhook"],
        json!({"url": receiver.url("/"), "secret": "whsec_***", "events": ["job.completed", "job.failed", "job.cancelled", "job.expired"]})
    );
}

/// A block of the README in this language that says this.
fn readme(language: &str, word: &str) -> String {
    let fence = format!("```{language}\n");
    let blocks = include_str!("../README.md").split(fence.as_str()).skip(1);
    let mut blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains(word)).unwrap_or_else(|| panic!("no {language} with {word:?}")).to_owned()
}

#[tokio::test]
async fn what_the_readme_says_of_webhooks_works_as_it_stands() {
    let receiver = Receiver::start("127.0.0.1");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nightshift.toml");
    let endpoints = readme("toml", "[[webhooks.endpoints]]");
    assert!(endpoints.contains("https://audit.example.com/jobs"));
    std::fs::write(&file, endpoints.replace("https://audit.example.com/jobs", &receiver.url("/jobs"))).unwrap();
    let options = loopback().env("NIGHTSHIFT_CONFIG", file.to_str().unwrap());
    let (_s3, service) = service(options.env("AUDIT_SECRET", SECRET).env("AUDIT_SECRET_OLD", OLD_SECRET)).await;
    completed(&service, "out", &Value::Null).await;
    let heard = receiver.hears(1).await.remove(0);
    let headers: serde_json::Map<String, Value> =
        heard.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap()))).collect();
    let body = String::from_utf8(heard.body.to_vec()).unwrap();
    for (secret, body, verdict) in [
        (SECRET, body.clone(), "True"),
        (OLD_SECRET, body.clone(), "True"),
        ("whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI=", body.clone(), "False"),
        (SECRET, body.replace("completed", "failed"), "False"),
    ] {
        let script = format!(
            "{}\nimport json, sys\nprint(verify(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3].encode()))",
            readme("python", "def verify")
        );
        let output =
            std::process::Command::new("python3").args(["-c", &script, secret, &json!(headers).to_string(), &body]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), verdict, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_service_whose_endpoint_has_no_secret_does_not_start_and_says_which() {
    let file =
        Configuration::new("[[webhooks.endpoints]]\nname = \"audit\"\nurl = \"https://audit.example/\"\nsecret_env = \"NOT_SET_ANYWHERE\"");
    let start = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nightshift"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(file.path.with_extension("data"));
        let output = command.env("NIGHTSHIFT_CONFIG", &file.path).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = start();
    assert!(error.contains("\"audit\"") && error.contains("NOT_SET_ANYWHERE is not set"), "{error}");
    file.set("[[webhooks.endpoints]]\nname = \"audit\"\nurl = \"http://10.0.0.1/\"\nsecret_env = \"PATH\"");
    let error = start();
    assert!(error.contains("\"audit\"") && error.contains("whsec_") && !error.contains("/bin"), "{error}");
}

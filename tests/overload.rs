//! More requests than there is room for: some are refused at once, and those that tell of the service's health never.

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use support::{FaultProxy, Faults, S3Server, Service, ServiceOptions, scrape::Scrape};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn definition(output: &str) -> Value {
    json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/{output}/")})
}

async fn start(options: ServiceOptions) -> (S3Server, FaultProxy, Service) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put("lake", "in/a.csv", b"age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n1,2,3,4,5,6,7,8,9,n/a\n");
    let proxy = s3.with_faults(Faults::default()).await;
    let service = Service::start(&proxy, options.arg("--store-timeout", "4")).await;
    (s3, proxy, service)
}

/// Every read below this prefix hangs, until the store is asked again.
fn hang(below: &str) -> Faults {
    Faults { stall: 1.0, below: below.to_owned(), ..Faults::default() }
}

/// Waits until that many requests hang in the store.
async fn until_hanging(proxy: &FaultProxy, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while proxy.counts().get("stall").copied().unwrap_or_default() < count {
        assert!(Instant::now() < deadline, "{:?}", proxy.counts());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A refusal for which nothing was done.
async fn assert_shed(answer: reqwest::Response, setting: &str) {
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    let problem: Value = answer.json().await.expect("a problem");
    assert_eq!(problem["type"], "urn:nightshift:problem:overloaded");
    assert!(problem["detail"].as_str().unwrap().contains(setting), "{problem:#}");
}

async fn get(service: &Service, path: &str) -> reqwest::Response {
    service.client().get(service.url(path)).send().await.expect("an answer")
}

#[tokio::test]
async fn short_requests_over_the_limit_are_refused_at_once_while_probes_and_waits_are_answered() {
    let options = ServiceOptions::default().arg("--max-requests", "2").arg("--max-waits", "3").arg("--max-submissions", "4");
    let (_s3, proxy, service) = start(options).await;
    let id = service.submit(&definition("out")).await;
    service.wait(&id, PATIENCE).await;
    proxy.play(hang("out/errors/"));
    let errors = format!("/v1/jobs/{id}/errors");
    let (slow, quick) = tokio::join!(join_all([get(&service, &errors), get(&service, &errors)]), async {
        until_hanging(&proxy, 2).await;
        assert_shed(get(&service, "/v1/jobs").await, "--max-requests").await;
        for path in ["/livez", "/readyz", "/metrics", &format!("/v1/jobs/{id}?wait=1s")] {
            assert_eq!(service.status(path).await, 200, "{path}");
        }
        let accepted = service.post("/v1/jobs", &definition("other")).await;
        proxy.play(Faults::default());
        accepted
    });
    assert!(slow.iter().all(|answer| answer.status() == 200), "what had room is answered");
    assert_eq!(quick.0, 202, "{:#}", quick.1);
    assert_eq!(service.status("/v1/jobs").await, 200);
    let counted = Scrape::parse(&get(&service, "/metrics").await.text().await.expect("a text"));
    assert_eq!(counted.sum("nightshift_requests_shed_total", &[("kind", "short")]), 1.0);
    assert_eq!(counted.sum("nightshift_requests_shed_total", &[]), 1.0);
}

#[tokio::test]
async fn waits_over_the_limit_are_refused_and_take_no_room_from_short_requests() {
    let (s3, _proxy, service) = start(ServiceOptions::default().arg("--max-waits", "2").arg("--max-requests", "2")).await;
    s3.put_fixture("models/broken/endless-loop.onnx", "lake", "endless/model.onnx");
    s3.put("lake", "loop/a.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    let id = service.submit(&json!({"model": "s3://lake/endless/", "input": "s3://lake/loop/", "output": "s3://lake/out/"})).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (client, url) = (service.client().clone(), service.url(&format!("/v1/jobs/{id}?wait=60s")));
            tokio::spawn(async move {
                loop {
                    // The one that asks below may be in its place for a moment.
                    let status = client.get(&url).send().await.expect("an answer").status().as_u16();
                    if status != 429 {
                        return status;
                    }
                }
            })
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Refused for another reason, and at once, as long as there is a place.
        let third = get(&service, &format!("/v1/jobs/{id}?wait=never")).await;
        if third.status() == 429 {
            break assert_shed(third, "--max-waits").await;
        }
        assert!(Instant::now() < deadline, "{}", third.status());
    }
    assert_eq!(service.status(&format!("/v1/jobs/{id}")).await, 200);
    assert_eq!(service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await.0, 202);
    for answer in waiting {
        assert_eq!(answer.await.expect("no panic"), 200);
    }
}

#[tokio::test]
async fn submissions_over_the_limit_are_refused_before_they_cost_anything() {
    let (_s3, proxy, service) = start(ServiceOptions::default().arg("--max-submissions", "2")).await;
    proxy.play(hang("model/"));
    let (one, two) = (definition("one"), definition("two"));
    let (accepted, ()) = tokio::join!(join_all([service.post("/v1/jobs", &one), service.post("/v1/jobs", &two)]), async {
        until_hanging(&proxy, 2).await;
        let third = service.client().post(service.url("/v1/jobs")).json(&definition("three")).send().await.expect("an answer");
        assert_shed(third, "--max-submissions").await;
        assert_eq!(service.status("/v1/jobs").await, 200);
        proxy.play(Faults::default());
    });
    assert!(accepted.iter().all(|(status, _)| *status == 202), "{accepted:#?}");
}

/// The head of a request that tries a model out, whose body does not come.
async fn try_out_without_a_body(service: &Service) -> TcpStream {
    let address = service.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut connection = TcpStream::connect(&address).await.expect("a connection");
    let head = format!(
        "POST /v2/models/ridge/infer HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: 20000000\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.expect("a request");
    connection
}

#[tokio::test]
async fn trying_a_model_out_is_refused_before_its_body_is_read_and_takes_no_room_from_submissions() {
    let (_s3, _proxy, service) = start(ServiceOptions::default().arg("--max-submissions", "1")).await;
    let (status, answer) = service.post("/v1/models", &json!({"name": "ridge", "uri": "s3://lake/model/"})).await;
    assert_eq!(status, 201, "{answer:#}");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(try_out_without_a_body(&service).await);
    }
    // Where there is still a place, this one waits for its body too, until one is refused.
    let deadline = Instant::now() + PATIENCE;
    let refusal = loop {
        assert!(Instant::now() < deadline, "nobody is refused");
        let mut connection = try_out_without_a_body(&service).await;
        let mut head = vec![0; 4096];
        match tokio::time::timeout(Duration::from_millis(500), connection.read(&mut head)).await {
            Ok(count) => break String::from_utf8_lossy(&head[..count.expect("an answer")]).into_owned(),
            Err(_) => waiting.push(connection),
        }
    };
    assert!(refusal.starts_with("HTTP/1.1 429") && refusal.contains("retry-after: 1"), "{refusal}");
    assert!(refusal.contains("{\"error\":"), "as the protocol writes errors: {refusal}");
    let (status, answer) = service.post("/v1/jobs", &definition("out")).await;
    assert_eq!(status, 202, "{answer:#}");
    let counted = Scrape::parse(&get(&service, "/metrics").await.text().await.expect("a text"));
    assert!(counted.sum("nightshift_requests_shed_total", &[("kind", "trial")]) >= 1.0);
}

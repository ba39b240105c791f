//! What happens to nodes.

use std::time::{Duration, Instant};

use rand::Rng;
use serde_json::json;

use crate::{
    Case,
    cluster::{Cluster, LEASE},
    databases::Database,
    support::{
        ServiceOptions, fixture, golden,
        scrape::{Sample, Scrape},
    },
    workload::{PATIENCE, Workload, is_final},
};

/// Nodes and runners are killed at random moments while jobs run. 0 lost, 0 duplicated, 0 foreign parts.
pub async fn kills(case: &mut Case) -> String {
    let mut cluster = Cluster::start(&case.database, 2, 2, ServiceOptions::default()).await;
    let mut work = Workload::put(&cluster.s3, 40_000, 500);
    for _ in 0..3 {
        work.submit(&cluster).await;
    }
    let kills = case.times(16, 200);
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(case.random.random_range(50..500))).await;
        if work.is_done(&cluster).await {
            work.submit(&cluster).await;
        }
        let at = case.random.random_range(0..cluster.nodes.len());
        if case.random.random_ratio(1, 3) && cluster.nodes[at].kill_runner() {
            continue;
        }
        cluster.nodes[at].kill9();
        cluster.nodes[at].restart().await;
    }
    work.check(&cluster).await;
    format!("{kills} kills, {} jobs, {} records: 0 lost, 0 duplicated, 0 foreign parts", work.jobs(), work.records())
}

/// The node that said 202 is killed within 50 ms of it. Every job is there, and ends.
pub async fn accepted(case: &mut Case) -> String {
    let mut cluster = Cluster::start(&case.database, 1, 1, ServiceOptions::default()).await;
    let mut work = Workload::put(&cluster.s3, 400, 200);
    let times = case.times(5, 100);
    for n in 0..times {
        let output = format!("out/{n:04}/");
        let id = cluster.nodes[0].submit(&work.definition(&output)).await;
        tokio::time::sleep(Duration::from_millis(case.random.random_range(0..50))).await;
        cluster.nodes[0].kill9();
        cluster.nodes[0].restart().await;
        work.submitted(id, output);
    }
    work.check(&cluster).await;
    format!("{times} of {times} jobs present and finished")
}

/// A node that runs a chunk is frozen for three lease times. What it does when it wakes up changes nothing: another has the chunk by then,
/// unless there is none.
pub async fn frozen(case: &mut Case) -> String {
    let cluster = Cluster::start(&case.database, 1, 2, ServiceOptions::default()).await;
    cluster.s3.create_bucket("lake");
    // Seconds a batch: it is frozen in the middle of one.
    cluster.s3.put("lake", "slow/x.onnx", &fixture("models/awkward/slow.onnx"));
    cluster.s3.put("lake", "in/x.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    let times = case.times(2, 50);
    let (mut kept, mut dropped) = (0, 0);
    for n in 0..times {
        let output = format!("out/{n:04}/");
        let definition = json!({"model": "s3://lake/slow/x.onnx", "input": "s3://lake/in/", "output": format!("s3://lake/{output}")});
        let id = cluster.submit(&definition, &output).await;
        let (at, _) = holder(&cluster, &id, 0).await;
        let before = fenced(&cluster, at).await;
        cluster.nodes[at].freeze();
        tokio::time::sleep(Duration::from_secs_f64(LEASE * 3.0)).await;
        cluster.nodes[at].thaw();
        if !case.database.is_sqlite() {
            let deadline = Instant::now() + PATIENCE;
            while fenced(&cluster, at).await < before + 1.0 {
                // Frozen within a transaction it kept the job's row from the others, until the database ended that.
                let chunks = cluster.chunks(&id).await;
                if chunks.iter().all(|chunk| chunk["claims"] == 1 && chunk["state"] == "done") {
                    kept += 1;
                    break;
                }
                // Frozen between its claim and the reading of the job, it gives up when it wakes: there is nothing to fence off.
                if cluster.nodes[at].log().contains(&format!("cannot read {id}")) {
                    dropped += 1;
                    break;
                }
                assert!(Instant::now() < deadline, "node {at} is not fenced off");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while !cluster.job(&id).await.is_some_and(|job| is_final(&job)) {
            assert!(Instant::now() < deadline, "{id} does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let found = golden::Output::read(&cluster.s3, "lake", &output);
        found.check_invariants();
        found.assert_one_outcome_each(&[("in/x.jsonl".to_owned(), 0)]);
    }
    let fenced = if case.database.is_sqlite() {
        "the only node went on with its chunk".to_owned()
    } else {
        format!("{} fenced off, {dropped} gave up by themselves, {kept} not taken over by then", times - kept - dropped)
    };
    format!("{times} of {times} frozen for {} s: {fenced}; manifests unaffected", LEASE * 3.0)
}

/// SIGTERM while chunks run and long polls are open: the node ends by itself with 0, in time, and no chunk loses an attempt.
pub async fn terminated(case: &mut Case) -> String {
    let options = ServiceOptions::default().arg("--drain-timeout", "1");
    let mut cluster = Cluster::start(&case.database, 1, 1, options).await;
    let mut work = Workload::put(&cluster.s3, 40_000, 500);
    let times = case.times(4, 100);
    let mut slowest = Duration::ZERO;
    let mut id = work.submit(&cluster).await;
    for n in 0..times {
        if work.is_done(&cluster).await {
            check_attempts(&cluster, &id).await;
            id = work.submit(&cluster).await;
        }
        let at = n % cluster.nodes.len();
        let polls: Vec<_> = (0..5)
            .map(|_| {
                let node = &cluster.nodes[0];
                let request = node.client().get(node.url(&format!("/v1/jobs/{id}?wait=30s"))).send();
                tokio::spawn(async move { request.await.map(|answer| answer.status().as_u16()) })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(case.random.random_range(50..400))).await;
        let started = Instant::now();
        let status = cluster.nodes[at].terminate(Duration::from_secs(30)).await;
        assert_eq!(status, Some(0), "node {at} ends by itself:\n{}", cluster.nodes[at].log());
        slowest = slowest.max(started.elapsed());
        cluster.nodes[at].restart().await;
        polls.iter().for_each(tokio::task::JoinHandle::abort);
    }
    work.check(&cluster).await;
    check_attempts(&cluster, &id).await;
    format!("{times} of {times} exits with 0, the slowest after {:.1} s; no attempt burned", slowest.as_secs_f64())
}

async fn check_attempts(cluster: &Cluster, id: &str) {
    for chunk in cluster.chunks(id).await {
        assert!(chunk["failures"] == 0 && chunk["crashes"] == 0, "{chunk:#}");
    }
}

/// PostgreSQL crashes and comes back while jobs run and the API is asked. 0 lost, 0 duplicated; no answer is a 500.
pub async fn restarts(case: &mut Case) -> String {
    let cluster = Cluster::start(&case.database, 2, 2, ServiceOptions::default()).await;
    let mut work = Workload::put(&cluster.s3, 40_000, 500);
    let mut id = work.submit(&cluster).await;
    let times = case.times(4, 20);
    let (mut asked, mut refused) = (0, 0);
    let Database::Postgres(server) = &case.database else { unreachable!("a case of PostgreSQL") };
    for _ in 0..times {
        if work.is_done(&cluster).await {
            id = work.submit(&cluster).await;
        }
        tokio::time::sleep(Duration::from_millis(case.random.random_range(100..800))).await;
        let crash = server.restart();
        // The API is asked all the while.
        while !crash.is_finished() {
            for node in &cluster.nodes[..2] {
                for path in [format!("/v1/jobs/{id}"), "/v1/jobs".to_owned(), "/readyz".to_owned(), "/livez".to_owned()] {
                    let status = node.status(&path).await;
                    assert!(matches!(status, 200 | 503), "{path} answered {status}");
                    assert!(path != "/livez" || status == 200, "a node lives without its database");
                    asked += 1;
                    refused += usize::from(status == 503);
                }
            }
        }
        crash.await.expect("scripts/postgres");
    }
    work.check(&cluster).await;
    // Nothing of it needed a restart of a node.
    for node in &cluster.nodes {
        assert_eq!(node.status("/readyz").await, 200);
    }
    format!(
        "{times} restarts, {} records: 0 lost, 0 duplicated; {asked} requests meanwhile, {refused} of them 503, none 500",
        work.records()
    )
}

/// A worker dies with what it holds. Another claims it when its lease has run out, and not much later.
pub async fn takeover(case: &mut Case) -> String {
    let workers = case.times(3, 16);
    let mut cluster = Cluster::start(&case.database, 1, workers, ServiceOptions::default()).await;
    cluster.s3.create_bucket("lake");
    cluster.s3.put("lake", "loop/x.onnx", &fixture("models/broken/endless-loop.onnx"));
    let times = case.times(2, 10);
    let mut latest: f64 = 0.0;
    for n in 0..times {
        // A chunk that never ends stays with whoever holds it.
        cluster.s3.put("lake", &format!("one/{n}/x.jsonl"), b"{\"x\": [1, 2, 3, 4]}\n");
        let definition =
            json!({"model": "s3://lake/loop/x.onnx", "input": format!("s3://lake/one/{n}/"), "output": format!("s3://lake/out/{n}/")});
        let id = cluster.submit(&definition, &format!("takeover-{n}")).await;
        let (at, claims) = holder(&cluster, &id, 0).await;
        cluster.nodes[at].kill9();
        let killed = Instant::now();
        let _next = holder(&cluster, &id, claims).await;
        let after = killed.elapsed().as_secs_f64();
        assert!(after < LEASE + 6.0, "claimed again only {after:.1} s after its worker was killed");
        latest = latest.max(after);
        cluster.nodes[0].post(&format!("/v1/jobs/{id}/cancel"), &json!(null)).await;
        cluster.nodes[at].restart().await;
    }
    format!("{workers} workers, {times} kills: claimed again after {latest:.1} s at the latest, the lease being {LEASE} s")
}

/// A job bound by inference, on one worker of one thread and then on two; neither has to load the model first.
pub async fn scaling(case: &mut Case) -> String {
    let mut cluster = Cluster::start(&case.database, 1, 2, ServiceOptions::default()).await;
    cluster.s3.create_bucket("lake");
    cluster.s3.put("lake", "slow/x.onnx", &fixture("models/awkward/slow.onnx"));
    // A worker holds a few chunks at once: at the end one may have some left when the other has none. With many chunks that is little.
    let chunks = case.times(4, 60);
    for n in 0..chunks {
        cluster.s3.put("lake", &format!("in/{n:02}.jsonl"), b"{\"x\": [1, 2, 3, 4]}\n");
    }
    for n in 0..8 {
        cluster.s3.put("lake", &format!("first/{n:02}.jsonl"), b"{\"x\": [1, 2, 3, 4]}\n");
    }
    run(&cluster, "first/", "out/first/").await;
    let both = run(&cluster, "in/", "out/both/").await;
    let idle = cluster.executors().end - 1;
    assert_eq!(cluster.nodes[idle].terminate(Duration::from_secs(30)).await, Some(0));
    let one = run(&cluster, "in/", "out/one/").await;
    format!("{chunks} chunks: {one:.1} s by one worker, {both:.1} s by two: {:.2} times the throughput", one / both)
}

/// Seconds from the submission to the end of a job with a chunk a record.
async fn run(cluster: &Cluster, input: &str, output: &str) -> f64 {
    let definition = json!({
        "model": "s3://lake/slow/x.onnx", "input": format!("s3://lake/{input}"), "output": format!("s3://lake/{output}"),
        "execution": {"chunk_records": 1},
    });
    let id = cluster.submit(&definition, output).await;
    let started = Instant::now();
    while !cluster.job(&id).await.is_some_and(|job| is_final(&job)) {
        assert!(started.elapsed() < PATIENCE, "{id} does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    golden::Output::read(&cluster.s3, "lake", output).check_invariants();
    seconds
}

/// Which node runs the one chunk of a job, claimed more than `claims` times; and how often it was claimed.
async fn holder(cluster: &Cluster, id: &str, claims: u64) -> (usize, u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nobody claims the chunk of {id}");
        let chunks = cluster.chunks(id).await;
        let running = chunks.first().filter(|c| c["state"] == "running" && c["claims"].as_u64() > Some(claims));
        if let Some(chunk) = running {
            let worker = chunk["worker"].as_str().expect("a worker");
            let is_its = |at: &usize| cluster.nodes[*at].id().is_some_and(|id| worker.contains(&format!(":{id}:")));
            let at = cluster.executors().find(is_its);
            return (at.expect("a worker of ours"), chunk["claims"].as_u64().expect("a number"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Attempts of a node that ended after another had their chunk.
async fn fenced(cluster: &Cluster, at: usize) -> f64 {
    let node = &cluster.nodes[at];
    let Ok(answer) = node.client().get(node.url("/metrics")).send().await else { return 0.0 };
    let Ok(text) = answer.text().await else { return 0.0 };
    let scrape = Scrape::parse(&text);
    let fenced = |sample: &&Sample| sample.labels.get("outcome").is_some_and(|outcome| outcome == "fenced");
    scrape.samples.iter().filter(|s| s.name == "nightshift_chunk_attempts_total").filter(fenced).map(|sample| sample.value).sum()
}

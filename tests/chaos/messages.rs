//! What happens to messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::Rng;
use serde_json::json;

use crate::{
    Case,
    cluster::Cluster,
    support::{
        ServiceOptions,
        receiver::{Receiver, Reply},
    },
    workload::{PATIENCE, Workload},
};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The receiver fails three times of ten, and those that send are killed meanwhile. Every event arrives, signed, under one id.
pub async fn messages(case: &mut Case) -> String {
    let options = ServiceOptions::default().arg("--webhook-allow-networks", "127.0.0.0/8").arg("--webhook-retry-scale", "0.0002");
    let mut cluster = Cluster::start(&case.database, 2, 1, options).await;
    let mut work = Workload::put(&cluster.s3, 40, 40);
    let receiver = Receiver::start("127.0.0.1");
    // Two events a job.
    let jobs = case.times(40, 500);
    let kills = case.times(3, 20);
    let replies: Vec<Reply> =
        (0..jobs * 8).map(|_| Reply::Status(if case.random.random_ratio(3, 10) { 500 } else { 204 })).chain([Reply::Status(204)]).collect();
    receiver.replies(&replies);
    let mut expected = BTreeSet::new();
    for n in 0..jobs {
        let output = format!("out/{n:04}/");
        let mut definition = work.definition(&output);
        definition["webhook"] = json!({"url": receiver.url("/hook"), "secret": SECRET, "events": ["job.started", "job.completed"]});
        let id = cluster.submit(&definition, &output).await;
        expected.extend(["job.started", "job.completed"].map(|event| (id.clone(), event.to_owned())));
        work.submitted(id, output);
        if n % (jobs / kills) == jobs / kills - 1 {
            let at = case.random.random_range(0..2).min(cluster.nodes.len() - 1);
            cluster.nodes[at].kill9();
            cluster.nodes[at].restart().await;
        }
    }
    work.check(&cluster).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let open = cluster.nodes[0].get("/v1/webhook-deliveries?state=pending&limit=1").await.1;
        let arrived = receiver.heard();
        let told: BTreeSet<(String, String)> = arrived
            .iter()
            .map(|heard| {
                (
                    heard.json()["data"]["id"].as_str().unwrap_or_default().to_owned(),
                    heard.json()["type"].as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect();
        if told == expected && open["items"].as_array().is_some_and(Vec::is_empty) {
            break;
        }
        assert!(told.is_subset(&expected), "something was told that did not happen");
        assert!(Instant::now() < deadline, "{} of {} events were told; still open: {open:#}", told.len(), expected.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let heard = receiver.heard();
    let mut ids: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for message in &heard {
        assert!(message.is_signed_with(SECRET));
        let event = (message.json()["data"]["id"].to_string(), message.json()["type"].to_string());
        ids.entry(event).or_default().insert(message.header("webhook-id").to_owned());
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "one id for each event, however often it was sent");
    let delivered = cluster.nodes[0].get_all("/v1/webhook-deliveries").await;
    assert!(delivered.iter().all(|delivery| delivery["state"] == "delivered"));
    format!("{} events, {} requests, {kills} kills: every id delivered, 0 lost", ids.len(), heard.len())
}

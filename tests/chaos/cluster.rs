//! The nodes of a case on loopback, and one object store for them all.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    databases::Database,
    support::{S3Server, Service, ServiceOptions},
    workload::PATIENCE,
};

/// Lease time of every node, seconds.
pub const LEASE: f64 = 2.0;

pub struct Cluster {
    pub s3: S3Server,
    /// Those with an API first.
    pub nodes: Vec<Service>,
    servers: usize,
}

impl Cluster {
    /// One node that does everything with SQLite; with PostgreSQL so many servers, which run no chunks, and so many workers.
    pub async fn start(database: &Database, servers: usize, workers: usize, options: ServiceOptions) -> Self {
        let s3 = S3Server::start().await;
        let options = options.arg("--chunk-slots", "2").arg("--lease-ttl", &LEASE.to_string()).arg("--workers", "1");
        let Some(url) = database.url() else {
            let nodes = vec![Service::start(&s3, options).await];
            return Self { s3, nodes, servers: 1 };
        };
        let options = options.arg("--database-url", url).arg("--database-connections", "4");
        let mut nodes = Vec::new();
        for _ in 0..servers {
            nodes.push(Service::start(&s3, options.clone().flag("--no-executor")).await);
        }
        for _ in 0..workers {
            nodes.push(Service::start(&s3, options.clone().role("worker")).await);
        }
        Self { s3, nodes, servers }
    }

    fn servers(&self) -> &[Service] {
        &self.nodes[..self.servers]
    }

    /// Those that run chunks.
    pub fn executors(&self) -> std::ops::Range<usize> {
        if self.nodes.len() > self.servers { self.servers..self.nodes.len() } else { 0..self.servers }
    }

    /// Submits a job under this key until a node accepts it.
    pub async fn submit(&self, definition: &Value, key: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        for node in self.servers().iter().cycle() {
            let request = node.client().post(node.url("/v1/jobs")).header("idempotency-key", key).json(definition);
            match request.send().await {
                Ok(answer) if answer.status() == 202 => {
                    if let Ok(job) = answer.json::<Value>().await {
                        return job["id"].as_str().expect("an id").to_owned();
                    }
                }
                Ok(answer) => assert!(answer.status() == 503, "{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(_away) => {}
            }
            assert!(Instant::now() < deadline, "no node accepts a job");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        unreachable!("there is a server")
    }

    /// A job as the first node tells that answers; `None` when none does. No node may answer with a fault of its own.
    pub async fn job(&self, id: &str) -> Option<Value> {
        for node in self.servers() {
            let Ok(answer) = node.client().get(node.url(&format!("/v1/jobs/{id}"))).send().await else { continue };
            match answer.status().as_u16() {
                200 => {
                    if let Ok(job) = answer.json().await {
                        return Some(job);
                    }
                }
                503 => {}
                other => panic!("{other}: {}", answer.text().await.unwrap_or_default()),
            }
        }
        None
    }

    /// Every chunk of a job.
    pub async fn chunks(&self, id: &str) -> Vec<Value> {
        self.nodes[0].get_all(&format!("/v1/jobs/{id}/chunks")).await
    }
}

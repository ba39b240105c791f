//! Jobs whose every record is known: a table of numbers in which some cells are none.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    support::{S3Server, golden},
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(300);
const OBJECTS: usize = 4;

/// The input of every job of a case.
pub struct Workload {
    rows: usize,
    bad: usize,
    places: Vec<(String, u64)>,
    /// Jobs and where they write.
    jobs: Vec<(String, String)>,
    chunk_records: usize,
}

impl Workload {
    /// Puts a table of so many rows, to be cut into chunks of so many.
    pub fn put(s3: &S3Server, rows: usize, chunk_records: usize) -> Self {
        s3.create_bucket("lake");
        s3.put_fixture("models/diabetes-ridge", "lake", "model/");
        let (text, bad) = golden::table(rows / OBJECTS);
        let mut places = Vec::new();
        for object in 0..OBJECTS {
            let key = format!("in/{object}.csv");
            s3.put("lake", &key, text.as_bytes());
            places.extend(golden::csv_positions(s3, "lake", &key));
        }
        Self { rows: places.len(), bad: bad * OBJECTS, places, jobs: Vec::new(), chunk_records }
    }

    /// Submits a job to whichever node takes it; a request whose answer is lost is sent again under its key.
    pub async fn submit(&mut self, cluster: &Cluster) -> String {
        let output = format!("out/{:04}/", self.jobs.len());
        let id = cluster.submit(&self.definition(&output), &output).await;
        self.jobs.push((id.clone(), output));
        id
    }

    pub fn definition(&self, output: &str) -> Value {
        json!({
            "model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/{output}"),
            "execution": {"chunk_records": self.chunk_records, "batch_size": 64},
        })
    }

    /// A job that was submitted elsewhere.
    pub fn submitted(&mut self, id: String, output: String) {
        self.jobs.push((id, output));
    }

    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    pub fn records(&self) -> usize {
        self.rows * self.jobs.len()
    }

    /// Whether every job so far has ended.
    pub async fn is_done(&self, cluster: &Cluster) -> bool {
        for (id, _) in self.jobs.iter().rev() {
            let ended = cluster.job(id).await.is_some_and(|job| is_final(&job));
            if !ended {
                return false;
            }
        }
        true
    }

    /// Waits for the end of every job, then holds what each wrote against the input: none lost, none doubled, nothing of others there.
    pub async fn check(&self, cluster: &Cluster) {
        let deadline = Instant::now() + PATIENCE;
        for (id, output) in &self.jobs {
            let job = loop {
                match cluster.job(id).await {
                    Some(job) if is_final(&job) => break job,
                    job => assert!(Instant::now() < deadline, "{id} did not end: {job:#?}"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            assert_eq!(job["state"], "completed", "{job:#}");
            let found = golden::Output::read(&cluster.s3, "lake", output);
            found.check_invariants();
            assert_eq!((found.rows.len(), found.errors.len()), (self.rows - self.bad, self.bad), "{output}");
            assert_eq!(job["counts"]["records"]["succeeded"], self.rows - self.bad);
            found.assert_one_outcome_each(&self.places);
        }
    }
}

pub fn is_final(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("completed" | "failed" | "cancelled" | "expired"))
}

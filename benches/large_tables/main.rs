//! How long the API takes to answer over 100,000 jobs and 1,000,000 chunks, in either database.
//!
//! ```sh
//! scripts/test --bench large_tables          # sets up library and PostgreSQL; or cargo bench, with ORT_DYLIB_PATH and NIGHTSHIFT_TEST_POSTGRES
//! ```
//!
//! One real job is run, its rows are copied, and the service is asked over HTTP on loopback. Times include the request.

#![allow(missing_docs, reason = "a program")]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use support::{S3Server, Service, ServiceOptions, postgres};

const JOBS: u32 = 100_000;
const CHUNKS_EACH: u32 = 10;
/// Requests of each kind.
const REQUESTS: usize = 200;

/// A job's columns that every copy has as the first job has them.
const COPIED: &str = "spec, model, pipeline, labels, output, ending, priority, plan, plan_done, objects, bytes, chunks, chunks_done, succeeded, \
                      usage, summary, started_at, finished_at";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        println!("{JOBS} jobs, {} chunks; milliseconds of {REQUESTS} requests: median, 99 of 100", JOBS * CHUNKS_EACH);
        run(None).await;
        run(Some(postgres::database().await)).await;
    });
}

async fn run(url: Option<String>) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    let options = match &url {
        Some(url) => ServiceOptions::default().arg("--database-url", url),
        None => ServiceOptions::default(),
    };
    let mut service = Service::start(&s3, options).await;
    let id = service
        .submit(&json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/", "labels": {"team": "risk"}}))
        .await;
    service.wait(&id, Duration::from_secs(60)).await;
    assert_eq!(service.terminate(Duration::from_secs(30)).await, Some(0));
    let name = match &url {
        Some(url) => {
            let mut db = PgConnection::connect(url).await.expect("the server");
            for statement in statements("to_char(n, 'FM000000000000')", "generate_series(1, LAST) AS n") {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut db).await.expect("filled");
            }
            sqlx::raw_sql("ANALYZE").execute(&mut db).await.expect("counted");
            "PostgreSQL"
        }
        None => {
            let file = format!("sqlite://{}", service.data_dir().join("nightshift.db").display());
            let mut db = SqliteConnection::connect(&file).await.expect("the file");
            let series = "(WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < LAST) SELECT n FROM s)";
            for statement in statements("printf('%012d', n)", series) {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut db).await.expect("filled");
            }
            "SQLite"
        }
    };
    service.restart().await;
    let deep = format!("job_{:032}", JOBS / 2);
    let requests = [
        ("a job", format!("/v1/jobs/{id}")),
        ("the newest 50 jobs", "/v1/jobs?limit=50".to_owned()),
        ("50 in a state that most are in", "/v1/jobs?state=completed&limit=50".to_owned()),
        ("50 in a state that none is in", "/v1/jobs?state=failed&limit=50".to_owned()),
        ("50 by a label that one has", "/v1/jobs?label.team=risk&limit=50".to_owned()),
        (
            "chunks of a job",
            format!("/v1/jobs/{}/chunks?limit=200", deep.replacen("job_00000000000000000000", "job_01980000000070008000", 1)),
        ),
        ("/metrics", "/metrics".to_owned()),
    ];
    for (what, path) in requests {
        let mut times = Vec::new();
        for _ in 0..REQUESTS {
            let started = Instant::now();
            let status = service.status(&path).await;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            assert_eq!(status, 200, "{path}");
        }
        times.sort_by(f64::total_cmp);
        println!("{name:<11} {what:<32} {:>6.1} {:>6.1}", times[REQUESTS / 2], times[REQUESTS * 99 / 100]);
    }
}

/// Copies of the one job and of its chunk. Ids are older than its own, of the form that the service makes.
fn statements(number: &str, series: &str) -> [String; 2] {
    let id = format!("'job_01980000000070008000' || {number}");
    let (jobs, chunks) = (series.replace("LAST", &JOBS.to_string()), series.replace("LAST", &JOBS.to_string()));
    let each = (1..=CHUNKS_EACH).map(|k| format!("SELECT {k} AS k")).collect::<Vec<_>>().join(" UNION ALL ");
    [
        format!(
            "INSERT INTO job (id, state, created_at, {COPIED}) SELECT {id}, 'completed', created_at - n, {COPIED} FROM job, {jobs} \
             WHERE finished_at IS NOT NULL"
        ),
        format!(
            "INSERT INTO chunk (job_id, seq, state, inputs, result) SELECT {id}, k, 'done', inputs, result \
             FROM (SELECT inputs, result FROM chunk LIMIT 1) AS one, {chunks}, ({each}) AS each"
        ),
    ]
}

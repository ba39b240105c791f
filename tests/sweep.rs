//! The worked example of docs/NIGHTLY.md: its files are taken from there, and its commands run as they stand.

mod support;

use std::{fs, path::Path, process::Stdio, time::Duration};

use jiff::{ToSpan, ZonedDateTime, tz::TimeZone};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use support::{
    S3Server, Service, ServiceOptions,
    command::{Said, shell},
    golden,
    postgres::database,
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(120);
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The id that the text uses.
const EXAMPLE: &str = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073";

/// The first block of a language in the text, and what follows it.
fn block<'t>(text: &'t str, language: &str) -> (&'t str, &'t str) {
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap_or_else(|| panic!("a block of {language}"));
    rest.split_once("```\n").expect("its end")
}

struct World {
    s3: S3Server,
    service: Service,
    warehouse: String,
    schedule: Option<String>,
}

impl World {
    /// Runs the commands of a block, each to a good end; the last one's output.
    fn run(&self, commands: &str) -> String {
        let mut said = String::new();
        for line in commands.lines() {
            let line = match &self.schedule {
                Some(id) => line.replace(EXAMPLE, id),
                None => line.to_owned(),
            };
            let mut command = shell(&line, &self.service.file_root(), &self.s3, &self.service);
            let output = command.env("WAREHOUSE_URL", &self.warehouse).stdin(Stdio::null()).output().expect("it runs");
            let of = Said::of(output);
            assert_eq!(of.code, 0, "{line}: {} {}", of.out, of.err);
            said = of.out;
        }
        said
    }

    /// The job of the schedule's latest fire, once there is one after this.
    async fn job_after(&self, earlier: Option<&Value>) -> Value {
        let id = self.schedule.as_ref().expect("it was created");
        loop {
            let (status, page) = self.service.get(&format!("/v1/jobs?schedule={id}")).await;
            assert_eq!(status, 200, "{page:#}");
            let job = &page["items"][0];
            if job.is_object() && earlier.is_none_or(|earlier| earlier["id"] != job["id"]) {
                return job.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn end_of(&self, job: &Value) -> Value {
        let ended = self.service.wait(job["id"].as_str().expect("an id"), PATIENCE).await;
        assert_eq!(ended["state"], "completed", "{ended:#}");
        ended
    }
}

#[tokio::test]
async fn the_nightly_sweep_of_the_documentation_runs_as_it_is_written_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/NIGHTLY.md")).expect("the text");
    let (settings, rest) = block(&text, "toml");
    let (model, rest) = block(rest, "sh");
    let (definition, rest) = block(rest, "json");
    let (create, rest) = block(rest, "sh");
    let (night, rest) = block(rest, "sh");
    let (look, _) = block(rest, "sh");

    let s3 = S3Server::start().await;
    s3.create_bucket("models");
    s3.create_bucket("lake");
    s3.put_fixture("models/loan-default-pipeline", "models", "loans/");
    let yesterday =
        ZonedDateTime::now().with_time_zone(TimeZone::get("Europe/Berlin").expect("a zone")).checked_sub(1.day()).expect("a day");
    let day = format!("loans/{}/", yesterday.strftime("%Y-%m-%d"));
    s3.put_fixture("data/loans/parquet", "lake", &day);
    let receiver = Receiver::start("127.0.0.1");
    let warehouse = database().await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("nightshift.toml");
    fs::write(&config, settings.replace("https://hooks.example.com/nightshift", &receiver.url("/"))).expect("settings");
    let options = ServiceOptions::default()
        .arg("--config", config.to_str().expect("UTF-8"))
        .env("WAREHOUSE_URL", &warehouse)
        .env("RISK_SECRET", SECRET)
        .env("NIGHTSHIFT_WEBHOOK_ALLOW_NETWORKS", "127.0.0.0/8");
    let service = Service::start(&s3, options).await;
    fs::write(service.file_root().join("sweep.json"), definition).expect("a definition");
    let mut world = World { s3, service, warehouse, schedule: None };

    world.run(model);
    world.run(create);
    let schedules = world.service.get_all("/v1/schedules").await;
    assert_eq!((schedules.len(), &schedules[0]["name"]), (1, &json!("loans-nightly")), "the dry run made none");
    assert_eq!(schedules[0]["next_fires"].as_array().map(Vec::len), Some(10));
    world.schedule = schedules[0]["id"].as_str().map(str::to_owned);

    // The data is there, and its marker is not.
    world.run(night);
    let waiting = world.job_after(None).await;
    assert_eq!(waiting["state"], "queued", "{waiting:#}");
    assert!(waiting["waiting_for"].to_string().contains("_SUCCESS"), "{waiting:#}");
    world.s3.put("lake", &format!("{day}_SUCCESS"), b"");
    let first = world.end_of(&waiting).await;
    assert_eq!(first["counts"]["records"], json!({"total": 9857, "succeeded": 9857, "failed": 0}));
    assert_eq!((&first["model"]["name"], &first["model"]["alias"]), (&json!("loans"), &json!("production")), "{first:#}");
    assert_eq!(first["summary"]["drift"], Value::Null, "nothing came before");
    let cost = first["usage"]["cost"].as_f64().expect("a cost");
    assert!(cost > 0.0 && cost < 0.1, "{first:#}");

    let output = golden::Output::read(&world.s3, "lake", &day.replace("loans/", "scores/"));
    output.check_invariants();
    let mut database = PgConnection::connect(&world.warehouse).await.expect("the warehouse");
    let rows = sqlx::query("SELECT loan_id, label, score FROM loan_scores").fetch_all(&mut database).await.expect("rows");
    let text = |cell: &Value| cell.as_str().expect("a text").to_owned();
    let mut table: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut parts: Vec<(String, String)> = output.rows.iter().map(|row| (text(&row["loan_id"]), text(&row["label"]))).collect();
    table.sort();
    parts.sort();
    assert_eq!(table.len(), 9857);
    assert!(table == parts, "the table holds what the parts do");
    let said = world.run(look);
    assert!(said.contains("risk") && said.contains("USD"), "{said}");

    // The next night, another mix of loans.
    let keys = world.s3.keys("lake", &day);
    keys.iter().filter(|key| key.contains(".parquet")).skip(1).for_each(|key| world.s3.remove_object("lake", key));
    world.run(night);
    let second = world.job_after(Some(&first)).await;
    let second = world.end_of(&second).await;
    let drift = &second["summary"]["drift"];
    assert_eq!(drift["against"], first["id"], "{drift:#}");
    assert!(drift["columns"].as_u64() > Some(20) && drift["predictions"].as_f64().is_some(), "{drift:#}");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM loan_scores").fetch_one(&mut database).await.expect("a count");
    assert_eq!(rows, 9857, "rows of the same loans took the place of the earlier ones");

    let expected = 2 + usize::from(drift["exceeded"] == true);
    let heard = receiver.hears(expected).await;
    assert!(heard.iter().all(|heard| heard.is_signed_with(SECRET)));
    let told: Vec<String> = heard.iter().map(|heard| heard.json()["type"].as_str().expect("a type").to_owned()).collect();
    assert_eq!(told.iter().filter(|kind| *kind == "job.completed").count(), 2, "{told:?}");
    assert_eq!(told.iter().filter(|kind| *kind == "job.drift").count(), expected - 2, "{told:?}");
}

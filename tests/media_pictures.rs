//! Pictures as objects, as samples of archives and as keys of a table: the same predictions.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, fixture, fixture_files, golden};

const PATIENCE: Duration = Duration::from_secs(120);
const PICTURES: usize = 2000;

/// A store with the model of digits.
async fn digits() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/digits", "lake", "model/");
    s3
}

/// So many scans, the real ones over and over, in the order of their names.
fn scans(count: usize) -> Vec<(String, Vec<u8>)> {
    let files = fixture_files("data/digits");
    assert_eq!(files.len(), 297);
    (0..count).map(|i| (format!("{i:05}.png"), fixture(&files[i % files.len()]))).collect()
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("a file of an archive");
    }
    builder.into_inner().expect("an archive")
}

async fn run(s3: &S3Server, service: &Service, definition: Value, output: &str) -> (Value, golden::Output) {
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = golden::Output::read(s3, "lake", output);
    output.check_invariants();
    (job, output)
}

fn predictions(output: &golden::Output) -> Vec<(Value, Value)> {
    output.rows.iter().map(|row| (row["label"].clone(), row["score"].clone())).collect()
}

#[tokio::test]
async fn two_thousand_pictures_as_objects_and_as_shards_give_the_same_predictions() {
    let s3 = digits().await;
    let scans = scans(PICTURES);
    for (name, bytes) in &scans {
        s3.put("lake", &format!("objects/{name}"), bytes);
    }
    for (shard, scans) in scans.chunks(500).enumerate() {
        s3.put("lake", &format!("shards/{shard}.tar"), &archive(scans));
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let definition = |input: &str, output: Value| json!({"model": "s3://lake/model/", "input": input, "output": output});
    // Neither job names a format or a setting.
    let (job, of_objects) = run(&s3, &service, definition("s3://lake/objects/", json!("s3://lake/out-objects/")), "out-objects/").await;
    assert_eq!(of_objects.rows.len(), PICTURES);
    assert!(of_objects.rows.iter().all(|row| row["_position"] == 0));
    assert_eq!(job["summary"]["images"]["count"], PICTURES, "{:#}", job["summary"]);
    assert_eq!((&job["summary"]["images"]["max_width"], &job["summary"]["images"]["min_height"]), (&json!(8), &json!(8)));
    let output = json!({"uri": "s3://lake/out-shards/", "include_input": ["__key__"]});
    let (_, of_shards) = run(&s3, &service, definition("s3://lake/shards/", output), "out-shards/").await;
    assert_eq!(predictions(&of_shards), predictions(&of_objects));
    let keys: Vec<&str> = of_shards.rows.iter().map(|row| row["__key__"].as_str().unwrap()).collect();
    assert_eq!(keys, scans.iter().map(|(name, _)| name.trim_end_matches(".png")).collect::<Vec<_>>());
}

#[tokio::test]
async fn large_pictures_fetched_ahead_give_the_predictions_of_small_ones_and_stay_within_their_room() {
    let s3 = digits().await;
    // More than there is room for: those that find none are read one by one. What follows the end of a PNG is nobody's.
    for (name, bytes) in scans(60) {
        s3.put("lake", &format!("small/{name}"), &bytes);
        s3.put("lake", &format!("large/{name}"), &[bytes.as_slice(), &vec![0; 1 << 20]].concat());
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let definition = |input: &str| json!({"model": "s3://lake/model/", "input": format!("s3://lake/{input}/"), "output": format!("s3://lake/out-{input}/")});
    let (_, small) = run(&s3, &service, definition("small"), "out-small/").await;
    let (job, large) = run(&s3, &service, definition("large"), "out-large/").await;
    assert_eq!((small.rows.len(), large.errors.len()), (60, 0));
    assert_eq!(predictions(&large), predictions(&small));
    assert!(job["usage"]["bytes_read"].as_u64().unwrap() >= 60 << 20, "each once, and whole: {:#}", job["usage"]);
    assert!(job["usage"]["bytes_read"].as_u64().unwrap() < 61 << 20, "each once: {:#}", job["usage"]);
    let highest = service.runner_peak_bytes();
    assert!(highest < 400 << 20, "the runner's memory went up to {highest} bytes");
}

/// A PNG of one colour.
fn png(picture: impl Into<image::DynamicImage>) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, image::ImageFormat::Png).expect("a PNG");
    bytes.into_inner()
}

#[tokio::test]
async fn each_limit_on_pictures_is_what_the_service_is_told() {
    let s3 = digits().await;
    let small = png(image::GrayImage::new(8, 8));
    s3.put("lake", "in/bytes.png", &[small.as_slice(), &vec![0; 40_000]].concat());
    s3.put("lake", "in/memory.png", &png(image::DynamicImage::new_rgba16(200, 200)));
    s3.put("lake", "in/pixels.png", &png(image::GrayImage::new(250, 250)));
    s3.put("lake", "in/side.png", &png(image::GrayImage::new(301, 1)));
    s3.put("lake", "in/small.png", &small);
    let limits = [("bytes", "40000"), ("memory", "150000"), ("pixels", "60000"), ("side", "300")];
    let options = limits.iter().fold(ServiceOptions::default(), |o, (name, most)| o.arg(&format!("--max-image-{name}"), most));
    for (options, refused) in [(options, true), (ServiceOptions::default(), false)] {
        let service = Service::start(&s3, options).await;
        let out = if refused { "out-limited/" } else { "out/" };
        let definition = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": format!("s3://lake/{out}")});
        let (_, output) = run(&s3, &service, definition, out).await;
        if !refused {
            assert_eq!((output.rows.len(), output.errors.len()), (5, 0), "{:?}", output.errors);
            continue;
        }
        let source = |row: &golden::Row| row["_source"].as_str().unwrap().to_owned();
        assert_eq!(output.rows.iter().map(source).collect::<Vec<_>>(), ["in/small.png"]);
        assert_eq!(output.errors.len(), limits.len());
        for (error, (name, most)) in output.errors.iter().zip(limits) {
            assert_eq!((source(error), &error["code"]), (format!("in/{name}.png"), &json!("image_too_large")), "{error:?}");
            let detail = error["detail"].as_str().unwrap();
            assert!(detail.contains(most) || name == "side", "{detail}");
        }
    }
}

#[tokio::test]
async fn keys_in_a_table_lead_to_the_same_predictions_and_missing_ones_to_error_rows() {
    let s3 = digits().await;
    let scans = scans(300);
    let mut table = String::from("id,photo\n");
    for (at, (name, bytes)) in scans.iter().enumerate() {
        s3.put("lake", &format!("in/photos/{name}"), bytes);
        table += &format!("{at},{}photos/{name}\n", if at % 2 == 0 { "" } else { "s3://lake/in/" });
    }
    table += "300,photos/gone.png\n301,../model/model.onnx\n302,s3://elsewhere/photos/00000.png\n303,\n";
    s3.put("lake", "in/table.csv", table.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let of_objects = json!({"model": "s3://lake/model/", "input": "s3://lake/in/photos/", "output": "s3://lake/out-objects/"});
    let (_, of_objects) = run(&s3, &service, of_objects, "out-objects/").await;
    let of_table = json!({
        "model": "s3://lake/model/", "input": {"uri": "s3://lake/in/", "include": ["*.csv"]},
        "output": {"uri": "s3://lake/out-table/", "include_input": ["id", "photo"]}, "pipeline": {"image": {"column": "photo"}}
    });
    let (_, of_table) = run(&s3, &service, of_table, "out-table/").await;
    assert_eq!(predictions(&of_table), predictions(&of_objects));
    assert_eq!(of_table.rows[1]["photo"], "s3://lake/in/photos/00001.png", "carried as it was found");
    let codes: Vec<&str> = of_table.errors.iter().map(|e| e["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["object_not_found", "invalid_key", "invalid_key", "missing_value"]);
}

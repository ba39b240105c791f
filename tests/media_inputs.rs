//! Objects, lines and samples of archives as records.

mod support;

use std::{io::Write, time::Duration};

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, fixture, golden};

const PATIENCE: Duration = Duration::from_secs(120);

/// A store with the model that says its one text back.
async fn echo() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/odd/strings", "lake", "model/");
    s3
}

/// Runs a job that gives the model the column `text`.
async fn run(s3: &S3Server, service: &Service, changes: Value) -> (Value, golden::Output) {
    s3.remove("lake", "out/");
    let mut definition = json!({
        "model": "s3://lake/model/", "input": {"uri": "s3://lake/in/"}, "output": {"uri": "s3://lake/out/"}, "pipeline": {"columns": {"word": "text"}}
    });
    for (section, fields) in changes.as_object().unwrap() {
        for (name, value) in fields.as_object().unwrap() {
            definition[section][name] = value.clone();
        }
    }
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = golden::Output::read(s3, "lake", "out/");
    output.check_invariants();
    (job, output)
}

/// Source, position and what the model said back.
fn echoes(output: &golden::Output) -> Vec<(String, u64, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |row: &golden::Row| (text(&row["_source"]), row["_position"].as_u64().unwrap(), text(&row["echo"]));
    output.rows.iter().map(row).collect()
}

fn errors(output: &golden::Output) -> Vec<(String, Option<u64>, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    output.errors.iter().map(|e| (text(&e["_source"]), e["_position"].as_u64(), text(&e["code"]))).collect()
}

/// An archive of these files.
fn archive<'f>(files: impl IntoIterator<Item = (String, &'f [u8])>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).expect("a file of an archive");
    }
    builder.into_inner().expect("an archive")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_text_file_is_a_record_a_line_cut_and_compressed_as_it_may_be() {
    let s3 = echo().await;
    let lines: Vec<String> = (0..5000).map(|i| format!("line {i} {}", "ü".repeat(i % 40))).collect();
    let text = lines.join("\n");
    s3.put("lake", "in/a.txt", text.as_bytes());
    s3.put("lake", "in/b.txt.gz", &gzip(text.as_bytes()));
    let service = Service::start(&s3, ServiceOptions::default().arg("--chunk-bytes", "30000")).await;
    let (job, output) = run(&s3, &service, json!({})).await;
    assert!(job["counts"]["chunks"].as_u64().unwrap() > 5, "the plain one is cut: {:#}", job["counts"]);
    let rows = echoes(&output);
    assert_eq!(rows.len(), 10_000);
    for (half, source) in rows.chunks(5000).zip(["in/a.txt", "in/b.txt.gz"]) {
        let mut position = 0;
        for ((found, at, echo), line) in half.iter().zip(&lines) {
            assert_eq!((found.as_str(), *at, echo), (source, position, line));
            position += line.len() as u64 + 1;
        }
    }
}

#[tokio::test]
async fn a_text_object_is_one_record_when_the_job_says_so() {
    let s3 = echo().await;
    for i in 0..150 {
        s3.put("lake", &format!("in/{i:03}.txt"), format!("text {i}\nof two lines").as_bytes());
    }
    s3.put("lake", "in/bad.txt", b"\xff\xfe");
    s3.put("lake", "in/large.txt", &vec![b'x'; (16 << 20) + 1]);
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let (job, output) = run(&s3, &service, json!({"input": {"format": "text"}, "execution": {"chunk_records": 40}})).await;
    assert_eq!(job["counts"]["chunks"], 4, "an object counts as one record: {:#}", job["counts"]);
    let rows = echoes(&output);
    let expected: Vec<_> = (0..150).map(|i| (format!("in/{i:03}.txt"), 0, format!("text {i}\nof two lines"))).collect();
    assert_eq!(rows, expected);
    let wanted = [("in/bad.txt", "invalid_utf8"), ("in/large.txt", "record_too_large")];
    assert_eq!(errors(&output), wanted.map(|(source, code)| (source.to_owned(), Some(0), code.to_owned())));
    assert!(job["usage"]["bytes_read"].as_u64().unwrap() < 1 << 20, "what is too large is not read: {:#}", job["usage"]);
}

#[tokio::test]
async fn samples_of_archives_give_the_predictions_of_the_same_records_in_json_lines() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/churn-lightgbm", "lake", "model/");
    let text = String::from_utf8(fixture("data/churn-encoded/jsonl/customers-0.jsonl")).unwrap();
    s3.put("lake", "lines/a.jsonl", text.as_bytes());
    let sample = |(at, line): (usize, &'static str)| (format!("customers/{at:05}.json"), line.as_bytes());
    let lines: Vec<&'static str> = text.leak().lines().collect();
    let halves = lines.split_at(lines.len() / 2);
    s3.put("lake", "in/0.tar", &archive(halves.0.iter().copied().enumerate().map(sample)));
    s3.put("lake", "in/1.tar.gz", &gzip(&archive(halves.1.iter().copied().enumerate().map(sample))));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let predictions = async |input: &str, output: &str| {
        let definition = json!({"model": "s3://lake/model/", "input": input, "output": {"uri": format!("s3://lake/{output}"), "include_input": ["tenure"]}});
        let id = service.submit(&definition).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "completed", "{job:#}");
        let output = golden::Output::read(&s3, "lake", output);
        output.check_invariants();
        assert!(output.errors.is_empty(), "{:?}", &output.errors[..1]);
        output.rows.iter().map(|row| [&row["tenure"], &row["label"], &row["score"]].map(Value::clone)).collect::<Vec<_>>()
    };
    let of_lines = predictions("s3://lake/lines/", "out-lines/").await;
    assert_eq!(of_lines.len(), lines.len());
    assert_eq!(predictions("s3://lake/in/", "out-tar/").await, of_lines);
}

#[tokio::test]
async fn a_hostile_archive_costs_what_is_lost_and_nothing_else() {
    let s3 = echo().await;
    let member = |name: &str, size: u64, flag: u8, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(size);
        header.set_entry_type(tar::EntryType::new(flag));
        header.set_cksum();
        let mut all = [header.as_bytes().to_vec(), bytes.to_vec()].concat();
        all.resize(all.len().next_multiple_of(512), 0);
        all
    };
    let good = |name: &str| member(name, 4, b'0', b"good");
    let end = vec![0; 1024];
    let hostile = [
        good("a.txt"),
        member("../../outside.txt", 4, b'0', b"evil"),
        member("/tmp/absolute.txt", 4, b'0', b"evil"),
        member("link.txt", 0, b'2', b""),
        member("device.txt", 0, b'3', b""),
        good("b.txt"),
        end.clone(),
    ];
    s3.put("lake", "in/0-names.tar", &hostile.concat());
    s3.put("lake", "in/1-terabyte.tar", &[good("a.txt"), member("huge.txt", 1 << 40, b'0', b"little"), end.clone()].concat());
    s3.put("lake", "in/2-truncated.tar", &[good("a.txt"), good("b.txt"), good("c.txt")].concat()[..2800]);
    s3.put("lake", "in/3-none.tar", b"nothing of the kind");
    // Twice the largest sample, in little gzip.
    let bomb = vec![0; 128 << 20];
    s3.put("lake", "in/4-bomb.tar.gz", &gzip(&[member("bomb.txt", bomb.len() as u64, b'0', &bomb), good("z.txt"), end.clone()].concat()));
    s3.put("lake", "in/5-good.tar", &[good("last.txt"), end].concat());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let (_, output) = run(&s3, &service, json!({})).await;
    let kept: Vec<(String, u64)> = echoes(&output)
        .into_iter()
        .map(|(source, at, echo)| {
            assert_eq!(echo, "good");
            (source, at)
        })
        .collect();
    let bomb_end = (128 << 20) + 512;
    let wanted = [
        ("in/0-names.tar", 0),
        ("in/0-names.tar", 4096),
        ("in/1-terabyte.tar", 0),
        ("in/2-truncated.tar", 0),
        ("in/2-truncated.tar", 1024),
        ("in/4-bomb.tar.gz", bomb_end),
        ("in/5-good.tar", 0),
    ];
    assert_eq!(kept, wanted.map(|(source, at)| (source.to_owned(), at)));
    let wanted = [
        ("in/0-names.tar", 1024, "unsafe_name"),
        ("in/0-names.tar", 2048, "unsafe_name"),
        ("in/0-names.tar", 3072, "unsupported_member"),
        ("in/0-names.tar", 3584, "unsupported_member"),
        ("in/1-terabyte.tar", 1024, "invalid_tar"),
        ("in/2-truncated.tar", 2048, "invalid_tar"),
        ("in/3-none.tar", 0, "invalid_tar"),
        ("in/4-bomb.tar.gz", 0, "record_too_large"),
    ];
    assert_eq!(errors(&output), wanted.map(|(source, at, code)| (source.to_owned(), Some(at), code.to_owned())));
    let highest = service.runner_peak_bytes();
    assert!(highest < 400 << 20, "the runner's memory went up to {highest} bytes");
}

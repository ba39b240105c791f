//! Inputs of every kind: manifests, Arrow IPC, very many small objects.

mod support;

use std::{io::Write, time::Duration};

use arrow::{
    array::RecordBatch,
    ipc::{
        CompressionType,
        writer::{FileWriter, IpcWriteOptions, StreamWriter},
    },
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    golden::{self, Output, agree},
};

const PATIENCE: Duration = Duration::from_secs(120);

async fn store() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.create_bucket("archive");
    s3.put_fixture("models/churn-lightgbm", "lake", "model/");
    s3
}

/// What a job over the prefix `in/` writes.
async fn churn_of_prefix(s3: &S3Server, service: &Service) -> Output {
    let definition = json!({"model": "s3://lake/model/", "input": "s3://lake/in/",
                            "output": {"uri": "s3://lake/out/", "include_input": ["customerid"]}});
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read(s3, "lake", "out/");
    output.check_invariants();
    output
}

fn manifest_job(manifest: &str) -> Value {
    json!({"model": "s3://lake/model/", "input": {"manifest": manifest},
           "output": {"uri": "s3://lake/out/", "include_input": ["customerid"]}})
}

fn assert_churn(rows: &[golden::Row]) {
    let wanted = golden::expected("churn-lightgbm.jsonl");
    assert_eq!(rows.len(), wanted.len());
    for (row, want) in rows.iter().zip(&wanted) {
        let class = want["label"].as_u64().unwrap() as usize;
        assert_eq!(row["customerid"], want["customerid"]);
        assert_eq!(row["label"], ["stays", "leaves"][class], "{row:?}");
        assert!(agree(&row["score"], &want["probabilities"][class], 1e-5), "{row:?}");
    }
}

fn churn_objects() -> Vec<(String, Vec<u8>)> {
    let files = support::fixture_files("data/churn-encoded/csv");
    files.iter().map(|file| (file.rsplit('/').next().unwrap().to_owned(), support::fixture(file))).collect()
}

#[tokio::test]
async fn a_manifest_across_two_buckets_gives_the_golden_predictions_in_its_order() {
    let s3 = store().await;
    let mut lines = String::from("\n");
    let mut places = Vec::new();
    for (at, (name, bytes)) in churn_objects().into_iter().enumerate() {
        let bucket = ["lake", "archive"][at % 2];
        s3.put(bucket, &format!("deep/{name}"), &bytes);
        let uri = format!("s3://{bucket}/deep/{name}");
        lines += &format!("{{\"added\": \"2026-11-23\", \"uri\": \"{uri}\", \"size\": {}}}\n\n", bytes.len());
        places.extend(golden::csv_positions(&s3, bucket, &format!("deep/{name}")).into_iter().map(|(_, at)| (uri.clone(), at)));
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(lines.as_bytes()).unwrap();
    s3.put("archive", "lists/today", &packed.finish().unwrap());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&manifest_job("s3://archive/lists/today")).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(job["input"]["manifest"], "s3://archive/lists/today");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_churn(&output.rows);
    output.assert_one_outcome_each(&places);
    assert_eq!(output.manifest["input"]["kind"], "manifest");
    assert_eq!(output.manifest["parts"][0]["inputs"][1]["bucket"], "s3://archive/");
}

#[tokio::test]
async fn a_manifest_mixes_files_and_buckets_wherever_it_lies() {
    let s3 = store().await;
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let root = service.file_root();
    let mut lines = String::new();
    for (at, (name, bytes)) in churn_objects().into_iter().enumerate() {
        let uri = if at % 2 == 0 {
            std::fs::write(root.join(&name), &bytes).unwrap();
            format!("file://{}/{name}", root.display())
        } else {
            s3.put("archive", &name, &bytes);
            format!("s3://archive/{name}")
        };
        lines += &format!("{{\"uri\": \"{uri}\"}}\n");
    }
    std::fs::write(root.join("list.jsonl"), lines).unwrap();
    let id = service.submit(&manifest_job(&format!("file://{}/list.jsonl", root.display()))).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_churn(&output.rows);
}

#[tokio::test]
async fn files_are_planned_and_read_in_key_order_however_small() {
    let s3 = store().await;
    let service = Service::start(&s3, ServiceOptions::default().arg("--chunk-objects", "300")).await;
    let root = service.file_root();
    let rows = churn_objects().remove(0).1;
    let text = String::from_utf8(rows).unwrap();
    let mut lines = text.lines();
    let header = lines.next().unwrap();
    std::fs::create_dir_all(root.join("in")).unwrap();
    let lines: Vec<&str> = lines.take(600).collect();
    for (at, line) in lines.iter().enumerate() {
        std::fs::write(root.join(format!("in/{at:04}.csv")), format!("{header}\n{line}\n")).unwrap();
    }
    let mut definition = manifest_job("s3://lake/unused");
    definition["input"] = json!(format!("file://{}/in/", root.display()));
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["counts"]["records"]["succeeded"], lines.len(), "{job:#}");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    for (at, (row, want)) in output.rows.iter().zip(golden::expected("churn-lightgbm.jsonl")).enumerate() {
        assert_eq!(row["customerid"], want["customerid"]);
        assert_eq!(row["_source"], format!("{}/in/{at:04}.csv", root.display()));
    }
}

#[tokio::test]
async fn an_object_that_a_manifest_names_and_nobody_has_is_one_error_row() {
    let s3 = store().await;
    let mut lines = String::new();
    for (name, bytes) in churn_objects() {
        s3.put("lake", &format!("in/{name}"), &bytes);
        lines += &format!("{{\"uri\": \"s3://archive/gone/{name}\"}}\n{{\"uri\": \"s3://lake/in/{name}\"}}\n");
    }
    lines += "{\"uri\": \"s3://archive/gone.parquet\"}";
    s3.put("lake", "list.jsonl", lines.as_bytes());
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let id = service.submit(&manifest_job("s3://lake/list.jsonl")).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_churn(&output.rows);
    assert_eq!(output.errors.len(), churn_objects().len() + 1);
    for error in &output.errors {
        assert_eq!((&error["code"], &error["_position"]), (&json!("object_not_found"), &Value::Null), "{error:?}");
        assert!(error["_source"].as_str().unwrap().starts_with("s3://archive/gone"), "{error:?}");
    }
}

#[tokio::test]
async fn a_manifest_with_a_fault_fails_its_job_with_the_lines_number_before_any_work() {
    let s3 = store().await;
    let (name, bytes) = churn_objects().remove(0);
    s3.put("lake", &format!("in/{name}"), &bytes);
    let good = format!("{{\"uri\": \"s3://lake/in/{name}\"}}\n");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    for (lines, code, said) in [
        (
            format!("{good}\n{{\"uri\": s3://lake/x.csv}}\n"),
            "invalid_manifest",
            vec!["line 3", "it reads \"{\\\"uri\\\": s3://lake/x.csv}\""],
        ),
        (format!("{good}{{\"url\": \"s3://lake/x.csv\"}}\n"), "invalid_manifest", vec!["line 2", "missing field `uri`"]),
        (format!("{good}{{\"uri\": \"s3://lake/in/\"}}\n"), "invalid_manifest", vec!["line 2", "prefix"]),
        (format!("{good}{{\"uri\": \"ftp://lake/in\"}}\n"), "invalid_manifest", vec!["line 2", "ftp"]),
        (format!("{good}{{\"uri\": \"file:///etc/passwd\"}}\n"), "invalid_manifest", vec!["line 2", "file root"]),
        (format!("{good}{{\"uri\": \"s3://lake/out/x.csv\"}}\n"), "invalid_manifest", vec!["line 2", "the job's own output"]),
        (format!("{good}{{\"uri\": \"s3://lake/in/b.csv\"}}\n\n{good}"), "invalid_manifest", vec!["lines 1 and 4", "in/"]),
        ("\n\n".to_owned(), "input_empty", vec!["names no object"]),
        (format!("{good}{}\n", "x".repeat(70_000)), "invalid_manifest", vec!["line 2", "65536 bytes"]),
    ] {
        s3.put("lake", "list.jsonl", lines.as_bytes());
        let id = service.submit(&manifest_job("s3://lake/list.jsonl")).await;
        let job = service.wait(&id, PATIENCE).await;
        let found = job["error"]["type"].as_str().unwrap_or_default();
        assert!(job["state"] == "failed" && found.ends_with(code), "{lines:.200}: {job:#}");
        for said in said {
            assert!(job["error"]["detail"].as_str().unwrap().contains(said), "{said}: {}", job["error"]["detail"]);
        }
        assert_eq!(s3.keys("lake", "out/"), Vec::<String>::new());
    }
    let id = service.submit(&manifest_job("s3://lake/no-list.jsonl")).await;
    assert_eq!(service.wait(&id, PATIENCE).await["error"]["type"], "urn:nightshift:problem:object_not_found");
}

#[tokio::test]
async fn a_service_killed_while_it_reads_a_manifest_loses_and_duplicates_nothing() {
    let s3 = store().await;
    s3.put_fixture("models/diabetes-ridge", "lake", "ridge/");
    let header = golden::DIABETES_COLUMNS.join(",");
    let (mut lines, mut places) = (String::new(), Vec::new());
    for object in 0..3000 {
        let key = format!("tiny/{object}.csv");
        s3.put("lake", &key, format!("{header}\n{}\n", vec![format!("{}", object % 7); 10].join(",")).as_bytes());
        lines += &format!("{{\"uri\": \"s3://lake/{key}\"}}\n");
        places.push((format!("s3://lake/{key}"), header.len() as u64 + 1));
    }
    s3.put("lake", "list.jsonl", lines.as_bytes());
    let options = ServiceOptions::default().arg("--chunk-objects", "20").arg("--lease-ttl", "3");
    let mut service = Service::start(&s3, options).await;
    let definition = json!({"model": "s3://lake/ridge/", "input": {"manifest": "s3://lake/list.jsonl"}, "output": "s3://lake/out/"});
    let id = service.submit(&definition).await;
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
        service.kill9();
        service.restart().await;
    }
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    output.assert_one_outcome_each(&places);
    let sources: Vec<&str> = output.rows.iter().map(|row| row["_source"].as_str().unwrap()).collect();
    assert!(sources.iter().zip(&places).all(|(found, (wanted, _))| found == wanted), "in the order of the manifest");
}

/// The churn table's objects as Arrow IPC.
fn as_arrow(parquet: &[u8], stream: bool, compression: Option<CompressionType>) -> Vec<u8> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::copy_from_slice(parquet)).unwrap().with_batch_size(300).build();
    let batches: Vec<RecordBatch> = reader.unwrap().map(Result::unwrap).collect();
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut bytes = Vec::new();
    if stream {
        let mut writer = StreamWriter::try_new_with_options(&mut bytes, &batches[0].schema(), options).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
    } else {
        let mut writer = FileWriter::try_new_with_options(&mut bytes, &batches[0].schema(), options).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
    }
    bytes
}

#[tokio::test]
async fn arrow_files_and_streams_give_the_golden_predictions() {
    let s3 = store().await;
    let forms = [(false, None, ".arrow"), (true, Some(CompressionType::ZSTD), ".arrows"), (false, Some(CompressionType::LZ4_FRAME), "")];
    for (at, file) in support::fixture_files("data/churn-encoded/parquet").iter().enumerate() {
        let (stream, compression, extension) = forms[at % 3];
        s3.put("lake", &format!("in/{at}{extension}"), &as_arrow(&support::fixture(file), stream, compression));
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let output = churn_of_prefix(&s3, &service).await;
    assert_churn(&output.rows);
    let first: Vec<f64> = output.rows.iter().take(3).filter_map(|row| golden::number(&row["_position"])).collect();
    assert_eq!(first, [0.0, 1.0, 2.0]);
}

#[tokio::test]
async fn a_hostile_arrow_object_costs_one_object() {
    let s3 = store().await;
    let files = support::fixture_files("data/churn-encoded/parquet");
    for (at, file) in files.iter().enumerate() {
        s3.put("lake", &format!("in/{at}.parquet"), &support::fixture(file));
    }
    let whole = as_arrow(&support::fixture(&files[0]), false, Some(CompressionType::ZSTD));
    s3.put("lake", "in/a-first-half.arrow", &whole[..200]);
    // The length of the first compressed buffer of the first batch, raised to a terabyte.
    let magic = [0x28, 0xB5, 0x2F, 0xFD];
    let frame = whole.windows(4).position(|window| window == magic).expect("a Zstandard frame");
    let mut bomb = whole.clone();
    bomb[frame - 8..frame].copy_from_slice(&(1_i64 << 40).to_le_bytes());
    s3.put("lake", "in/a-bomb.arrow", &bomb);
    s3.put("lake", "in/a-feather-1.feather", b"FEA1 and so on");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let output = churn_of_prefix(&s3, &service).await;
    // In key order the parquet objects come first.
    assert_churn(&output.rows);
    assert_eq!(output.errors.len(), 3);
    assert!(output.errors.iter().all(|error| error["code"] == "invalid_arrow"), "{:?}", output.errors);
    let bomb = output.errors.iter().find(|e| e["_source"] == "in/a-bomb.arrow").unwrap();
    assert!(bomb["detail"].as_str().unwrap().contains("over the limit"), "{bomb:?}");
}

#[tokio::test]
async fn very_many_small_objects_keep_their_order_and_their_provenance() {
    let s3 = store().await;
    s3.put_fixture("models/diabetes-ridge", "lake", "ridge/");
    let mut places = Vec::new();
    for object in 0..2500 {
        let key = format!("in/{object:05}.jsonl");
        let mut text = String::new();
        for row in 0..object % 4 {
            places.push((key.clone(), text.len() as u64, (object * 10 + row) as f64));
            let fields: Vec<String> = golden::DIABETES_COLUMNS.iter().map(|c| format!("\"{c}\": {}", object % 9)).collect();
            text += &format!("{{\"id\": {}, {}}}\n", object * 10 + row, fields.join(", "));
        }
        s3.put("lake", &key, text.as_bytes());
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let definition = json!({"model": "s3://lake/ridge/", "input": "s3://lake/in/",
                            "output": {"uri": "s3://lake/out/", "include_input": ["id"]}, "pipeline": {"features": golden::DIABETES_COLUMNS}});
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    assert_eq!(output.rows.len(), places.len());
    for (row, (key, position, id)) in output.rows.iter().zip(&places) {
        let found = (row["_source"].as_str(), golden::number(&row["_position"]), golden::number(&row["id"]));
        assert_eq!(found, (Some(key.as_str()), Some(*position as f64), Some(*id)));
    }
}

//! Every input format and every output format: the same predictions.

mod support;

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, Float64Array, RecordBatch},
    datatypes::{DataType, Field, Schema},
};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    golden::{self, DIABETES_COLUMNS, Output, agree, number},
};

const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test]
async fn every_input_format_in_every_output_format_gives_the_golden_predictions() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/churn-lightgbm", "lake", "model/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let wanted = golden::expected("churn-lightgbm.jsonl");
    for input in ["csv", "jsonl", "parquet"] {
        s3.put_fixture(&format!("data/churn-encoded/{input}"), "lake", &format!("in/{input}/"));
        for (format, compression) in [
            ("jsonl", "none"),
            ("jsonl", "gzip"),
            ("jsonl", "zstd"),
            ("csv", "none"),
            ("csv", "gzip"),
            ("csv", "zstd"),
            ("parquet", "none"),
            ("parquet", "zstd"),
        ] {
            let what = format!("{input} to {format}, {compression}");
            let prefix = format!("out/{input}-{format}-{compression}/");
            let definition = json!({
                "model": "s3://lake/model/",
                "input": format!("s3://lake/in/{input}/"),
                "output": {"uri": format!("s3://lake/{prefix}"), "format": format, "compression": compression, "include_input": true, "prediction_prefix": "predicted_"},
                "execution": {"batch_size": 100},
            });
            let id = service.submit(&definition).await;
            let job = service.wait(&id, PATIENCE).await;
            assert_eq!(job["state"], "completed", "{what}: {job:#}");
            let output = Output::read(&s3, "lake", &prefix);
            output.check_invariants();
            assert_eq!(output.rows.len(), wanted.len(), "{what}");
            for (row, want) in output.rows.iter().zip(&wanted) {
                let class = want["label"].as_u64().unwrap() as usize;
                assert_eq!(row["customerid"], want["customerid"], "{what}");
                assert_eq!(row["predicted_label"], ["stays", "leaves"][class], "{what}: {row:?}");
                assert!(agree(&row["predicted_score"], &want["probabilities"][class], 1e-5), "{what}: {row:?}");
                assert!(number(&row["tenure"]).is_some(), "{what}: the input's columns are carried: {row:?}");
            }
        }
    }
}

const LARGE: usize = 100_000;

fn cell(row: usize, column: usize) -> f64 {
    ((row * 31 + column * 17) % 1000) as f64 / 10_000.0 - 0.05
}

fn large_csv() -> String {
    let mut text = DIABETES_COLUMNS.join(",") + ",note\n";
    for row in 0..LARGE {
        let cells: Vec<String> = (0..10).map(|column| cell(row, column).to_string()).collect();
        // A quoted newline here and there: a border that only the quotes before it tell from a record's end.
        let note = if row % 7 == 3 { "\"two\nlines, and a \"\"quote\"\"\"" } else { "plain" };
        text += &format!("{},{note}\n", cells.join(","));
    }
    text
}

fn large_jsonl() -> String {
    let line = |row: usize| {
        let fields: Vec<String> = (0..10).map(|column| format!("\"{}\": {}", DIABETES_COLUMNS[column], cell(row, column))).collect();
        format!("{{{}}}\n", fields.join(", "))
    };
    (0..LARGE).map(line).collect()
}

fn large_parquet() -> Vec<u8> {
    let columns = (0..10).map(|column| Arc::new(Float64Array::from_iter_values((0..LARGE).map(|row| cell(row, column)))) as ArrayRef);
    let fields: Vec<Field> = DIABETES_COLUMNS.iter().map(|name| Field::new(*name, DataType::Float64, false)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.collect()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(7_000)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[tokio::test]
async fn large_objects_are_cut_and_give_the_same_predictions_in_the_same_order_whatever_the_format() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put("lake", "csv/rows.csv", large_csv().as_bytes());
    s3.put("lake", "jsonl/rows.jsonl", large_jsonl().as_bytes());
    s3.put("lake", "parquet/rows.parquet", &large_parquet());
    let service = Service::start(&s3, ServiceOptions::default().arg("--chunk-bytes", "400000")).await;
    let mut predictions: Vec<Vec<Value>> = Vec::new();
    for format in ["parquet", "csv", "jsonl"] {
        let definition = json!({
            "model": "s3://lake/model/", "input": format!("s3://lake/{format}/"), "output": format!("s3://lake/out/{format}/"),
            "pipeline": {"features": DIABETES_COLUMNS},
        });
        let id = service.submit(&definition).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "completed", "{format}: {job:#}");
        assert_eq!(job["counts"]["records"], json!({"total": LARGE, "succeeded": LARGE, "failed": 0}), "{format}");
        assert!(job["counts"]["chunks"].as_u64() > Some(5), "{format}: {}", job["counts"]);
        let output = Output::read(&s3, "lake", &format!("out/{format}/"));
        output.check_invariants();
        let positions: Vec<u64> = output.rows.iter().map(|r| r["_position"].as_u64().unwrap()).collect();
        assert!(positions.is_sorted(), "{format}: parts are in input order");
        predictions.push(output.rows.into_iter().map(|r| r["prediction"].clone()).collect());
    }
    assert!(predictions[0] == predictions[1] && predictions[1] == predictions[2], "the same predictions, digit by digit");
}

#[tokio::test]
async fn the_same_job_gives_byte_identical_parts() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/loan-default-pipeline", "lake", "model/");
    s3.put_fixture("data/loans/csv", "lake", "in/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let mut digests = Vec::new();
    for run in 0..3 {
        for format in ["jsonl", "csv", "parquet"] {
            let definition = json!({
                "model": "s3://lake/model/", "input": "s3://lake/in/", "output": {"uri": format!("s3://lake/out/{run}-{format}/"), "format": format, "include_input": true},
                "pipeline": {"task": "tabular-classification"},
            });
            let id = service.submit(&definition).await;
            assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
            digests.push((format, Output::read(&s3, "lake", &format!("out/{run}-{format}/")).part_digests()));
        }
    }
    assert!(digests[..3] == digests[3..6] && digests[..3] == digests[6..], "promise 8: {digests:?}");
}

#[tokio::test]
async fn many_small_objects_are_gathered_and_globs_choose_among_them() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    let header = DIABETES_COLUMNS.join(",");
    let row: Vec<String> = (0..10).map(|c| cell(1, c).to_string()).collect();
    for object in 0..300 {
        s3.put("lake", &format!("in/day={}/{object:03}.csv", object % 3), format!("{header}\n{}\n", row.join(",")).as_bytes());
    }
    s3.put("lake", "in/_SUCCESS", b"");
    s3.put("lake", "in/day=0/.hidden.csv", b"x\n");
    s3.put("lake", "in/day=0/notes.txt", b"not data");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let definition = json!({
        "model": "s3://lake/model/",
        "input": {"uri": "s3://lake/in/", "include": ["**/*.csv"], "exclude": ["day=2/**", "**/.*"]},
        "output": "s3://lake/out/",
    });
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!((&job["counts"]["objects"], &job["counts"]["chunks"]), (&json!(200), &json!(1)));
    let output = Output::read(&s3, "lake", "out/");
    output.check_invariants();
    let sources: Vec<&str> = output.rows.iter().map(|r| r["_source"].as_str().unwrap()).collect();
    assert!(sources.len() == 200 && sources.is_sorted());
}

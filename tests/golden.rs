//! The golden predictions of real and of odd models, reproduced row for row.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    golden::{self, Output, Row, agree},
};

const PATIENCE: Duration = Duration::from_secs(120);

/// A model, its data, its golden file, and how a golden row is told from a row of ours.
struct Case {
    model: &'static str,
    data: &'static str,
    expected: &'static str,
    pipeline: Value,
    /// Input column carried along → golden column that must be the same.
    key: Option<&'static str>,
    /// What of our row stands for which golden column, and within which relative tolerance.
    compare: fn(&Row, &Row) -> bool,
}

fn probability(row: &Row, label: &str) -> Value {
    row["probabilities"][label].clone()
}

fn cases() -> Vec<Case> {
    let classify = json!({"task": "tabular-classification", "probabilities": true});
    vec![
        Case {
            model: "churn-pipeline",
            data: "churn/csv",
            expected: "churn-pipeline.jsonl",
            pipeline: classify.clone(),
            key: Some("customerid"),
            compare: |row, want| {
                let probabilities = &want["output_probability"];
                row["label"] == want["output_label"]
                    && agree(&row["probabilities"], probabilities, 1e-5)
                    && agree(&row["score"], &probabilities[want["output_label"].as_str().unwrap()], 1e-5)
            },
        },
        Case {
            model: "churn-lightgbm",
            data: "churn-encoded/parquet",
            expected: "churn-lightgbm.jsonl",
            pipeline: json!({"probabilities": true}),
            key: Some("customerid"),
            compare: |row, want| {
                let names = ["stays", "leaves"];
                row["label"] == names[want["label"].as_u64().unwrap() as usize]
                    && (0..2).all(|class| agree(&probability(row, names[class]), &want["probabilities"][class], 1e-5))
            },
        },
        Case {
            model: "loan-default-pipeline",
            data: "loans/csv",
            expected: "loan-default-pipeline.parquet",
            pipeline: json!({"task": "tabular-classification", "labels": ["bad", "good"], "probabilities": true}),
            key: Some("loan_id"),
            compare: |row, want| row["label"] == want["label"] && agree(&probability(row, "bad"), &want["p_bad"], 1e-5),
        },
        Case {
            model: "loan-default-xgboost",
            data: "loans/jsonl",
            expected: "loan-default-xgboost.parquet",
            pipeline: json!({"probabilities": true}),
            key: Some("loan_id"),
            compare: |row, want| {
                let names = ["good", "bad"];
                row["label"] == names[want["label"].as_u64().unwrap() as usize] && agree(&probability(row, "bad"), &want["p_bad"], 1e-5)
            },
        },
        Case {
            model: "loan-anomaly",
            data: "loans/parquet",
            expected: "loan-anomaly.parquet",
            pipeline: json!({}),
            key: Some("loan_id"),
            compare: |row, want| agree(&row["label"], &want["label"], 0.0) && agree(&row["scores"], &want["scores"], 1e-5),
        },
        Case {
            model: "breast-cancer-double",
            data: "breast-cancer/csv",
            expected: "breast-cancer-double.jsonl",
            pipeline: json!({}),
            key: None,
            compare: |row, want| row["label"] == want["label"] && agree(&row["probabilities"], &want["probabilities"], 1e-5),
        },
        Case {
            model: "diabetes-ridge",
            data: "diabetes/jsonl",
            expected: "diabetes-ridge.jsonl",
            pipeline: json!({}),
            key: None,
            compare: |row, want| agree(&row["prediction"], &want["prediction"], 1e-4),
        },
        Case {
            model: "file-type",
            data: "file-type",
            expected: "file-type.jsonl",
            pipeline: json!({}),
            key: None,
            compare: |row, want| {
                let scores = row["target_label"].as_array().unwrap();
                let best = want["argmax"].as_u64().unwrap() as usize;
                let first: Vec<Value> = scores[..5].to_vec();
                scores.len() == 214 && agree(&scores[best], &want["max"], 1e-5) && agree(&json!(first), &want["first5"], 1e-5)
            },
        },
    ]
}

#[tokio::test]
async fn real_tabular_models_give_their_golden_predictions_row_for_row() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    for case in cases() {
        let name = case.model;
        s3.put_fixture(&format!("models/{name}"), "lake", &format!("models/{name}/"));
        s3.put_fixture(&format!("data/{}", case.data), "lake", &format!("data/{name}/"));
        let mut definition = json!({
            "model": format!("s3://lake/models/{name}/"),
            "input": format!("s3://lake/data/{name}/"),
            "output": {"uri": format!("s3://lake/out/{name}/")},
            "pipeline": case.pipeline,
        });
        if let Some(key) = case.key {
            definition["output"]["include_input"] = json!([key]);
        }
        let id = service.submit(&definition).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "completed", "{name}: {job:#}");
        let output = Output::read(&s3, "lake", &format!("out/{name}/"));
        output.check_invariants();
        let wanted = golden::expected(case.expected);
        assert_eq!((output.rows.len(), output.errors.len()), (wanted.len(), 0), "{name}");
        for (at, (row, want)) in output.rows.iter().zip(&wanted).enumerate() {
            if let Some(key) = case.key {
                assert!(agree(&row[key], &want[key], 0.0), "{name}, row {at}: {row:?} is not about {want:?}");
            }
            assert!((case.compare)(row, want), "{name}, row {at}:\n{row:?}\n{want:?}");
        }
        println!("{name}: {} rows", wanted.len());
    }
}

#[tokio::test]
async fn odd_models_give_their_golden_outputs_row_for_row() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let mut models: Vec<String> =
        support::fixture_files("data/odd").iter().map(|f| f["data/odd/".len()..].trim_end_matches(".jsonl").to_owned()).collect();
    models.sort();
    assert_eq!(models.len(), 17);
    for name in models {
        s3.put_fixture(&format!("models/odd/{name}"), "lake", &format!("models/{name}/"));
        s3.put("lake", &format!("data/{name}/rows.jsonl"), &support::fixture(&format!("data/odd/{name}.jsonl")));
        let definition = json!({
            "model": format!("s3://lake/models/{name}/"), "input": format!("s3://lake/data/{name}/"), "output": format!("s3://lake/out/{name}/"),
        });
        let id = service.submit(&definition).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "completed", "{name}: {job:#}");
        let output = Output::read(&s3, "lake", &format!("out/{name}/"));
        output.check_invariants();
        let wanted = golden::expected(&format!("odd/{name}.jsonl"));
        assert_eq!((output.rows.len(), output.errors.len()), (wanted.len(), 0), "{name}: {:?}", output.errors.first());
        for (at, (row, want)) in output.rows.iter().zip(&wanted).enumerate() {
            for (column, want) in want {
                let found = row.get(column).unwrap_or_else(|| panic!("{name}: no column {column:?} in {row:?}"));
                assert!(agree(found, want, 1e-5), "{name}, row {at}, {column}: {found} is not {want}");
            }
        }
    }
}

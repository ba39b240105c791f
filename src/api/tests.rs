//! Typical mistakes in job definitions, and the document.

use proptest::{option, prelude::*, sample::select};
use serde_json::{Value, json};

use super::{
    definition, models, openapi, pipeline, read, schedule_definition,
    spec::{DriftDefinition, ErrorPolicyDefinition, ExecutionDefinition, InputDefinition, OutputDefinition},
    waits, webhook,
};
use crate::domain::{
    EventKind, JobSpec, PipelineSpec, Uri,
    spec::{
        CsvOptions, DriftSpec, ErrorPolicy, ExecutionSpec, IfExists, IncludeInput, InputFormat, InputKind, InputSpec, Layout, OutputFormat,
        OutputSpec, ReviewSpec,
    },
    table::{TableMode, TableName, TableSpec},
    time,
};

fn good() -> Value {
    json!({"model": "s3://models/fraud/", "input": "s3://lake/tx/", "output": "s3://lake/scores/"})
}

/// The smallest good definition with one value put at a pointer, its parents made on the way.
fn with(pointer: &str, value: Value) -> Value {
    let mut definition = good();
    let names: Vec<&str> = pointer.split('/').skip(1).collect();
    let mut at = &mut definition;
    for name in &names[..names.len() - 1] {
        let parent = at.as_object_mut().unwrap();
        let object = parent.entry(*name).or_insert(json!({}));
        if let Some(uri) = object.as_str().map(str::to_owned) {
            *object = json!({"uri": uri});
        }
        at = object;
    }
    at.as_object_mut().unwrap().insert(names[names.len() - 1].to_owned(), value);
    definition
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn providers() -> Vec<String> {
    crate::domain::spec::PROVIDERS.map(str::to_owned).to_vec()
}

#[test]
fn typical_mistakes_each_get_a_pointer_a_code_and_a_hint() {
    let mistakes: Vec<(Value, &str, &str, &str)> = vec![
        (json!({}), "/model", "missing", "s3://models/fraud/"),
        (json!([]), "", "wrong_type", "{"),
        (with("/modle", json!("x")), "/modle", "unknown_field", "\"model\""),
        (with("/Output", json!("x")), "/Output", "unknown_field", "\"output\""),
        (with("/inputs", json!("x")), "/inputs", "unknown_field", "\"input\""),
        (with("/model", json!(7)), "/model", "wrong_type", "{"),
        (with("/model", json!("models/fraud/")), "/model", "invalid_uri", "s3://"),
        (with("/model", json!("https://models/fraud/")), "/model", "invalid_uri", "s3://"),
        (with("/model", json!("s3:///fraud/")), "/model", "invalid_uri", "s3://"),
        (with("/model", json!({"uri": "s3://models/fraud/", "version": 3})), "/model/version", "missing_name", "name"),
        (with("/model", json!({"url": "s3://m/"})), "/model/url", "unknown_field", "\"uri\""),
        (with("/input", json!("s3://lake//tx/")), "/input", "invalid_uri", "s3://"),
        (with("/input", json!("s3://lake/../tx/")), "/input", "invalid_uri", "s3://"),
        (with("/input/uri", json!(null)), "/input/uri", "missing", "s3://"),
        (with("/input/format", json!("parqet")), "/input/format", "unknown_value", "\"parquet\""),
        (with("/input/format", json!("JSONL")), "/input/format", "unknown_value", "\"jsonl\""),
        (with("/input/format", json!(1)), "/input/format", "wrong_type", "parquet"),
        (with("/input/compression", json!("gz")), "/input/compression", "unknown_value", "gzip"),
        (with("/input/include", json!("**/*.csv")), "/input/include", "wrong_type", "[\""),
        (with("/input/include", json!([1])), "/input/include/0", "wrong_type", "quotes"),
        (with("/input/include", json!(["a[b"])), "/input/include/0", "invalid_glob", "**/*.parquet"),
        (with("/input/csv/delimiter", json!(";;")), "/input/csv/delimiter", "invalid_delimiter", "\";\""),
        (with("/input/csv/delimiter", json!("€")), "/input/csv/delimiter", "invalid_delimiter", "\";\""),
        (with("/input/csv/headers", json!(true)), "/input/csv/headers", "unknown_field", "\"header\""),
        (with("/input/csv/header", json!("yes")), "/input/csv/header", "wrong_type", "without quotes"),
        (with("/input/manifest", json!("s3://lake/m.jsonl")), "/input/uri", "two_inputs", "one of"),
        (with("/input", json!({"manifest": "s3://lake/lists/"})), "/input/manifest", "invalid_uri", "object"),
        (with("/input", json!({"manifest": "s3://lake/m.jsonl", "include": ["*.csv"]})), "/input/include", "not_applicable", "leave"),
        (with("/output/format", json!("json")), "/output/format", "unknown_value", "\"jsonl\""),
        (with("/output/format", json!("arrow")), "/output/format", "unknown_value", "parquet"),
        (with("/output/include_input", json!("id")), "/output/include_input", "wrong_type", "[\"id\""),
        (with("/output/layout", json!("mirrored")), "/output/layout", "unknown_value", "\"mirror\""),
        (with("/output/if_exists", json!("overwrite")), "/output/if_exists", "unknown_value", "fail"),
        (with("/output", json!("s3://lake/tx/scores/")), "/output", "output_overlaps_input", "not inside"),
        (with("/output", json!("s3://lake/tx")), "/output", "output_overlaps_input", "not inside"),
        (with("/pipeline/task", json!("classification")), "/pipeline/task", "unknown_value", "did you mean \"tabular-classification\"?"),
        (with("/pipeline/task", json!("image-clasification")), "/pipeline/task", "unknown_value", "\"image-classification\""),
        (with("/pipeline/feature", json!(["a"])), "/pipeline/feature", "unknown_field", "\"features\""),
        (with("/pipeline/features", json!("a,b")), "/pipeline/features", "wrong_type", "[\""),
        (with("/pipeline/missing", json!("null")), "/pipeline/missing", "unknown_value", "nan"),
        (with("/pipeline/top_k", json!(0)), "/pipeline/top_k", "out_of_range", "1 to 1000"),
        (with("/pipeline/columns", json!({"x": 1})), "/pipeline/columns/x", "wrong_type", "quotes"),
        (with("/pipeline/image", json!("224")), "/pipeline/image", "wrong_type", "{"),
        (with("/pipeline/image/sise", json!(224)), "/pipeline/image/sise", "unknown_field", "\"size\""),
        (with("/pipeline/image/size", json!("224")), "/pipeline/image/size", "wrong_type", "[224, 224]"),
        (with("/pipeline/image/size", json!([3, 224, 224])), "/pipeline/image/size", "wrong_length", "height and width"),
        (with("/pipeline/image/size", json!([224, 0])), "/pipeline/image/size/1", "out_of_range", "1 to 16384"),
        (with("/pipeline/image/crop", json!(1e9)), "/pipeline/image/crop", "out_of_range", "1 to 16384"),
        (with("/pipeline/image/pad", json!({"height": 9, "width": 9})), "/pipeline/image/pad", "wrong_type", "[224, 224]"),
        (with("/pipeline/image/resample", json!("bilinar")), "/pipeline/image/resample", "unknown_value", "\"bilinear\""),
        (with("/pipeline/image/resample", json!(2)), "/pipeline/image/resample", "wrong_type", "bilinear"),
        (with("/pipeline/image/resize", json!("shortest-edge")), "/pipeline/image/resize", "unknown_value", "\"shortest_edge\""),
        (with("/pipeline/image/channels", json!("rgb")), "/pipeline/image/channels", "unknown_value", "\"RGB\""),
        (with("/pipeline/image/layout", json!("HWC")), "/pipeline/image/layout", "unknown_value", "\"NHWC\""),
        (with("/pipeline/image/source", json!("keys")), "/pipeline/image/source", "unknown_value", "\"key\""),
        (with("/pipeline/image/pad_value", json!(256)), "/pipeline/image/pad_value", "out_of_range", "0 to 255"),
        (with("/pipeline/image/mean", json!([0.5, 0.5])), "/pipeline/image/mean", "wrong_length", "one number a channel"),
        (with("/pipeline/image/mean", json!([0.5, "x", 0.5])), "/pipeline/image/mean/1", "wrong_type", "without quotes"),
        (with("/pipeline/image", json!({"channels": "L", "std": [1, 1, 1]})), "/pipeline/image/std", "wrong_length", "a list of one"),
        (with("/pipeline/image/std", json!([0.2, 0.0, 0.2])), "/pipeline/image/std", "out_of_range", "deviation"),
        (with("/pipeline/image/scale", json!(0)), "/pipeline/image/scale", "out_of_range", "1/255"),
        (with("/pipeline/image/alpha", json!("black")), "/pipeline/image/alpha", "unknown_value", "white"),
        (with("/pipeline/text/max_lenght", json!(1)), "/pipeline/text/max_lenght", "unknown_field", "\"max_length\""),
        (with("/pipeline/text/max_length", json!(0)), "/pipeline/text/max_length", "out_of_range", "1 to"),
        (with("/pipeline/text/column", json!("")), "/pipeline/text/column", "empty", "name"),
        (with("/pipeline/threshold", json!(50)), "/pipeline/threshold", "out_of_range", "0 to 1"),
        (with("/pipeline/iou_threshold", json!("0.5")), "/pipeline/iou_threshold", "wrong_type", "0 to 1"),
        (with("/pipeline/pooling", json!("avg")), "/pipeline/pooling", "unknown_value", "mean"),
        (with("/pipeline/normalize", json!(1)), "/pipeline/normalize", "wrong_type", "true or false"),
        (with("/pipeline/dimensions", json!(0)), "/pipeline/dimensions", "out_of_range", "1 to"),
        (with("/pipeline/flags", json!(["unsafe"])), "/pipeline/flags", "wrong_type", "{"),
        (with("/pipeline/flags", json!({"a/b": {}})), "/pipeline/flags/a~1b", "missing", "any_of"),
        (with("/pipeline/flags/f", json!({"anyof": ["x"]})), "/pipeline/flags/f/anyof", "unknown_field", "\"any_of\""),
        (with("/pipeline/flags/f", json!({"any_of": "x"})), "/pipeline/flags/f/any_of", "wrong_type", "[\""),
        (with("/pipeline/flags/f", json!({"any_of": []})), "/pipeline/flags/f/any_of", "wrong_length", "unsafe"),
        (with("/pipeline/flags/f", json!({"any_of": ["x"], "min_score": 60})), "/pipeline/flags/f/min_score", "out_of_range", "0 to 1"),
        (with("/pipeline/flags/f", json!({"any_of": ["x"], "top_below": 0.5})), "/pipeline/flags/f", "contradiction", "of its own"),
        (with("/pipeline/flags/f", json!({"top_below": 0.5, "min_score": 0.5})), "/pipeline/flags/f/min_score", "contradiction", "any_of"),
        (with("/output/review", json!("s3://lake/review/")), "/output/review", "wrong_type", "{"),
        (with("/output/review", json!({"uri": "s3://lake/review/"})), "/output/review/when", "missing", "needs_review"),
        (with("/output/review", json!({"uri": "s3://lake/review/", "when": []})), "/output/review/when", "empty", "needs_review"),
        (with("/output/review", json!({"when": ["x"]})), "/output/review/uri", "missing", "s3://"),
        (
            with("/output/review", json!({"uri": "s3://lake/scores/q/", "when": ["x"]})),
            "/output/review",
            "review_overlaps_output",
            "beside",
        ),
        (with("/output/review", json!({"uri": "s3://lake/tx/q/", "when": ["x"]})), "/output/review", "output_overlaps_input", "not inside"),
        (with("/execution/batch_size", json!("large")), "/execution/batch_size", "wrong_type", "\"auto\""),
        (with("/execution/batch_size", json!(0)), "/execution/batch_size", "out_of_range", "1 to 65536"),
        (with("/execution/batch_size", json!(1.5)), "/execution/batch_size", "out_of_range", "whole"),
        (with("/execution/priority", json!(1000)), "/execution/priority", "out_of_range", "-100 to 100"),
        (with("/execution/deadline", json!("6 hours")), "/execution/deadline", "invalid_duration", "\"6h\""),
        (with("/execution/deadline", json!(3600)), "/execution/deadline", "wrong_type", "\"6h\""),
        (with("/execution/providers", json!(["cpu", "cdua"])), "/execution/providers/1", "unknown_value", "\"cuda\""),
        (with("/execution/providers", json!(["gpu"])), "/execution/providers/0", "unknown_value", "\"cuda\""),
        (with("/format", json!("csv")), "/format", "unknown_field", "field of input and of output"),
        (with("/batch_size", json!(8)), "/batch_size", "unknown_field", "field of execution"),
        (with("/labels", json!({"db_password": "correct-horse-7-battery"})), "/labels/db_password", "secret_in_label", "replace"),
        (with("/input", json!("s3://key:secret@lake/in/")), "/input", "credentials_in_uri", "settings"),
        (with("/model", json!("s3://models/fraud.pkl")), "/model", "unsupported_model", "skl2onnx"),
        (with("/execution/providers", json!(["cpu", "cpu"])), "/execution/providers/1", "repeated", "once"),
        (with("/execution/max_attempts", json!("4")), "/execution/max_attempts", "wrong_type", "number"),
        (with("/error_policy/max_failed_ratio", json!(5)), "/error_policy/max_failed_ratio", "out_of_range", "0.05"),
        (with("/error_policy/max_failures", json!(5)), "/error_policy/max_failures", "unknown_field", "max_failed_records"),
        (with("/webhook", json!({"url": "https://x"})), "/webhook/secret", "missing", "openssl"),
        (with("/webhook", json!({"secret": SECRET})), "/webhook/url", "missing", "https://"),
        (with("/webhook", json!("https://x")), "/webhook", "wrong_type", "secret"),
        (with("/webhook", json!({"url": "ftp://x", "secret": SECRET})), "/webhook/url", "invalid_url", "https://"),
        (with("/webhook", json!({"url": "x/y", "secret": SECRET})), "/webhook/url", "invalid_url", "https://"),
        (with("/webhook", json!({"url": "https://a:b@x", "secret": SECRET})), "/webhook/url", "invalid_url", "https://"),
        (with("/webhook", json!({"url": "https://x", "secret": "hunter2"})), "/webhook/secret", "invalid_secret", "whsec_"),
        (with("/webhook", json!({"url": "https://x", "secret": "whsec_aHVudGVyMg=="})), "/webhook/secret", "invalid_secret", "openssl"),
        (with("/webhook", json!({"url": "https://x", "secret": "whsec_***"})), "/webhook/secret", "invalid_secret", "itself"),
        (with("/webhook", json!({"url": "https://x", "secret": SECRET, "events": []})), "/webhook/events", "empty", "job.started"),
        (
            with("/webhook", json!({"url": "https://x", "secret": SECRET, "events": ["job.complete"]})),
            "/webhook/events/0",
            "unknown_value",
            "\"job.completed\"",
        ),
        (
            with("/webhook", json!({"url": "https://x", "secret": SECRET, "event": ["job.failed"]})),
            "/webhook/event",
            "unknown_field",
            "\"events\"",
        ),
        (with("/wait_for", json!("s3://lake/_SUCCESS")), "/wait_for", "wrong_type", "{"),
        (with("/wait_for", json!({"timeout": "4h"})), "/wait_for/uri", "missing", "_SUCCESS"),
        (with("/wait_for", json!({"uri": "s3://lake/tx/"})), "/wait_for/uri", "invalid_uri", "_SUCCESS"),
        (with("/wait_for", json!({"uri": "s3://lake/x", "timeout": 4})), "/wait_for/timeout", "wrong_type", "\"6h\""),
        (with("/wait_for", json!({"url": "s3://lake/x"})), "/wait_for/url", "unknown_field", "\"uri\""),
        (with("/depends_on", json!("job_1")), "/depends_on", "wrong_type", "["),
        (with("/depends_on", json!([1])), "/depends_on/0", "wrong_type", "quotes"),
        (
            with("/depends_on", json!(["job_019ac2f7b0f47e0f8a1b2c3d4e5f6071", "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"])),
            "/depends_on/1",
            "repeated",
            "once",
        ),
        (with("/labels", json!({"team": 1})), "/labels/team", "wrong_type", "quotes"),
        (with("/labels", json!({"team": null})), "/labels/team", "wrong_type", "quotes"),
        (with("/labels", json!({"a/b": "x".repeat(257)})), "/labels/a~1b", "too_long", "shorten"),
        (with("/labels", json!({"": "x"})), "/labels/", "empty_key", "team"),
        (with("/labels", json!(["risk"])), "/labels", "wrong_type", "{"),
    ];
    assert!(mistakes.len() >= 40);
    for (definition, pointer, code, hint) in mistakes {
        let faults = definition::read(&definition, &providers()).expect_err(&definition.to_string());
        let found = faults.iter().find(|f| f.pointer == pointer && f.code == code);
        let found = found.unwrap_or_else(|| panic!("{definition}\nwants {code} at {pointer:?}, has {faults:?}"));
        let said = found.hint.as_deref().unwrap_or_default();
        assert!(said.contains(hint), "{definition}\n{said:?} does not say {hint:?}");
        assert!(found.detail.len() > 5, "{found:?}");
    }
}

#[test]
fn one_mistake_makes_one_fault() {
    for definition in [with("/modle", json!("x")), with("/input/format", json!("parqet")), with("/output", json!("s3://lake/tx/scores/"))] {
        let faults = definition::read(&definition, &providers()).unwrap_err();
        assert_eq!(faults.len(), 1, "{definition}: {faults:?}");
    }
}

#[test]
fn what_is_wrong_with_a_secret_is_said_without_the_secret() {
    let hooks = [json!("hunter2"), json!(["hunter2"]), json!({"url": "https://u:hunter2@x", "secret": "hunter2"})];
    let more = [json!({"url": 1, "secret": {"hunter2": 1}}), json!({"url": "hunter2", "secret": "whsec_hunter2"})];
    for hook in hooks.into_iter().chain(more) {
        let faults = definition::read(&with("/webhook", hook.clone()), &providers()).unwrap_err();
        assert!(!format!("{faults:?}").contains("hunter2"), "{hook}: {faults:?}");
    }
    let spec = definition::read(&with("/webhook", json!({"url": "https://x", "secret": SECRET})), &providers()).unwrap();
    assert!(!format!("{spec:?}").contains(&SECRET[6..]), "{spec:?}");
    assert_eq!(spec.webhook.unwrap().events, EventKind::ENDS);
}

#[test]
fn every_fault_is_listed_at_once() {
    let definition =
        json!({"model": 1, "input": {"uri": "x", "format": "y"}, "output": {}, "pipeline": {"z": 1}, "execution": {"priority": "high"}});
    let faults = definition::read(&definition, &providers()).unwrap_err();
    let pointers: Vec<&str> = faults.iter().map(|f| f.pointer.as_str()).collect();
    assert_eq!(pointers, ["/model", "/input/uri", "/input/format", "/output/uri", "/pipeline/z", "/execution/priority"]);
}

#[test]
fn the_short_and_the_full_form_are_read() {
    let spec = definition::read(&good(), &providers()).unwrap();
    assert_eq!((spec.input.format, spec.output.format, spec.execution.max_attempts), (InputFormat::Auto, OutputFormat::Jsonl, 4));
    let full = json!({
        "name": "n", "labels": {"team": "risk"}, "model": {"uri": "s3://models/fraud"},
        "input": {"uri": "s3://lake/tx/", "format": "auto", "compression": "auto", "include": ["**/*.parquet"], "exclude": [], "manifest": null,
                  "csv": {"delimiter": "\t", "header": true}},
        "output": {"uri": "s3://lake/scores", "format": "parquet", "compression": "none", "include_input": ["id", "amount"], "prediction_prefix": "p_",
                   "layout": "parts", "if_exists": "fail"},
        "pipeline": {"task": "tabular-regression", "missing": "nan", "activation": "auto", "top_k": 1},
        "execution": {"batch_size": "auto", "chunk_records": null, "priority": 0, "max_parallel_chunks": null, "max_attempts": 4, "deadline": "6h",
                      "providers": ["cuda", "cpu"]},
        "error_policy": {"max_failed_records": null, "max_failed_ratio": null}, "webhook": null
    });
    let spec = definition::read(&full, &providers()).unwrap();
    assert_eq!((spec.model.to_string().as_str(), spec.output.uri.to_string().as_str()), ("s3://models/fraud/", "s3://lake/scores/"));
    assert_eq!(spec.output.include_input, IncludeInput::Columns(vec!["id".to_owned(), "amount".to_owned()]));
    assert_eq!((spec.input.csv.delimiter, spec.execution.deadline_seconds), (b'\t', Some(21_600)));
}

#[test]
fn a_pipeline_section_means_in_a_job_what_it_means_in_a_models_folder() {
    let section = json!({
        "task": "image-classification", "labels": ["safe", "unsafe"], "activation": "softmax", "top_k": 2, "probabilities": true,
        "image": {"column": "photo", "source": "key", "size": 256, "resize": "shortest_edge", "position": "top_left", "resample": "bicubic", "crop": [224, 224], "pad": [256, 256],
                  "pad_value": 114, "channels": "BGR", "layout": "NHWC", "scale": 1.0, "mean": [104, 117, 123], "std": [1, 1, 1], "alpha": "drop"},
        "text": {"column": "body", "pair": "title", "max_length": 128},
        "threshold": 0.25, "iou_threshold": 0.45, "pooling": "cls", "normalize": true, "dimensions": 64, "outputs": ["y"],
        "flags": {"needs_review": {"any_of": ["unsafe"], "min_score": 0.6}, "odd": {"any_of": ["safe"]}, "unsure": {"top_below": 0.5}}
    });
    let job = definition::read(&with("/pipeline", section.clone()), &providers()).unwrap().pipeline;
    let folder: PipelineSpec = serde_json::from_value(section).unwrap();
    assert_eq!(job, folder);
    assert_eq!((job.image.unwrap().size, job.flags.unwrap().len()), (Some(vec![256]), 3));
}

#[test]
fn a_field_that_stands_twice_is_refused_with_its_place() {
    let error = read::parse(b"{\"model\": \"a\",\n \"model\": \"b\"}").unwrap_err();
    assert!(error.contains("\"model\" stands twice") && error.contains("line 2"), "{error}");
}

/// What the document says can be given is what is read, field by field.
#[test]
fn the_document_names_the_fields_that_are_read() {
    let document = serde_json::to_value(openapi()).unwrap();
    let documented = |schema: &str| -> Vec<String> {
        let mut names: Vec<String> = document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let known = |fields: &[&str]| -> Vec<String> {
        let mut names: Vec<String> = fields.iter().map(|f| (*f).to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(documented("JobDefinition"), known(&definition::JOB));
    assert_eq!(documented("InputDefinition"), known(&definition::INPUT));
    assert_eq!(documented("CsvDefinition"), known(&definition::CSV));
    assert_eq!(documented("OutputDefinition"), known(&definition::OUTPUT));
    assert_eq!(documented("TableDefinition"), known(&definition::TABLE));
    assert_eq!(documented("ReviewDefinition"), known(&definition::REVIEW));
    assert_eq!(documented("PipelineDefinition"), known(&pipeline::PIPELINE));
    assert_eq!(documented("ImageDefinition"), known(&pipeline::IMAGE));
    assert_eq!(documented("TextDefinition"), known(&pipeline::TEXT));
    assert_eq!(documented("FlagDefinition"), known(&pipeline::FLAG));
    assert_eq!(documented("ExecutionDefinition"), known(&definition::EXECUTION));
    assert_eq!(documented("DriftDefinition"), known(&definition::DRIFT));
    assert_eq!(documented("ErrorPolicyDefinition"), known(&definition::ERROR_POLICY));
    assert_eq!(documented("BudgetDefinition"), known(&definition::BUDGET));
    assert_eq!(documented("ModelDefinition"), known(&definition::MODEL));
    assert_eq!(documented("Registration"), known(&models::REGISTRATION));
    assert_eq!(documented("WebhookDefinition"), known(&webhook::WEBHOOK));
    assert_eq!(documented("WaitDefinition"), known(&waits::WAIT_FOR));
    assert_eq!(documented("ScheduleDefinition"), known(&schedule_definition::SCHEDULE));
}

#[test]
fn the_example_of_a_pipeline_section_is_a_good_one() {
    let document = serde_json::to_value(openapi()).unwrap();
    let schema = &document["components"]["schemas"]["PipelineDefinition"];
    assert_eq!(schema["title"], "nightshift.json");
    definition::read(&with("/pipeline", schema["example"].clone()), &providers()).unwrap();
    fits(&document, schema, &schema["example"]).unwrap();
}

#[test]
fn the_document_is_openapi_3_1_and_every_operation_has_an_example() {
    let document = serde_json::to_value(openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let text = operation["responses"].to_string();
            assert!(text.contains("\"example\""), "{method} {path} has no example");
            assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{method} {path} has no summary");
            operations += 1;
        }
    }
    assert!(operations >= 16, "{operations}");
}

#[test]
fn the_examples_of_the_document_are_good_definitions() {
    let document = serde_json::to_value(openapi()).unwrap();
    let examples = &document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"];
    for (name, example) in examples.as_object().unwrap() {
        definition::read(&example["value"], &providers()).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
    }
    assert_eq!(examples.as_object().unwrap().len(), 2);
}

fn input() -> impl Strategy<Value = InputSpec> {
    let globs = || prop::collection::vec("[a-z*]{1,6}\\.csv", 0..3);
    let words = (select(definition::FORMATS.to_vec()), select(definition::COMPRESSIONS.to_vec()));
    let csv = (select(b",;\t| ~".to_vec()), any::<bool>());
    let uri = Uri::parse("s3://lake/in/ä %20/").unwrap();
    let kind = select(vec![InputKind::Objects, InputKind::Manifest]);
    (words, globs(), globs(), csv, kind).prop_map(move |((format, compression), include, exclude, (delimiter, header), kind)| InputSpec {
        uri: if kind == InputKind::Manifest { uri.join("m.jsonl.gz") } else { uri.clone() },
        kind,
        format: format.1,
        compression: compression.1,
        include: if kind == InputKind::Manifest { Vec::new() } else { include },
        exclude: if kind == InputKind::Manifest { Vec::new() } else { exclude },
        csv: CsvOptions { delimiter, header },
    })
}

fn output() -> impl Strategy<Value = OutputSpec> {
    let include = prop_oneof![
        Just(IncludeInput::None),
        Just(IncludeInput::All),
        prop::collection::vec("\\PC{1,8}", 0..4).prop_map(IncludeInput::Columns)
    ];
    let uri = Uri::parse("s3://lake/out/").unwrap();
    let words = (select(definition::OUTPUT_FORMATS.to_vec()), select(definition::OUTPUT_COMPRESSIONS.to_vec()));
    let review = option::of(prop::collection::vec("[a-z]{1,5}", 1..3).prop_map(|when| {
        let uri = Uri::parse("s3://lake/review/").unwrap();
        ReviewSpec { uri, when }
    }));
    let words = words.prop_filter("refused", |(format, compression)| (format.0, compression.0) != ("parquet", "gzip"));
    let if_exists = select(definition::IF_EXISTS.to_vec());
    let modes = select(vec![(TableMode::ReplaceChunk, Vec::new()), (TableMode::Upsert, vec!["id".to_owned(), "day".to_owned()])]);
    let choices = (any::<bool>(), any::<bool>());
    let table = option::of((modes, choices, select(vec!["scores", "risk.scores"])).prop_map(|((mode, key), (create, parts), name)| {
        TableSpec { connection: "warehouse".to_owned(), table: TableName::try_from(name.to_owned()).unwrap(), mode, key, create, parts }
    }));
    (words, include, "[a-z_]{0,5}", if_exists, review, table).prop_map(
        move |((format, compression), include_input, prediction_prefix, if_exists, review, table)| OutputSpec {
            uri: uri.clone(),
            format: format.1,
            compression: compression.1,
            include_input,
            prediction_prefix,
            layout: Layout::Parts,
            // A review queue takes no earlier one's place.
            if_exists: if review.is_some() { IfExists::Fail } else { if_exists.1 },
            review,
            table,
        },
    )
}

fn execution() -> impl Strategy<Value = ExecutionSpec> {
    let sizes = (option::of(1..=65_536_u32), option::of(1..=i64::MAX as u64), option::of(1..=100_000_u32));
    let deadline = option::of(prop_oneof![1..200_u64, (1..200_u64).prop_map(|n| n * 60), (1..200_u64).prop_map(|n| n * 3600)]);
    let providers = prop::sample::subsequence(providers(), 0..=3);
    (sizes, -100..=100_i32, 1..=100_u32, deadline, providers).prop_map(|(sizes, priority, max_attempts, deadline_seconds, providers)| {
        let (batch_size, chunk_records, max_parallel_chunks) = sizes;
        ExecutionSpec { batch_size, chunk_records, priority, max_parallel_chunks, max_attempts, deadline_seconds, providers }
    })
}

proptest! {
    /// What a job shows of its definition can be posted as it stands, and means the same.
    #[test]
    fn what_a_job_gives_back_is_read_to_the_same_job(
        input in input(), output in output(), execution in execution(),
        max_failed_records in option::of(0..=i64::MAX as u64), failed_per_mille in option::of(0..=1000_u32),
        threshold in option::of(option::of(1..1000_u32)),
    ) {
        // Shares as people write them: serde_json reads a number of 17 digits to within one unit in the last place only.
        let max_failed_ratio = failed_per_mille.map(|n| f64::from(n) / 1000.0);
        let error_policy = ErrorPolicy { max_failed_records, max_failed_ratio };
        let drift = threshold.map(|threshold| DriftSpec { against: None, threshold: threshold.map(|n| f64::from(n) / 100.0) });
        let given_back = json!({
            "model": "s3://models/fraud/",
            "input": InputDefinition::from(&input),
            "output": OutputDefinition::from(&output),
            "execution": ExecutionDefinition::from(&execution),
            "error_policy": ErrorPolicyDefinition::from(&error_policy),
            "drift": drift.as_ref().map(DriftDefinition::from),
        });
        let posted = read::parse(given_back.to_string().as_bytes()).unwrap();
        let spec = definition::read(&posted, &providers()).map_err(|faults| TestCaseError::fail(format!("{faults:?}")))?;
        let wanted = JobSpec {
            name: None, labels: Default::default(), model: Uri::parse("s3://models/fraud/").unwrap(), pipeline: Default::default(),
            input, output, execution, error_policy, drift, budget: None, webhook: None, wait_for: None, depends_on: Vec::new(),
        };
        prop_assert_eq!(spec, wanted);
    }

    #[test]
    fn a_span_is_read_back_as_it_was(seconds in 1..=10 * 366 * 86_400_u64) {
        prop_assert_eq!(time::parse_span(&time::write_span(seconds)), Some(seconds));
    }

    #[test]
    fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9 ]{0,60}") {
        if let Ok(value) = read::parse(body.as_bytes()) {
            let _refused_or_not = definition::read(&value, &providers());
        }
    }
}

/// The schema that a reference names, or the one given.
fn schema<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} leads nowhere")),
        None => schema,
    }
}

/// Whether `value` is one that `wanted` allows, as far as this document's keywords go; says where it is not.
fn fits(document: &Value, wanted: &Value, value: &Value) -> Result<(), String> {
    let wanted = schema(document, wanted);
    if let Some(choices) = wanted["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| fits(document, choice, value).is_ok()).count();
        return if fitting == 1 { Ok(()) } else { Err(format!("{value} fits {fitting} of {choices:?}")) };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() || n.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match &wanted["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let is_number = kind == "integer" && types.contains(&"number");
    if !types.contains(&kind) && !is_number {
        return Err(format!("{value} is no {types:?}"));
    }
    if wanted["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return Err(format!("{value} is none of {}", wanted["enum"]));
    }
    for item in value.as_array().into_iter().flatten() {
        fits(document, &wanted["items"], item)?;
    }
    if let (Value::Object(fields), Some(properties)) = (value, wanted["properties"].as_object()) {
        for name in wanted["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            fields.get(name).ok_or_else(|| format!("{name} is missing in {value}"))?;
        }
        for (name, field) in fields {
            let property = properties.get(name).ok_or_else(|| format!("{name} is not in the schema"))?;
            fits(document, property, field).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn the_examples_of_the_document_fit_their_schemas() {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut compared = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let answers = operation["responses"].as_object().unwrap().values();
            for content in
                answers.chain([&operation["requestBody"]]).filter_map(|body| body["content"].as_object()).flat_map(|c| c.values())
            {
                let several = content["examples"].as_object().into_iter().flat_map(|e| e.values()).map(|example| &example["value"]);
                for example in several.chain(content.get("example")).filter(|_| content["schema"]["type"] != "array") {
                    fits(&document, &content["schema"], example).unwrap_or_else(|why| panic!("{method} {path}: {why}"));
                    compared += 1;
                }
            }
        }
    }
    assert!(compared >= 10, "{compared}");
}

#[test]
fn every_field_of_the_document_is_described() {
    let document = serde_json::to_value(openapi()).unwrap();
    for (name, described) in document["components"]["schemas"].as_object().unwrap() {
        for (field, property) in described["properties"].as_object().into_iter().flatten() {
            let choices = property["oneOf"].as_array().into_iter().flatten();
            let texts = choices.chain([property]).flat_map(|choice| [&choice["description"], &schema(&document, choice)["description"]]);
            assert!(texts.into_iter().any(Value::is_string), "{name}.{field}: {property}");
        }
    }
}

#[test]
fn every_problem_in_the_document_has_its_media_type_and_schema() {
    let document = serde_json::to_value(openapi()).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            // The Open Inference Protocol has a form of its own for errors.
            let responses = operation["responses"].as_object().unwrap().iter().filter(|_| !path.starts_with("/v2"));
            for (status, answer) in responses.filter(|(status, _)| status.as_str() >= "400") {
                let schema = &answer["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}");
            }
        }
    }
}

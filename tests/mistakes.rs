//! Typical mistakes in job definitions: each is answered by a problem that says where, what and what to do.
//!
//! The snapshot is meant to be read, as a stranger to the service would read the answers. After a change of words:
//! `INSTA_UPDATE=always scripts/test --test mistakes`, and read the difference.

mod support;

use std::fmt::Write;

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions};

/// What is sent: a good definition with some fields set, or a body as it stands.
enum Sent {
    With(Vec<(&'static str, Value)>),
    Without(&'static str),
    Body(&'static str),
}

use Sent::{Body, With, Without};

fn with(pointer: &'static str, value: Value) -> Sent {
    With(vec![(pointer, value)])
}

fn mistakes() -> Vec<(&'static str, Sent)> {
    vec![
        ("nothing is sent", Body("")),
        ("YAML is sent", Body("model: s3://lake/model/\ninput: s3://lake/in/\noutput: s3://lake/out/\n")),
        ("a comma too many", Body("{\n  \"model\": \"s3://lake/model/\",\n  \"input\": \"s3://lake/in/\",\n}")),
        ("single quotes", Body("{'model': 's3://lake/model/'}")),
        ("the end is cut off", Body("{\"model\": \"s3://lake/model/\", \"input\": \"s3://la")),
        ("two definitions, line by line", Body("{\"model\": \"s3://lake/model/\"}\n{\"model\": \"s3://lake/model/\"}")),
        ("a field twice", Body("{\"model\": \"s3://lake/model/\",\n \"model\": \"s3://lake/other/\"}")),
        ("a list of jobs", Body("[{\"model\": \"s3://lake/model/\"}]")),
        ("an empty object", Body("{}")),
        ("no output", Without("output")),
        ("a misspelt field", with("/modle", json!("s3://lake/model/"))),
        ("a field in the wrong place", with("/format", json!("csv"))),
        ("a misspelt value", with("/input/format", json!("parqet"))),
        ("a value in capitals", with("/input/format", json!("CSV"))),
        ("a format that is not read", with("/input/format", json!("xlsx"))),
        ("a glob that is no list", with("/input/include", json!("**/*.csv"))),
        ("a delimiter by name", with("/input/csv/delimiter", json!("tab"))),
        ("a delimiter of two characters", with("/input/csv/delimiter", json!("||"))),
        ("a flag in quotes", with("/input/csv/header", json!("true"))),
        ("no scheme", with("/input", json!("lake/in/"))),
        ("a path of this machine", with("/input", json!("/data/in/"))),
        ("a Windows path", with("/input", json!("C:\\data\\in"))),
        ("a web address", with("/input", json!("http://example.com/in.csv"))),
        ("a bucket's web address", with("/input", json!("https://lake.s3.eu-central-1.amazonaws.com/in/a.csv"))),
        ("no bucket", with("/input", json!("s3:///in/"))),
        ("two slashes", with("/input", json!("s3://lake//in/"))),
        ("credentials in a location", with("/input", json!("s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY@lake/in/"))),
        ("a folder outside the roots", with("/input", json!("file:///etc/"))),
        ("output inside the input", with("/output", json!("s3://lake/in/scores/"))),
        ("include_input as one text", with("/output/include_input", json!("age"))),
        ("include_input twice the same", with("/output/include_input", json!(["age", "age"]))),
        ("an input column named as a prediction", with("/output/include_input", json!(["prediction"]))),
        ("a Python file for a model", with("/model", json!("s3://lake/pickle/model.pkl"))),
        ("a model folder without ONNX", with("/model", json!("s3://lake/pickle/"))),
        ("a model folder that does not exist", with("/model", json!("s3://lake/modell/"))),
        ("a bucket that does not exist", with("/model", json!("s3://lak/model/"))),
        ("a model that is no ONNX", with("/model", json!("s3://lake/broken/model.onnx"))),
        ("several ONNX files", with("/model", json!("s3://lake/several/"))),
        ("a task by its short name", with("/pipeline/task", json!("regression"))),
        (
            "a task that the model cannot do",
            With(vec![("/model", json!("s3://lake/churn/")), ("/pipeline/task", json!("tabular-regression"))]),
        ),
        ("features that are too few", with("/pipeline/features", json!(["age", "bmi"]))),
        ("an output that the model has not", with("/pipeline/outputs", json!(["probabilities"]))),
        ("an input that the model has not", with("/pipeline/columns", json!({"Age": "age"}))),
        ("labels of the wrong number", With(vec![("/model", json!("s3://lake/churn/")), ("/pipeline/labels", json!(["yes"]))])),
        ("a batch size of nothing", with("/execution/batch_size", json!(0))),
        ("a number in quotes", with("/execution/chunk_records", json!("1000"))),
        ("a negative number", with("/execution/max_attempts", json!(-1))),
        ("a priority beyond the scale", with("/execution/priority", json!(1000))),
        ("a deadline without a unit", with("/execution/deadline", json!(3600))),
        ("a deadline in words", with("/execution/deadline", json!("6 hours"))),
        ("a provider by its everyday name", with("/execution/providers", json!(["gpu"]))),
        ("a share in percent", with("/error_policy/max_failed_ratio", json!(5))),
        ("a label that is a number", with("/labels", json!({"run": 7}))),
        ("a label with a secret", with("/labels", json!({"aws_secret_access_key": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"}))),
        ("a label with an access key", with("/labels", json!({"owner": "AKIAIOSFODNN7EXAMPLE"}))),
    ]
}

/// The good definition, changed.
fn body(sent: &Sent) -> String {
    let mut definition = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"});
    match sent {
        Body(text) => return (*text).to_owned(),
        Without(field) => drop(definition.as_object_mut().unwrap().remove(*field)),
        With(fields) => {
            for (pointer, value) in fields {
                let names: Vec<&str> = pointer.split('/').skip(1).collect();
                let mut at = &mut definition;
                for name in &names[..names.len() - 1] {
                    let object = at.as_object_mut().unwrap().entry(*name).or_insert(json!({}));
                    if let Some(uri) = object.as_str().map(str::to_owned) {
                        *object = json!({"uri": uri});
                    }
                    at = object;
                }
                at.as_object_mut().unwrap().insert((*names.last().unwrap()).to_owned(), value.clone());
            }
        }
    }
    definition.to_string()
}

#[tokio::test]
async fn forty_typical_mistakes_are_each_answered_with_where_what_and_what_to_do() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put_fixture("models/churn-lightgbm", "lake", "churn/");
    s3.put("lake", "pickle/model.pkl", b"\x80\x04K\x01.");
    s3.put("lake", "broken/model.onnx", b"no model at all");
    s3.put("lake", "several/a.onnx", b"x");
    s3.put("lake", "several/b.onnx", b"x");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let mistakes = mistakes();
    assert!(mistakes.len() >= 40);
    let mut page = String::new();
    let mut silent: Vec<String> = Vec::new();
    for (title, sent) in &mistakes {
        let request = service.client().post(service.url("/v1/jobs")).header("content-type", "application/json").body(body(sent));
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let problem: Value = answer.json().await.unwrap();
        assert!(status == 400 || status == 422, "{title}: {status} {problem:#}");
        let shown = match sent {
            Body(text) => format!("{text:?}"),
            Without(field) => format!("without {field}"),
            With(fields) => fields.iter().map(|(pointer, value)| format!("{pointer} = {value}")).collect::<Vec<_>>().join(", "),
        };
        writeln!(page, "{title}\n    {shown}\n{status} {}", problem["title"].as_str().unwrap()).unwrap();
        let faults = problem["errors"].as_array().unwrap_or_else(|| panic!("{title}: {problem:#}"));
        assert!(!faults.is_empty(), "{title}");
        for fault in faults {
            let text = |name: &str| fault[name].as_str().unwrap_or_default();
            let (pointer, detail, hint) = (text("pointer"), text("detail"), text("hint"));
            if detail.is_empty() || hint.is_empty() || !fault["pointer"].is_string() {
                silent.push(format!("{title}: {fault}"));
            }
            let place = if pointer.is_empty() { "(the body)" } else { pointer };
            writeln!(page, "  {place}  {}\n    {detail}\n    → {hint}", text("code")).unwrap();
        }
        for secret in ["wJalrXUtn", "AKIAIOSF"] {
            assert!(!problem.to_string().contains(secret), "{title}: a secret is not repeated: {problem:#}");
        }
        page.push('\n');
    }
    for secret in ["wJalrXUtn", "AKIAIOSF"] {
        assert!(!service.log().contains(secret), "a secret is not logged");
    }
    insta::assert_snapshot!(page);
    assert!(silent.is_empty(), "these lack a pointer, a detail or a hint: {silent:#?}");
}

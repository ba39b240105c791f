//! Models by name: versions, aliases that move, jobs that pin what they meant, other programs' folders, and trying a model out.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
    golden::{self, Output, agree},
};

const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    s3: S3Server,
    service: Service,
}

impl Bench {
    async fn start() -> Self {
        let s3 = S3Server::start().await;
        s3.create_bucket("lake");
        let service = Service::start(&s3, ServiceOptions::default()).await;
        Self { s3, service }
    }

    async fn register(&self, name: &str, uri: &str) -> (u16, Value) {
        self.service.post("/v1/models", &json!({"name": name, "uri": uri})).await
    }

    async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.service.client().put(self.service.url(path)).json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Submits a job over the diabetes data that must be accepted, and waits for its end.
    async fn run(&self, model: Value, output: &str) -> Value {
        let definition = json!({"model": model, "input": "s3://lake/diabetes/", "output": format!("s3://lake/{output}/")});
        let id = self.service.submit(&definition).await;
        self.service.wait(&id, PATIENCE).await
    }
}

fn fault(problem: &Value) -> (&str, &str) {
    (problem["errors"][0]["pointer"].as_str().unwrap_or_default(), problem["errors"][0]["code"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn versions_count_up_and_a_digest_keeps_its_own() {
    let b = Bench::start().await;
    b.s3.put_fixture("models/diabetes-ridge", "lake", "models/ridge/");
    b.s3.put_fixture("models/churn-pipeline", "lake", "models/churn/");
    let (status, first) = b.register("risk", "s3://lake/models/ridge/").await;
    assert_eq!((status, &first["version"], &first["name"]), (201, &json!(1), &json!("risk")), "{first:#}");
    assert_eq!(first["pipeline"]["task"], "tabular-regression");
    assert_eq!((&first["inputs"][0]["dtype"], first["digest"].as_str().map(str::len)), (&json!("FP32"), Some(64)));
    assert_eq!(b.register("risk", "s3://lake/models/churn/").await.1["version"], 2);
    let (status, again) = b.register("risk", "s3://lake/models/ridge/").await;
    assert_eq!((status, &again), (200, &first));
    assert_eq!(b.register("other", "s3://lake/models/churn/").await.1["version"], 1);

    let (_, models) = b.service.get("/v1/models").await;
    let listed: Vec<_> =
        models["items"].as_array().unwrap().iter().map(|m| (m["name"].as_str().unwrap(), m["newest_version"].as_u64())).collect();
    assert_eq!(listed, [("other", Some(1)), ("risk", Some(2))]);
    let (_, page) = b.service.get("/v1/models/risk?limit=1").await;
    assert_eq!((&page["items"][0]["version"], &page["next_cursor"]), (&json!(2), &json!("2")));
    assert_eq!(b.service.get("/v1/models/risk?cursor=2").await.1["items"], json!([first]));
    assert_eq!(b.service.get("/v1/models/risk/versions/1").await.1, first);
    for missing in ["/v1/models/none", "/v1/models/risk/versions/3", "/v1/models/risk/versions/production", "/v1/models/a%2Fb"] {
        assert_eq!(b.service.status(missing).await, 404, "{missing}");
    }
    for (body, pointer, code) in [
        (json!({"name": "a/b", "uri": "s3://lake/models/ridge/"}), "/name", "invalid_name"),
        (json!({"uri": "s3://lake/models/ridge/"}), "/name", "missing"),
        (json!({"name": "x"}), "/uri", "missing"),
        (json!({"name": "x", "uri": "s3://lake/nothing/"}), "/uri", "object_not_found"),
        (json!({"name": "x", "uri": "s3://lake/model.pkl"}), "/uri", "unsupported_model"),
        (json!({"name": "x", "uri": "s3://lake/models/ridge/", "version": 3}), "/version", "unknown_field"),
    ] {
        let (status, problem) = b.service.post("/v1/models", &body).await;
        assert_eq!((status, fault(&problem)), (422, (pointer, code)), "{problem:#}");
    }
}

#[tokio::test]
async fn a_job_pins_what_its_alias_meant_and_the_alias_moves_on() {
    let b = Bench::start().await;
    b.s3.put_fixture("models/diabetes-ridge", "lake", "models/one/");
    b.s3.put_fixture("models/diabetes-ridge", "lake", "models/two/");
    b.s3.put("lake", "models/two/nightshift.json", br#"{"task": "raw"}"#);
    b.s3.put_fixture("data/diabetes/jsonl", "lake", "diabetes/");
    let (_, one) = b.register("risk", "s3://lake/models/one/").await;
    let (_, two) = b.register("risk", "s3://lake/models/two/").await;
    let (status, moved) = b.put("/v1/models/risk/aliases/production", &json!({"version": 1})).await;
    assert_eq!((status, &moved["aliases"]), (200, &json!(["production"])), "{moved:#}");

    let by_alias = b.run(json!({"name": "risk", "alias": "production"}), "a").await;
    assert_eq!(by_alias["state"], "completed", "{by_alias:#}");
    let model = &by_alias["model"];
    assert_eq!((&model["name"], &model["version"], &model["alias"]), (&json!("risk"), &json!(1), &json!("production")));
    assert_eq!((&model["digest"], &model["uri"]), (&one["digest"], &json!("s3://lake/models/one/")));

    b.put("/v1/models/risk/aliases/production", &json!({"version": 2})).await;
    let moved = b.run(json!("risk@production"), "b").await;
    assert_eq!((&moved["model"]["version"], &moved["model"]["digest"]), (&json!(2), &two["digest"]), "{moved:#}");
    assert_eq!(moved["pipeline"]["task"], "raw", "settings come with the version");
    assert_eq!(b.service.job(by_alias["id"].as_str().unwrap()).await["model"], by_alias["model"], "what was accepted stays");
    let by_version = b.run(json!({"name": "risk", "version": 1}), "c").await;
    assert_eq!((&by_version["model"]["version"], &by_version["model"]["alias"]), (&json!(1), &json!(null)));
    assert_eq!(b.run(json!({"uri": "risk@1"}), "d").await["model"]["version"], 1, "as --model of the command line sends it");

    let delete = async || {
        let request = b.service.client().delete(b.service.url("/v1/models/risk/aliases/production"));
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((delete().await, delete().await), (204, 404));
    for (model, pointer, code) in [
        (json!({"name": "risk", "alias": "production"}), "/model", "unknown_version"),
        (json!("risk@9"), "/model", "unknown_version"),
        (json!("fraud@production"), "/model", "unknown_model"),
        (json!({"name": "risk"}), "/model", "missing"),
        (json!({"name": "risk", "version": 1, "alias": "x"}), "/model/alias", "two_versions"),
        (json!({"name": "risk", "version": 1, "uri": "s3://lake/models/one/"}), "/model/uri", "two_models"),
        (json!({"name": "risk", "version": 0}), "/model/version", "out_of_range"),
        (json!({"name": "r/k", "version": 1}), "/model/name", "invalid_name"),
        (json!({"uri": "s3://lake/models/one/", "version": 1}), "/model/version", "missing_name"),
    ] {
        let definition = json!({"model": model, "input": "nowhere", "output": "s3://lake/x/"});
        let (status, problem) = b.service.post("/v1/jobs", &definition).await;
        assert_eq!((status, fault(&problem)), (422, (pointer, code)), "{problem:#}");
        assert!(problem["errors"].as_array().unwrap().iter().any(|e| e["pointer"] == "/input"), "every fault at once: {problem:#}");
    }
    for (alias, body, status) in [("7", json!({"version": 1}), 422), ("x", json!({"version": 9}), 422), ("x", json!({}), 422)] {
        assert_eq!(b.put(&format!("/v1/models/risk/aliases/{alias}"), &body).await.0, status, "{alias} {body}");
    }
    assert_eq!(b.put("/v1/models/none/aliases/x", &json!({"version": 1})).await.0, 404);
}

#[tokio::test]
async fn a_version_whose_object_changed_is_run_from_what_was_pinned_or_not_at_all() {
    let b = Bench::start().await;
    b.s3.put_fixture("models/diabetes-ridge", "lake", "models/risk/");
    b.s3.put_fixture("data/diabetes/jsonl", "lake", "diabetes/");
    let (_, registered) = b.register("risk", "s3://lake/models/risk/").await;
    b.s3.put("lake", "models/risk/nightshift.json", br#"{"task": "raw"}"#);
    let kept = b.run(json!("risk@1"), "a").await;
    assert_eq!((&kept["state"], &kept["model"]["digest"]), (&json!("completed"), &registered["digest"]), "{kept:#}");
    assert_eq!(kept["pipeline"]["task"], registered["pipeline"]["task"]);
    // Nobody has its files any more.
    std::fs::remove_dir_all(b.service.data_dir().join("models")).unwrap();
    let definition = json!({"model": "risk@1", "input": "s3://lake/diabetes/", "output": "s3://lake/b/"});
    let (status, problem) = b.service.post("/v1/jobs", &definition).await;
    assert_eq!((status, fault(&problem)), (422, ("/model", "model_changed")), "{problem:#}");
    let (_, next) = b.register("risk", "s3://lake/models/risk/").await;
    assert_eq!(next["version"], 2, "what lies there now is another version");
}

#[tokio::test]
async fn folders_of_mlflow_and_of_triton_are_models() {
    let b = Bench::start().await;
    let ridge = support::fixture("models/diabetes-ridge/model.onnx");
    let churn = support::fixture("models/breast-cancer-double/model.onnx");
    b.s3.put_fixture("data/diabetes/jsonl", "lake", "diabetes/");
    let put = |key: &str, bytes: &[u8]| b.s3.put("lake", key, bytes);
    put(
        "mlflow/MLmodel",
        b"flavors:\n  onnx:\n    data: graph.onnx\n    onnx_version: 1.19.0\n  python_function:\n    loader_module: mlflow.onnx\n",
    );
    put("mlflow/graph.onnx", &ridge);
    put("mlflow/other/second.onnx", &churn);
    put("mlflow/requirements.txt", b"onnx");
    let config =
        b"name: \"risk\"\nbackend: \"onnxruntime\"\nmax_batch_size: 8\ninput [ { name: \"X\" data_type: TYPE_FP32 dims: [ 10 ] } ]\n";
    put("triton/config.pbtxt", config);
    put("triton/1/model.onnx", &churn);
    put("triton/2/model.onnx", &churn);
    put("triton/10/model.onnx", &ridge);
    put("triton/011/model.onnx", &churn);
    put("pinned/config.pbtxt", b"platform: \"onnxruntime_onnx\"\nversion_policy: { specific { versions: [1] } }");
    put("pinned/1/model.onnx", &ridge);
    put("pinned/2/model.onnx", &churn);
    put("bare/1/model.onnx", &churn);
    put("bare/2/model.onnx", &ridge);
    let want = golden::expected("diabetes-ridge.jsonl");
    for (folder, file) in [
        ("mlflow/", "graph.onnx"),
        ("triton/", "10/model.onnx"),
        ("triton/10/", "model.onnx"),
        ("pinned/", "1/model.onnx"),
        ("bare/", "2/model.onnx"),
    ] {
        let output = format!("out/{}", folder.trim_end_matches('/').replace('/', "-"));
        let definition =
            json!({"model": format!("s3://lake/{folder}"), "input": "s3://lake/diabetes/", "output": format!("s3://lake/{output}/")});
        let id = b.service.submit(&definition).await;
        let job = b.service.wait(&id, PATIENCE).await;
        assert_eq!((&job["state"], &job["model"]["file"]), (&json!("completed"), &json!(file)), "{folder}: {job:#}");
        let rows = Output::read(&b.s3, "lake", &format!("{output}/")).rows;
        assert_eq!(rows.len(), want.len(), "{folder}");
        // The graph alone says no task: its output is a column of the name it has there.
        let number = |row: &golden::Row| row.values().rfind(|value| value.is_f64() || value.is_array()).cloned().unwrap_or_default();
        for (row, want) in rows.iter().zip(&want) {
            let found = number(row);
            let found = if found.is_array() { found[0].clone() } else { found };
            assert!(agree(&found, &want["prediction"], 1e-4), "{folder}: {row:?} is not about {want:?}");
        }
    }
    put("sklearn/MLmodel", b"flavors:\n  sklearn:\n    pickled_model: model.pkl\n");
    put("sklearn/model.pkl", b"x");
    put("tensorrt/config.pbtxt", b"platform: \"tensorrt_plan\"");
    put("tensorrt/1/model.plan", b"x");
    put("broken/config.pbtxt", b"input [ {");
    put("broken/1/model.onnx", &ridge);
    put("empty/config.pbtxt", b"backend: \"onnxruntime\"");
    put("empty/readme.txt", b"x");
    for (folder, code, word) in [
        ("sklearn", "no_onnx_flavor", "sklearn"),
        ("tensorrt", "unsupported_configuration", "tensorrt_plan"),
        ("broken", "unsupported_configuration", "not closed"),
        ("empty", "no_onnx_file", "1/model.onnx"),
    ] {
        let (status, problem) = b.register("x", &format!("s3://lake/{folder}/")).await;
        assert_eq!((status, fault(&problem)), (422, ("/uri", code)), "{problem:#}");
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains(word), "{problem:#}");
    }
}

/// The first rows of the diabetes data as a tensor.
fn diabetes(records: usize) -> Value {
    let text = String::from_utf8(support::fixture("data/diabetes/jsonl/patients-0.jsonl")).unwrap();
    let rows = text.lines().take(records).map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        golden::DIABETES_COLUMNS.map(|name| row[name].clone()).to_vec()
    });
    rows.map(Value::from).collect()
}

#[tokio::test]
async fn the_open_inference_protocol_gives_the_golden_predictions_for_a_few_records() {
    let b = Bench::start().await;
    b.s3.put_fixture("models/diabetes-ridge", "lake", "models/ridge/");
    b.register("risk", "s3://lake/models/ridge/").await;
    b.put("/v1/models/risk/aliases/production", &json!({"version": 1})).await;

    assert_eq!(b.service.get("/v2").await.1["name"], "nightshift");
    assert_eq!(b.service.get("/v2/health/live").await, (200, json!({"live": true})));
    assert_eq!(b.service.get("/v2/health/ready").await, (200, json!({"ready": true})));
    assert_eq!(b.service.get("/v2/models/risk/ready").await, (200, json!({"ready": true})));
    let (_, metadata) = b.service.get("/v2/models/risk").await;
    assert_eq!((&metadata["platform"], &metadata["versions"]), (&json!("onnxruntime_onnx"), &json!(["1"])));
    let input = metadata["inputs"][0]["name"].as_str().unwrap();
    assert_eq!((&metadata["inputs"][0]["datatype"], &metadata["inputs"][0]["shape"]), (&json!("FP32"), &json!([-1, 10])));
    assert_eq!(b.service.get("/v2/models/risk/versions/production").await.1, metadata);

    let want = golden::expected("diabetes-ridge.jsonl");
    let request = |records: usize, data: Value| json!({"id": "7", "inputs": [{"name": input, "datatype": "FP32", "shape": [records, 10], "data": data}]});
    for path in ["/v2/models/risk/infer", "/v2/models/risk/versions/1/infer", "/v2/models/risk/versions/production/infer"] {
        let (status, answer) = b.service.post(path, &request(64, diabetes(64))).await;
        assert_eq!(
            (status, &answer["model_name"], &answer["model_version"], &answer["id"]),
            (200, &json!("risk"), &json!("1"), &json!("7")),
            "{answer:#}"
        );
        let output = &answer["outputs"][0];
        assert_eq!((&output["datatype"], &output["shape"][0]), (&json!("FP32"), &json!(64)));
        let found = output["data"].as_array().unwrap();
        assert_eq!(found.len(), 64);
        for (found, want) in found.iter().zip(&want) {
            assert!(agree(found, &want["prediction"], 1e-4), "{found} is not about {want:?}");
        }
    }
    let flat: Vec<Value> = diabetes(2).as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap().clone()).collect();
    assert_eq!(b.service.post("/v2/models/risk/infer", &request(2, flat.into())).await.0, 200, "flat data is as good");

    let with = |field: &str, value: Value| {
        let mut request = request(2, diabetes(2));
        request["inputs"][0][field] = value;
        request
    };
    let mut too_many = request(65, diabetes(65));
    too_many["outputs"] = json!([]);
    for (body, status, word) in [
        (too_many, 400, "risk@1"),
        (with("name", json!("nonsense")), 400, "no input"),
        (with("datatype", json!("INT64")), 400, "takes FP32"),
        (with("shape", json!([2, 9])), 400, "takes the shape [-1, 10]"),
        (with("shape", json!([3, 10])), 400, "data has 20"),
        (with("data", json!("x")), 400, "elements"),
        (json!({"inputs": []}), 400, "missing"),
        (json!({"nothing": 1}), 400, "no request of the protocol"),
        (json!({"inputs": request(2, diabetes(2))["inputs"], "outputs": [{"name": "nonsense"}]}), 400, "no output"),
    ] {
        let (found, answer) = b.service.post("/v2/models/risk/infer", &body).await;
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{answer:#}"));
        assert!(found == status && error.contains(word) && answer.as_object().unwrap().len() == 1, "{found} {error}");
    }
    for missing in ["/v2/models/none", "/v2/models/risk/versions/2", "/v2/models/none/ready", "/v2/models/risk/versions/none/ready"] {
        let (status, answer) = b.service.get(missing).await;
        assert!(status == 404 && answer["error"].is_string(), "{missing}: {answer:#}");
    }
}

#[tokio::test]
async fn texts_go_in_and_outputs_that_are_no_tensors_are_told_apart() {
    let b = Bench::start().await;
    b.s3.put_fixture("models/churn-pipeline", "lake", "models/churn/");
    let (_, churn) = b.register("churn", "s3://lake/models/churn/").await;
    let csv = String::from_utf8(support::fixture(&support::fixture_files("data/churn/csv")[0])).unwrap();
    let mut rows = csv::ReaderBuilder::new().from_reader(csv.as_bytes());
    let header = rows.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = rows.records().take(3).map(Result::unwrap).collect();
    let inputs = churn["inputs"].as_array().unwrap().iter().map(|input| {
        let at = header.iter().position(|name| input["name"] == name).unwrap_or_else(|| panic!("{input} is none of {header:?}"));
        let data = rows.iter().map(|row| match input["dtype"].as_str().unwrap() {
            "BYTES" => json!(row[at]),
            "INT64" => json!(row[at].parse::<i64>().unwrap()),
            _ => json!(row[at].parse::<f64>().unwrap()),
        });
        json!({"name": input["name"], "datatype": input["dtype"], "shape": [3, 1], "data": data.collect::<Vec<_>>()})
    });
    let request = json!({"inputs": inputs.collect::<Vec<_>>()});
    let (status, answer) = b.service.post("/v2/models/churn/infer", &request).await;
    assert_eq!(status, 200, "{answer:#}");
    let want = golden::expected("churn-pipeline.jsonl");
    let labels: Vec<Value> = want[..3].iter().map(|row| row["output_label"].clone()).collect();
    assert_eq!((&answer["outputs"][0]["name"], &answer["outputs"][0]["data"]), (&json!("output_label"), &json!(labels)), "{answer:#}");
    assert_eq!(answer["parameters"]["outputs_left_out"], "output_probability");
    let wanted = json!({"inputs": request["inputs"], "outputs": [{"name": "output_probability"}]});
    let (status, answer) = b.service.post("/v2/models/churn/infer", &wanted).await;
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("no tensor"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_registers_lists_shows_and_moves() {
    let b = Bench::start().await;
    b.s3.put_fixture("models/diabetes-ridge", "lake", "models/ridge/");
    b.s3.put_fixture("data/diabetes/jsonl", "lake", "diabetes/");
    let run = |args: &[&str]| Said::of(nightshift(None, Some(&b.service)).args(args).output().expect("it runs"));
    let registered = run(&["models", "register", "risk", "s3://lake/models/ridge/"]);
    assert!(registered.code == 0 && registered.out.contains("risk@1") && registered.out.contains("FP32"), "{registered:?}");
    let moved = run(&["models", "alias", "risk", "production", "1"]);
    assert!(moved.code == 0 && moved.out.contains("production"), "{moved:?}");
    let listed = run(&["models", "list"]);
    assert!(listed.code == 0 && listed.out.contains("production=1"), "{listed:?}");
    let versions = run(&["models", "get", "risk"]);
    assert!(versions.code == 0 && versions.out.contains("tabular-regression"), "{versions:?}");
    let one = run(&["models", "get", "risk@production", "--output", "json"]);
    let one: Value = serde_json::from_str(&one.out).unwrap();
    assert_eq!((&one["version"], &one["aliases"]), (&json!(1), &json!(["production"])));
    let submitted =
        run(&["submit", "--model", "risk@production", "--input", "s3://lake/diabetes/", "--output", "s3://lake/out/", "--watch"]);
    assert!(submitted.code == 0 && submitted.out.contains("completed"), "{submitted:?}");
    let removed = run(&["models", "alias", "risk", "production", "--remove"]);
    assert!(removed.code == 0 && removed.out.contains("gone"), "{removed:?}");
    assert_ne!(run(&["models", "get", "risk@production"]).code, 0);
    assert_ne!(run(&["models", "get", "../jobs"]).code, 0);
}

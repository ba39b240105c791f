//! Texts in, classes and embeddings out: real models from their folders, and small graphs whose answers can be worked out by hand.

mod support;

use std::{collections::HashMap, path::Path, time::Duration};

use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions, fixture,
    golden::{self, Output, Row, agree, number},
};
use tokenizers::Tokenizer;

const PATIENCE: Duration = Duration::from_secs(240);

/// A service with a store, and what most jobs here have in common.
struct Setup {
    s3: S3Server,
    service: Service,
}

impl Setup {
    async fn start() -> Self {
        let s3 = S3Server::start().await;
        s3.create_bucket("lake");
        let service = Service::start(&s3, ServiceOptions::default()).await;
        Self { s3, service }
    }

    /// Puts one of the small graphs with the tokenizer of the sentiment model, and files beside them.
    fn put_tiny(&self, name: &str, graph: &str, files: &[(&str, Value)]) {
        self.s3.put("lake", &format!("models/{name}/model.onnx"), &fixture(&format!("models/tiny-texts/{graph}/model.onnx")));
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            self.s3.put("lake", &format!("models/{name}/{file}"), &fixture(&format!("models/sentiment/{file}")));
        }
        for (file, content) in files {
            self.s3.put("lake", &format!("models/{name}/{file}"), content.to_string().as_bytes());
        }
    }

    /// Puts rows as JSON Lines.
    fn put_rows(&self, name: &str, rows: &[Value]) {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.s3.put("lake", &format!("data/{name}/rows.jsonl"), lines.as_bytes());
    }

    fn definition(&self, model: &str, data: &str, out: &str, more: Value) -> Value {
        let mut definition = json!({
            "model": format!("s3://lake/models/{model}/"),
            "input": format!("s3://lake/data/{data}/"),
            "output": {"uri": format!("s3://lake/out/{out}/"), "include_input": ["id"]},
        });
        definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        definition
    }

    /// Runs a job to its end: what it says of itself, and what it wrote.
    async fn run(&self, model: &str, data: &str, out: &str, more: Value) -> (Value, Output) {
        let id = self.service.submit(&self.definition(model, data, out, more)).await;
        let job = self.service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "completed", "{out}: {job:#}");
        let output = Output::read(&self.s3, "lake", &format!("out/{out}/"));
        output.check_invariants();
        (job, output)
    }

    /// The faults of a definition that must be refused: code, detail and hint of each.
    async fn refused(&self, model: &str, more: Value) -> Vec<(String, String)> {
        let (status, problem) = self.service.post("/v1/jobs", &self.definition(model, "rows", "refused", more)).await;
        assert_eq!(status, 422, "{model}: {problem:#}");
        let faults = problem["errors"].as_array().expect("errors");
        let text = |fault: &Value, key: &str| fault[key].as_str().unwrap_or_default().to_owned();
        faults.iter().map(|f| (text(f, "code"), format!("{}: {} ({})", text(f, "pointer"), text(f, "detail"), text(f, "hint")))).collect()
    }
}

fn by_id(rows: &[Row]) -> HashMap<&str, &Row> {
    rows.iter().map(|row| (row["id"].as_str().expect("an id"), row)).collect()
}

#[tokio::test]
async fn reviews_are_classified_by_a_model_folder_alone() {
    let setup = Setup::start().await;
    setup.s3.put_fixture("models/sentiment", "lake", "models/sentiment/");
    for (data, expected) in [("jsonl", "sentiment-movies.parquet"), ("csv", "sentiment-tweets.parquet")] {
        setup.s3.put_fixture(&format!("data/reviews/{data}"), "lake", &format!("data/{data}/"));
        let (job, output) = setup.run("sentiment", data, data, json!({})).await;
        assert_eq!(job["pipeline"]["task"], "text-classification");
        assert_eq!(job["pipeline"]["text"]["max_length"], 64);
        let wanted = golden::expected(expected);
        let wanted = by_id(&wanted);
        assert_eq!((output.rows.len(), output.errors.len()), (wanted.len(), 0));
        for row in &output.rows {
            let want = wanted[row["id"].as_str().unwrap()];
            assert!(row["label"] == want["label"] && agree(&row["score"], &want["score"], 1e-5), "{row:?} {want:?}");
        }
        println!("{data}: {} rows, usage {}", output.rows.len(), job["usage"]);
    }
}

#[tokio::test]
async fn a_graph_that_tokenizes_by_itself_takes_texts_as_they_are() {
    let setup = Setup::start().await;
    setup.s3.put_fixture("models/profanity", "lake", "models/profanity/");
    for (data, expected) in [("jsonl", "profanity-movies.parquet"), ("csv", "profanity-tweets.parquet")] {
        setup.s3.put_fixture(&format!("data/reviews/{data}"), "lake", &format!("data/{data}/"));
        let (job, output) = setup.run("profanity", data, data, json!({"pipeline": {"probabilities": true}})).await;
        assert_eq!(job["usage"]["tokens"], Value::Null);
        let wanted = golden::expected(expected);
        let wanted = by_id(&wanted);
        assert_eq!((output.rows.len(), output.errors.len()), (wanted.len(), 0));
        for row in &output.rows {
            let want = wanted[row["id"].as_str().unwrap()];
            let label = ["clean", "profane"][want["label"].as_u64().unwrap() as usize];
            assert!(row["label"] == label && agree(&row["probabilities"]["profane"], &want["p_profane"], 1e-5), "{row:?} {want:?}");
        }
    }
}

/// The files of all-MiniLM-L6-v2 from its package, and the graph from here.
fn put_minilm(s3: &S3Server) {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join(".models/all-MiniLM-L6-v2");
    for file in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json", "sentence_bert_config.json"]
            .into_iter()
            .chain(["1_Pooling/config.json", "model.safetensors"])
    {
        let bytes = std::fs::read(package.join(file)).unwrap_or_else(|e| panic!("{file}: {e}: run scripts/fetch-test-models"));
        s3.put("lake", &format!("models/minilm/{file}"), &bytes);
    }
    s3.put("lake", "models/minilm/model.onnx", &fixture("models/minilm/model.onnx"));
}

#[tokio::test]
async fn minilm_embeds_lines_as_its_own_library_does() {
    let setup = Setup::start().await;
    put_minilm(&setup.s3);
    let lines = String::from_utf8(fixture("data/text/lines.txt")).unwrap();
    let rows: Vec<Value> = lines.lines().enumerate().map(|(id, text)| json!({"id": id, "text": text})).collect();
    setup.put_rows("lines", &rows);
    let output = json!({"uri": "s3://lake/out/minilm/", "format": "parquet", "include_input": ["id"]});
    let (job, output) = setup.run("minilm", "lines", "minilm", json!({"output": output})).await;
    assert_eq!(job["pipeline"]["task"], "feature-extraction");
    let embedding = json!({"output": "last_hidden_state", "pooling": "mean", "normalize": true, "dimensions": null});
    assert_eq!(job["pipeline"]["embedding"], embedding);
    assert_eq!(job["pipeline"]["text"]["max_length"], 256);
    let wanted = golden::expected("minilm.jsonl");
    assert_eq!(output.rows.len(), wanted.len());
    let part = setup.s3.keys("lake", "out/minilm/").into_iter().find(|key| key.ends_with(".parquet")).expect("a part");
    let part = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(setup.s3.get("lake", &part))).expect("Parquet");
    let kind = part.schema().field_with_name("embedding").expect("a column").data_type().clone();
    assert!(matches!(kind, DataType::FixedSizeList(_, 384)), "{kind}");
    for (row, want) in output.rows.iter().zip(&wanted) {
        assert_eq!(number(&row["id"]), number(&want["line"]));
        assert!(agree(&row["embedding"], &want["embedding"], 1e-5), "line {}", want["line"]);
    }
    let tokens: u64 = wanted.iter().map(|w| w["tokens"].as_u64().unwrap()).sum();
    assert_eq!(job["usage"]["tokens"], tokens);
    // The model card's own example.
    let vector = |at: usize| output.rows[at]["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let similarity = |at: usize| vector(0).iter().zip(vector(at)).map(|(a, b)| a * b).sum::<f64>();
    for (at, want) in [(0, 1.0), (1, 0.6945), (2, 0.9429), (3, 0.2569)] {
        assert!((similarity(at) - want).abs() < 1e-3, "{at}: {}", similarity(at));
    }
}

/// The tokenizer that the small graphs run with, for working out what they must say.
fn sentiment_tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(fixture("models/sentiment/tokenizer.json")).expect("a tokenizer")
}

fn ids(tokenizer: &Tokenizer, text: &str, most: usize) -> Vec<u32> {
    let mut ids = tokenizer.encode(text, true).expect("tokens").get_ids().to_vec();
    if ids.len() > most {
        let last = ids[ids.len() - 1];
        ids.truncate(most - 1);
        ids.push(last);
    }
    ids
}

const WIDTH: usize = 8;

fn weight(at: usize) -> f32 {
    (0.37 * 1.7f64.powi(at as i32)) as f32
}

/// What the small graphs give for a text: a vector a token (see tests/fixtures/make/tiny_texts.py).
fn token_vectors(ids: &[u32], with_positions: bool) -> Vec<Vec<f64>> {
    let wave = |at: usize, position: usize, id: u32| {
        let place = if with_positions { f64::from((position as f32 * weight(at)).cos()) } else { 0.0 };
        f64::from((id as f32 * weight(at)).sin()) + place
    };
    let own: Vec<Vec<f64>> = ids.iter().enumerate().map(|(p, id)| (0..WIDTH).map(|at| wave(at, p, *id)).collect()).collect();
    let mean: Vec<f64> = (0..WIDTH).map(|at| own.iter().map(|v| v[at]).sum::<f64>() / own.len() as f64).collect();
    own.iter().map(|v| v.iter().zip(&mean).map(|(a, b)| a + b).collect()).collect()
}

fn pooled(vectors: &[Vec<f64>], pooling: &str) -> Vec<f64> {
    let over = |f: fn(f64, f64) -> f64| (0..WIDTH).map(|at| vectors.iter().map(|v| v[at]).reduce(f).unwrap()).collect::<Vec<_>>();
    match pooling {
        "mean" => over(|a, b| a + b).into_iter().map(|sum| sum / vectors.len() as f64).collect(),
        "max" => over(f64::max),
        "cls" => vectors[0].clone(),
        "last" => vectors[vectors.len() - 1].clone(),
        other => panic!("{other}"),
    }
}

/// Texts of mixed length in no order, of the words of film reviews.
fn mixed_texts(count: usize) -> Vec<Value> {
    let reviews = String::from_utf8(fixture("data/reviews/jsonl/movies-0.jsonl")).unwrap();
    let reviews: Vec<Value> = reviews.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let words: Vec<&str> = reviews.iter().flat_map(|r| r["text"].as_str().unwrap().split_whitespace()).collect();
    let mut at = 0;
    let text = |id: usize| {
        // One of sixteen is long.
        let length = if id.is_multiple_of(16) { 20 + id * 7919 % 60 } else { id * 104_729 % 12 };
        at = (at + 131) % (words.len() - 100);
        json!({"id": id, "text": words[at..at + length].join(" ")})
    };
    (0..count).map(text).collect()
}

#[tokio::test]
async fn ten_thousand_texts_of_mixed_length_embed_as_each_would_alone_and_in_order() {
    let setup = Setup::start().await;
    let modules = json!([{"type": "sentence_transformers.models.Pooling"}, {"type": "sentence_transformers.models.Normalize"}]);
    let files = [
        ("modules.json", modules),
        (
            "1_Pooling/config.json",
            json!({"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}),
        ),
        ("nightshift.json", json!({"outputs": ["last_hidden_state"]})),
    ];
    setup.put_tiny("mean", "both", &files);
    let texts = mixed_texts(10_000);
    setup.put_rows("mixed", &texts);
    let (job, together) = setup.run("mean", "mixed", "together", json!({})).await;
    let (alone_job, alone) = setup.run("mean", "mixed", "alone", json!({"execution": {"batch_size": 1}})).await;
    assert_eq!((together.rows.len(), alone.rows.len()), (10_000, 10_000));
    let tokenizer = sentiment_tokenizer();
    let mut lengths = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let (row, by_itself) = (&together.rows[at], &alone.rows[at]);
        assert!(agree(&row["id"], &text["id"], 0.0) && agree(&by_itself["id"], &text["id"], 0.0), "in order: {at}");
        assert!(agree(&row["embedding"], &by_itself["embedding"], 1e-5), "{text}: {row:?} {by_itself:?}");
        let ids = ids(&tokenizer, text["text"].as_str().unwrap(), 64);
        lengths.push(ids.len());
        let vector = pooled(&token_vectors(&ids, true), "mean");
        let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        let vector: Vec<f64> = vector.iter().map(|v| v / norm).collect();
        assert!(agree(&row["embedding"], &json!(vector), 1e-4), "{text}: {row:?} {vector:?}");
    }

    // What padding costs is told, and is a fraction of what batches in the order of arrival would cost.
    let tokens: usize = lengths.iter().sum();
    assert_eq!(job["usage"]["tokens"], tokens);
    assert_eq!(alone_job["usage"]["padding_share"], 0.0);
    let by_arrival: usize = lengths.chunks(64).map(|batch| batch.len() * batch.iter().max().unwrap()).sum();
    let (share, of_arrival) = (job["usage"]["padding_share"].as_f64().unwrap(), 1.0 - tokens as f64 / by_arrival as f64);
    println!("padding: {share:.3} of all tokens; in the order of arrival {of_arrival:.3}");
    assert!(share > 0.0 && share <= 0.125 && share < of_arrival / 2.0, "{share} {of_arrival}");
}

#[tokio::test]
async fn every_pooling_leaves_padding_out_on_either_side_and_in_half_precision() {
    let setup = Setup::start().await;
    setup.put_rows("mixed", &mixed_texts(300));
    let tokenizer = sentiment_tokenizer();
    let texts = mixed_texts(300);
    for side in ["right", "left"] {
        for (graph, tolerance) in [("both", 1e-4), ("half", 5e-3)] {
            for pooling in ["mean", "cls", "max", "last"] {
                let name = format!("{graph}-{side}-{pooling}");
                let config = json!({"model_max_length": 1e30, "pad_token": {"content": "[PAD]"}, "padding_side": side});
                let own = json!({"task": "feature-extraction", "pooling": pooling, "text": {"max_length": 24}});
                setup.put_tiny(&name, graph, &[("tokenizer_config.json", config), ("nightshift.json", own)]);
                let (job, output) = setup.run(&name, "mixed", &name, json!({})).await;
                assert!(job["usage"]["padding_share"].as_f64().unwrap() > 0.0);
                for (row, text) in output.rows.iter().zip(&texts) {
                    let ids = ids(&tokenizer, text["text"].as_str().unwrap(), 24);
                    let wanted = json!(pooled(&token_vectors(&ids, true), pooling));
                    assert!(agree(&row["embedding"], &wanted, tolerance), "{name} {text}: {row:?} {wanted}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_model_of_fixed_batch_and_length_takes_texts_of_any_length() {
    let setup = Setup::start().await;
    setup.put_tiny("fixed", "fixed", &[("nightshift.json", json!({"pooling": "mean", "dimensions": 3}))]);
    // Ten texts: the last batch of four is not full.
    let texts = mixed_texts(10);
    setup.put_rows("ten", &texts);
    let output = json!({"uri": "s3://lake/out/fixed/", "format": "csv", "include_input": ["id"]});
    let (job, output) = setup.run("fixed", "ten", "fixed", json!({"output": output})).await;
    assert_eq!(job["pipeline"]["text"]["max_length"], 16);
    assert_eq!(output.rows.len(), 10);
    let tokenizer = sentiment_tokenizer();
    for (row, text) in output.rows.iter().zip(&texts) {
        let ids = ids(&tokenizer, text["text"].as_str().unwrap(), 16);
        let found: Value = serde_json::from_str(row["embedding"].as_str().unwrap()).expect("a list");
        let wanted = &pooled(&token_vectors(&ids, false), "mean")[..3];
        assert!(agree(&found, &json!(wanted), 1e-4), "{text}: {row:?} {wanted:?}");
    }
}

#[tokio::test]
async fn without_a_mask_only_texts_of_one_length_go_together() {
    let setup = Setup::start().await;
    setup.put_tiny("maskless", "maskless", &[]);
    let texts = mixed_texts(300);
    setup.put_rows("mixed", &texts);
    let (job, output) = setup.run("maskless", "mixed", "maskless", json!({})).await;
    assert_eq!((&job["pipeline"]["task"], &job["usage"]["padding_share"]), (&json!("raw"), &json!(0.0)));
    let tokenizer = sentiment_tokenizer();
    for (row, text) in output.rows.iter().zip(&texts) {
        let ids = ids(&tokenizer, text["text"].as_str().unwrap(), 64);
        let mean = |at: usize| ids.iter().map(|id| f64::from((*id as f32 * weight(at)).sin())).sum::<f64>() / ids.len() as f64;
        let wanted: Vec<f64> = (0..WIDTH).map(mean).collect();
        assert!(agree(&row["logits"], &json!(wanted), 1e-4), "{text}: {row:?} {wanted:?}");
    }
}

#[tokio::test]
async fn a_second_text_is_told_apart_by_its_token_type() {
    let setup = Setup::start().await;
    setup.put_tiny("pairs", "pairs", &[("nightshift.json", json!({"text": {"column": "question", "pair": "answer"}}))]);
    // The sentiment model's tokenizer knows no pairs.
    let mut tokenizer: Value = serde_json::from_slice(&fixture("models/sentiment/tokenizer.json")).unwrap();
    for part in [3, 4] {
        for kind in ["Sequence", "SpecialToken"] {
            if let Some(piece) = tokenizer["post_processor"]["pair"][part].get_mut(kind) {
                piece["type_id"] = json!(1);
            }
        }
    }
    setup.s3.put("lake", "models/pairs/tokenizer.json", tokenizer.to_string().as_bytes());
    let rows = [
        json!({"id": 0, "question": "good film", "answer": "a"}),
        json!({"id": 1, "question": "", "answer": ""}),
        json!({"id": 2, "question": "a", "answer": null}),
        json!({"id": 3, "question": "a ".repeat(10), "answer": "a ".repeat(500)}),
    ];
    setup.put_rows("pairs", &rows);
    let (_, output) = setup.run("pairs", "pairs", "pairs", json!({})).await;
    let codes: Vec<_> = output.errors.iter().map(|e| e["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["missing_value"]);
    // The second text and the token that ends it; of 64 tokens 3 are special and 10 the first text's.
    for (row, of_second) in output.rows.iter().zip([2.0, 1.0, 52.0]) {
        let wanted: Vec<f64> = (0..WIDTH).map(|at| of_second * f64::from(weight(at).sin())).collect();
        assert!(agree(&row["logits"], &json!(wanted), 1e-4), "{row:?} {wanted:?}");
    }
}

#[tokio::test]
async fn another_pipeline_of_a_loaded_model_gets_its_own_outputs() {
    let setup = Setup::start().await;
    setup.put_tiny("both", "both", &[]);
    setup.put_rows("few", &mixed_texts(5));
    for outputs in [json!(["sentence_embedding"]), json!(["last_hidden_state"]), json!(["sentence_embedding", "last_hidden_state"])] {
        let pipeline = json!({"pipeline": {"task": "raw", "outputs": outputs}});
        let name = format!("{}-{}", outputs.as_array().unwrap().len(), outputs[0].as_str().unwrap());
        let (_, output) = setup.run("both", "few", &name, pipeline).await;
        let tokenizer = sentiment_tokenizer();
        for (row, text) in output.rows.iter().zip(mixed_texts(5)) {
            for column in outputs.as_array().unwrap() {
                let values = row[column.as_str().unwrap()].as_array().unwrap();
                // A raw vector a token: as many as the text has tokens, whatever it was run with.
                let length = ids(&tokenizer, text["text"].as_str().unwrap(), 64).len();
                assert_eq!(values.len(), if column == "last_hidden_state" { length } else { WIDTH }, "{text}");
            }
        }
    }
}

#[tokio::test]
async fn empty_texts_are_records_and_missing_ones_error_rows() {
    let setup = Setup::start().await;
    setup.s3.put_fixture("models/sentiment", "lake", "models/sentiment/");
    let rows = [
        json!({"id": "a", "text": "A wonderful film"}),
        json!({"id": "b", "text": ""}),
        json!({"id": "c", "text": null}),
        json!({"id": "d"}),
        json!({"id": "e", "text": ["a", "list"]}),
        json!({"id": "f", "text": "🎬 \u{0} \u{feff}".repeat(2000)}),
    ];
    setup.put_rows("odd", &rows);
    let (_, output) = setup.run("sentiment", "odd", "odd", json!({})).await;
    let ids: Vec<_> = output.rows.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "b", "f"]);
    let codes: Vec<_> = output.errors.iter().map(|e| e["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["missing_value", "missing_value", "wrong_type"]);

    // A table lacks the column; of JSON Lines each record lacks the field.
    setup.s3.put("lake", "data/csv/rows.csv", b"id,texts\na,A wonderful film\n");
    setup.put_rows("body", &[json!({"id": "a", "texts": "A wonderful film"})]);
    for (data, part) in [("csv", "name one with pipeline.text.column"), ("body", "pipeline.text.column names the column")] {
        let id = setup.service.submit(&setup.definition("sentiment", data, data, json!({}))).await;
        let job = setup.service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "failed");
        let detail = job["error"]["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{detail}");
    }
}

#[tokio::test]
async fn what_cannot_be_derived_is_refused_with_the_setting_to_give() {
    let setup = Setup::start().await;
    let only = |output: &str| ("nightshift.json", json!({"outputs": [output]}));
    // The folder's name, its graph, files beside it, and the code and a part of the words of the fault.
    type Case = (&'static str, &'static str, Vec<(&'static str, Value)>, &'static str, &'static str);
    let cases: Vec<Case> = vec![
        ("no-pooling", "both", vec![only("last_hidden_state")], "no_pooling", "/model: output \"last_hidden_state\""),
        ("no-pooling-2", "both", vec![only("last_hidden_state")], "no_pooling", "give pipeline.pooling: mean, cls, max or last"),
        (
            "weighted",
            "half",
            vec![("1_Pooling/config.json", json!({"pooling_mode_weightedmean_tokens": true}))],
            "unsupported_pooling",
            "weightedmean_tokens",
        ),
        (
            "dense",
            "half",
            vec![
                ("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true})),
                ("modules.json", json!([{"type": "sentence_transformers.models.Dense"}])),
            ],
            "unsupported_module",
            "sentence_embedding",
        ),
        (
            "nothing-to-pool",
            "both",
            vec![("nightshift.json", json!({"outputs": ["sentence_embedding"], "pooling": "mean"}))],
            "nothing_to_pool",
            "one vector a record",
        ),
        ("decoder", "decoder", vec![], "unsupported_input", "decoder_input_ids"),
        (
            "too-long",
            "half",
            vec![
                ("config.json", json!({"max_position_embeddings": 64})),
                ("nightshift.json", json!({"pooling": "mean", "text": {"max_length": 65}})),
            ],
            "out_of_range",
            "at most 64 tokens",
        ),
        // RoBERTa's first position is behind that of the padding token, whose id is 0 here.
        (
            "roberta",
            "half",
            vec![
                ("config.json", json!({"max_position_embeddings": 64, "model_type": "roberta"})),
                ("nightshift.json", json!({"pooling": "mean", "text": {"max_length": 64}})),
            ],
            "out_of_range",
            "at most 63 tokens",
        ),
        (
            "too-short",
            "half",
            vec![("nightshift.json", json!({"pooling": "mean", "text": {"max_length": 2}}))],
            "out_of_range",
            "leaves no room",
        ),
        (
            "broken",
            "half",
            vec![("tokenizer.json", json!({"model": 1})), ("nightshift.json", json!({"pooling": "mean"}))],
            "invalid_tokenizer",
            "tokenizer.json",
        ),
        ("too-wide", "half", vec![("nightshift.json", json!({"pooling": "mean", "dimensions": 9}))], "out_of_range", "vectors of 8"),
    ];
    for (name, graph, files, code, part) in cases {
        setup.put_tiny(name, graph, &files);
        let faults = setup.refused(name, json!({})).await;
        assert!(faults.iter().any(|(found, detail)| found == code && detail.contains(part)), "{name}: {faults:?}");
    }
    setup.s3.put("lake", "models/bare/model.onnx", &fixture("models/sentiment/onnx/model.onnx"));
    setup.s3.put("lake", "models/bare/nightshift.json", b"{\"task\": \"text-classification\"}");
    let faults = setup.refused("bare", json!({})).await;
    assert!(faults.iter().any(|(code, detail)| code == "no_tokenizer" && detail.contains("tokenizer.json")), "{faults:?}");
}

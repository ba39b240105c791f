//! Predictions in a table: exactly those of the parts, whatever dies on the way.

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, ListArray, StringArray,
        StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
    },
    datatypes::{DataType, Field, Float32Type, Schema},
    record_batch::RecordBatch,
};
use parquet::arrow::ArrowWriter;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};
use sqlx::{Connection, PgConnection};
use support::{
    S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
    golden::{self, Output, Row, agree},
    postgres::database,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    sync::watch,
};

const PATIENCE: Duration = Duration::from_secs(240);

/// A database that tables go to, and the file of settings that names it.
struct Warehouse {
    url: String,
    folder: tempfile::TempDir,
}

impl Warehouse {
    async fn new() -> Self {
        Self::at(database().await)
    }

    fn at(url: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = Self { url, folder };
        warehouse.configure("");
        warehouse
    }

    /// With these lines in its section as well.
    fn configure(&self, lines: &str) {
        std::fs::write(self.config(), format!("[connections.warehouse]\nurl_env = \"WAREHOUSE_URL\"\n{lines}")).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("nightshift.toml")
    }

    fn options(&self) -> ServiceOptions {
        self.options_through(&self.url)
    }

    /// The service reaches it by another URL than the test.
    fn options_through(&self, url: &str) -> ServiceOptions {
        ServiceOptions::default().arg("--config", self.config().to_str().unwrap()).env("WAREHOUSE_URL", url)
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    async fn say(&self, statement: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut self.connect().await).await.unwrap();
    }

    /// The rows of a table, as PostgreSQL makes JSON of them, in the order of the parts.
    async fn rows(&self, table: &str) -> Vec<Row> {
        let query = format!("SELECT to_jsonb(t)::text FROM {table} t ORDER BY _chunk, _source COLLATE \"C\", _position");
        self.documents(&query).await
    }

    async fn documents(&self, query: &str) -> Vec<Row> {
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&mut self.connect().await).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    /// Types of a table's columns, by name.
    async fn types(&self, table: &str) -> Map<String, Value> {
        let query = "SELECT jsonb_object_agg(attname, format_type(atttypid, atttypmod))::text FROM pg_attribute \
                     WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
        let types: String = sqlx::query_scalar(query).bind(table).fetch_one(&mut self.connect().await).await.unwrap();
        serde_json::from_str(&types).unwrap()
    }
}

/// A job of numbers whose rows go to the table `scores`.
fn job(table: Value) -> Value {
    let mut whole = json!({"connection": "warehouse", "table": "scores", "create": true});
    whole.as_object_mut().unwrap().extend(table.as_object().unwrap().clone());
    json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": {"uri": "s3://lake/out/", "table": whole}})
}

async fn ridge() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3
}

async fn done(service: &Service, definition: &Value) -> (String, Value) {
    let id = service.submit(definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    (id, job)
}

/// The table holds the rows of the parts, each once, and the manifest says how many of each chunk.
async fn assert_same(s3: &S3Server, warehouse: &Warehouse, id: &str) -> Output {
    let output = Output::read(s3, "lake", "out/");
    output.check_invariants();
    let mut rows = warehouse.rows("scores").await;
    assert_eq!(rows.len(), output.rows.len());
    let mut wanted = output.rows.clone();
    let place = |row: &Row| (row["_source"].as_str().unwrap().to_owned(), row["_position"].as_i64().unwrap());
    wanted.sort_by_key(place);
    rows.sort_by_key(place);
    for (row, wanted) in rows.iter_mut().zip(&wanted) {
        assert_eq!(row.remove("_job"), Some(json!(id)));
        assert!(row.remove("_chunk").is_some_and(|chunk| chunk.is_i64()));
        assert_eq!(row.len(), wanted.len());
        for (name, value) in wanted {
            assert!(agree(&row[name], value, 0.0), "{name}: {} is not {value}", row[name]);
        }
    }
    for part in output.manifest["parts"].as_array().unwrap() {
        assert_eq!(part["table"]["rows"], part["records"], "{part:#}");
    }
    assert_eq!(output.manifest["output"]["table"]["table"], "scores");
    output
}

#[tokio::test]
async fn golden_predictions_are_in_the_table_as_in_the_parts() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    let service = Service::start(&s3, warehouse.options()).await;
    let mut definition = job(json!({}));
    definition["output"]["include_input"] = json!(["age", "bmi"]);
    let (id, _) = done(&service, &definition).await;
    let output = assert_same(&s3, &warehouse, &id).await;
    assert_eq!(output.rows.len(), 442);
    let expected = golden::expected("diabetes-ridge.jsonl");
    assert_eq!(expected.len(), 442);
    assert_eq!(warehouse.types("scores").await["prediction"], "real");
    // A second job adds its own rows.
    definition["output"]["uri"] = json!("s3://lake/again/");
    let (again, _) = done(&service, &definition).await;
    let count = |id: &str| format!("SELECT jsonb_build_object('n', count(*))::text FROM scores WHERE _job = '{id}'");
    assert_eq!(warehouse.documents(&count(&id)).await[0]["n"], 442);
    assert_eq!(warehouse.documents(&count(&again)).await[0]["n"], 442);
    assert!(!service.log().contains(&warehouse.url), "the URL may hold a password");
}

#[tokio::test]
async fn predictions_can_be_in_the_table_alone_with_errors_and_counts_in_the_bucket_and_verify_says_what_it_did_not_read() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    s3.put("lake", "in/broken.csv", b"age,bmi\n1,2\n");
    let service = Service::start(&s3, warehouse.options()).await;
    let (id, finished) = done(&service, &job(json!({"parts": false}))).await;
    assert_eq!(finished["counts"]["records"]["succeeded"], 442, "{finished:#}");
    assert!(finished["counts"]["records"]["failed"].as_u64() > Some(0), "{finished:#}");
    assert_eq!(warehouse.rows("scores").await.len(), 442);
    let keys = s3.keys("lake", "out/");
    assert!(keys.iter().all(|key| !key.starts_with("out/part-")), "{keys:?}");
    assert!(keys.iter().any(|key| key == "out/_SUCCESS") && keys.iter().any(|key| key.starts_with("out/errors/part-")), "{keys:?}");
    let manifest: Value = serde_json::from_slice(&s3.get("lake", "out/_manifest.json")).unwrap();
    let told: u64 = manifest["parts"].as_array().unwrap().iter().filter_map(|part| part["table"]["rows"].as_u64()).sum();
    assert_eq!((told, &manifest["complete"]), (442, &json!(true)), "{manifest:#}");
    let (status, results) = service.get(&format!("/v1/jobs/{id}/results")).await;
    assert_eq!((status, &results["items"]), (200, &json!([])), "{results:#}");

    let verify = |more: &[&str]| {
        let mut command = nightshift(Some(&s3), None);
        Said::of(command.args(["verify"]).args(more).arg("s3://lake/out/").output().unwrap())
    };
    let said = verify(&[]);
    assert!(said.code == 0 && said.out.contains("table scores, which was not read"), "{} {}", said.out, said.err);
    let said = verify(&["--input"]);
    assert!(said.code != 0 && said.err.contains("the table scores of warehouse alone"), "{} {}", said.out, said.err);
}

/// Every plain type of a tensor, and every type of a column.
#[tokio::test]
async fn every_type_comes_back_as_it_went() {
    let (s3, warehouse) = (S3Server::start().await, Warehouse::new().await);
    s3.create_bucket("lake");
    s3.put_fixture("models/odd/all-dtypes", "lake", "model/");
    s3.put("lake", "in/rows.jsonl", &support::fixture("data/odd/all-dtypes.jsonl"));
    let service = Service::start(&s3, warehouse.options()).await;
    let (id, _) = done(&service, &job(json!({}))).await;
    assert_same(&s3, &warehouse, &id).await;
    let types = warehouse.types("scores").await;
    for (column, wanted) in [
        ("f64_out", "double precision[]"),
        ("f16_out", "real[]"),
        ("i8_out", "smallint[]"),
        ("i16_out", "smallint[]"),
        ("i32_out", "integer[]"),
        ("i64_out", "bigint[]"),
        ("u8_out", "smallint[]"),
        ("u16_out", "integer[]"),
        ("u32_out", "bigint[]"),
        ("u64_out", "numeric(20,0)[]"),
        ("b_out", "boolean[]"),
        ("s_out", "text[]"),
    ] {
        assert_eq!(types[column], wanted, "{column}");
    }
}

/// Parquet of one text for the model, and a column of every other kind.
fn kinds() -> Vec<u8> {
    let lists = ListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![Some(0.1), None]), None, Some(vec![])]);
    let inner: ArrayRef = Arc::new(StringArray::from(vec![Some("a\"b\\"), None, Some("ü")]));
    let pairs = StructArray::from(vec![(Arc::new(Field::new("x", DataType::Utf8, true)), inner)]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("word", Arc::new(StringArray::from(vec!["tab\tand\nline\\", "", "\\N"]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("whole", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        ("unsigned", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0)]))),
        ("narrow", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(f32::MAX)]))),
        ("wide", Arc::new(Float64Array::from(vec![Some(f64::MIN_POSITIVE), Some(f64::NAN), Some(f64::NEG_INFINITY)]))),
        ("bytes", Arc::new(BinaryArray::from(vec![Some(&[0u8, 92, 255][..]), None, Some(b"")]))),
        ("day", Arc::new(Date32Array::from(vec![Some(20_780), None, Some(-719_162)]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(1), None, Some(86_399_999_999)]))),
        ("local", Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(-1)]))),
        (
            "instant",
            Arc::new(TimestampNanosecondArray::from(vec![Some(1_000), None, Some(1_795_399_200_123_456_000)]).with_timezone("UTC")),
        ),
        ("money", Arc::new(Decimal128Array::from(vec![Some(-12_345), None, Some(5)]).with_precision_and_scale(10, 2).unwrap())),
        ("list", Arc::new(lists)),
        ("pair", Arc::new(pairs)),
    ];
    let fields: Vec<Field> = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}

async fn echo() -> S3Server {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/odd/strings", "lake", "model/");
    s3
}

#[tokio::test]
async fn columns_of_every_kind_are_kept_without_loss() {
    let (s3, warehouse) = (echo().await, Warehouse::new().await);
    s3.put("lake", "in/kinds.parquet", &kinds());
    let service = Service::start(&s3, warehouse.options()).await;
    let mut definition = job(json!({}));
    definition["output"]["include_input"] = json!(true);
    done(&service, &definition).await;
    let rows = warehouse.rows("scores").await;
    let kept = |column: &str| rows.iter().map(|row| row[column].clone()).collect::<Value>();
    for (column, wanted) in [
        ("word", json!(["tab\tand\nline\\", "", "\\N"])),
        ("flag", json!([true, null, false])),
        ("whole", json!([i64::MIN, null, i64::MAX])),
        ("unsigned", json!([u64::MAX, null, 0])),
        ("wide", json!([f64::MIN_POSITIVE, "NaN", "-Infinity"])),
        ("bytes", json!(["\\x005cff", null, "\\x"])),
        ("day", json!(["2026-11-23", null, "0001-01-01"])),
        ("time", json!(["00:00:00.000001", null, "23:59:59.999999"])),
        ("local", json!(["1970-01-01T00:00:00.000001", null, "1969-12-31T23:59:59.999999"])),
        ("pair", json!([{"x": "a\"b\\"}, {"x": null}, {"x": "ü"}])),
    ] {
        assert_eq!(kept(column), wanted, "{column}");
    }
    let exact = "SELECT jsonb_build_object('narrow', narrow::text, 'money', money::text, 'list', list::text, \
                 'instant', extract(epoch FROM instant)::text)::text FROM scores ORDER BY _position";
    let exact = warehouse.documents(exact).await;
    assert_eq!(exact[0], *json!({"narrow": "0.1", "money": "-123.45", "list": "{0.1,NULL}", "instant": "0.000001"}).as_object().unwrap());
    assert_eq!((&exact[2]["narrow"], &exact[2]["instant"]), (&json!("3.4028235e+38"), &json!("1795399200.123456")));
}

#[tokio::test]
async fn what_a_table_cannot_hold_is_an_error_row_and_no_more() {
    let (s3, warehouse) = (echo().await, Warehouse::new().await);
    let lines = "{\"word\": \"a\", \"note\": \"good\"}\n{\"word\": \"b\", \"note\": \"with \\u0000 in it\"}\n{\"word\": \"c\", \"note\": \"fine\"}\n";
    s3.put("lake", "in/a.jsonl", lines.as_bytes());
    let service = Service::start(&s3, warehouse.options()).await;
    let mut definition = job(json!({}));
    definition["output"]["include_input"] = json!(["note"]);
    let (id, job) = done(&service, &definition).await;
    assert_eq!(job["counts"]["records"], json!({"total": 3, "succeeded": 2, "failed": 1}));
    let output = assert_same(&s3, &warehouse, &id).await;
    assert_eq!((&output.errors[0]["code"], &output.errors[0]["stage"]), (&json!("table_value"), &json!("encode")));
}

#[tokio::test]
async fn an_upsert_leaves_one_row_a_key_the_last_one() {
    let (s3, warehouse) = (echo().await, Warehouse::new().await);
    s3.put(
        "lake",
        "in/a.jsonl",
        b"{\"id\": \"1\", \"word\": \"a\"}\n{\"id\": \"2\", \"word\": \"b\"}\n{\"id\": \"1\", \"word\": \"c\"}\n{\"word\": \"no id\"}\n",
    );
    let service = Service::start(&s3, warehouse.options()).await;
    let mut definition = job(json!({"mode": "upsert", "key": ["id"]}));
    definition["output"]["include_input"] = json!(["id"]);
    let (_, first) = done(&service, &definition).await;
    assert_eq!(first["counts"]["records"]["failed"], 1, "rows are told apart by their key");
    let scores = "SELECT jsonb_build_object('id', id, 'echo', echo)::text FROM scores ORDER BY id";
    let echoes = async || warehouse.documents(scores).await.into_iter().map(|row| row["echo"].clone()).collect::<Value>();
    assert_eq!(echoes().await, json!(["c", "b"]));
    // Another job's rows take their place.
    s3.remove("lake", "in/");
    s3.put("lake", "in/a.jsonl", b"{\"id\": \"2\", \"word\": \"B\"}\n{\"id\": \"3\", \"word\": \"D\"}\n");
    definition["output"]["uri"] = json!("s3://lake/again/");
    let (_, second) = done(&service, &definition).await;
    assert_eq!(second["counts"]["records"]["failed"], 0);
    assert_eq!(echoes().await, json!(["c", "B", "D"]));
}

#[tokio::test]
async fn texts_go_into_columns_of_numbers_that_are_there() {
    let (s3, warehouse) = (echo().await, Warehouse::new().await);
    s3.put("lake", "in/a.csv", b"id,word,paid\n7,a,true\n8,b,\nnine,c,false\n");
    let service = Service::start(&s3, warehouse.options()).await;
    warehouse
        .say("CREATE TABLE scores (id bigint PRIMARY KEY, echo text, code bigint, paid boolean, noted timestamptz DEFAULT now())")
        .await;
    let mut definition = job(json!({"mode": "upsert", "key": ["id"], "create": false}));
    definition["output"]["include_input"] = json!(["id", "paid"]);
    let (_, job) = done(&service, &definition).await;
    assert_eq!(job["counts"]["records"], json!({"total": 3, "succeeded": 2, "failed": 1}));
    let rows = warehouse.documents("SELECT (to_jsonb(s) - 'noted' - 'code')::text FROM scores s ORDER BY id").await;
    assert_eq!(json!(rows), json!([{"id": 7, "echo": "a", "paid": true}, {"id": 8, "echo": "b", "paid": null}]));
}

#[tokio::test]
async fn a_table_that_does_not_fit_fails_the_job_with_both_sides_named() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    let service = Service::start(&s3, warehouse.options()).await;
    warehouse.say("CREATE TABLE narrow (_job text, _chunk bigint, prediction smallint, owner text NOT NULL)").await;
    warehouse.say("CREATE TABLE keyless (prediction real)").await;
    let cases = [
        (json!({"table": "narrow"}), vec!["prediction is real in the rows and smallint in the table", "the table wants owner text"]),
        (json!({"table": "absent", "create": false}), vec!["no table absent", "CREATE TABLE"]),
        (json!({"table": "keyless", "mode": "upsert", "key": ["prediction"]}), vec!["no unique index", "CREATE UNIQUE INDEX"]),
        (json!({"table": "keyless", "mode": "upsert", "key": ["id"]}), vec!["the key id is none of the columns"]),
    ];
    for (at, (table, said)) in cases.iter().enumerate() {
        let mut definition = job(table.clone());
        definition["output"]["uri"] = json!(format!("s3://lake/out/{at}/"));
        let (status, dry) = service.post("/v1/jobs?dry_run=true", &definition).await;
        assert_eq!((status, &dry["problems"][0]["type"]), (200, &json!("urn:nightshift:problem:table_mismatch")), "{dry:#}");
        let id = service.submit(&definition).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!((&job["state"], &job["error"]["type"]), (&json!("failed"), &json!("urn:nightshift:problem:table_mismatch")), "{job:#}");
        for said in said {
            assert!(job["error"]["detail"].as_str().unwrap().contains(said), "{said}: {job:#}");
            assert!(dry["problems"][0]["detail"].as_str().unwrap().contains(said), "{said}: {dry:#}");
        }
    }
}

#[tokio::test]
async fn a_dry_run_says_what_table_would_be_made_and_makes_none() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    let service = Service::start(&s3, warehouse.options()).await;
    let (status, dry) = service.post("/v1/jobs?dry_run=true", &job(json!({}))).await;
    assert_eq!((status, &dry["problems"]), (200, &json!([])), "{dry:#}");
    assert_eq!(
        (&dry["table"]["exists"], &dry["table"]["columns"][4]),
        (&json!(false), &json!({"name": "prediction", "type": "real"})),
        "{dry:#}"
    );
    let statement = dry["table"]["statement"].as_str().unwrap().to_owned();
    assert!(warehouse.documents("SELECT '{}'::text WHERE to_regclass('scores') IS NOT NULL").await.is_empty());
    // What it says is what it means.
    warehouse.say(&statement).await;
    let (_, dry) = service.post("/v1/jobs?dry_run=true", &job(json!({"create": false}))).await;
    assert_eq!((&dry["problems"], &dry["table"]["exists"]), (&json!([]), &json!(true)), "{dry:#}");
    let (id, _) = done(&service, &job(json!({"create": false}))).await;
    assert_same(&s3, &warehouse, &id).await;
}

#[tokio::test]
async fn only_connections_of_the_configuration_can_be_named() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    let service = Service::start(&s3, warehouse.options()).await;
    for (table, pointer) in [
        (json!({"connection": "elsewhere"}), "/output/table/connection"),
        (json!({"connection": warehouse.url}), "/output/table/connection"),
        (json!({"table": "a.b.c"}), "/output/table/table"),
        (json!({"mode": "upsert"}), "/output/table/key"),
        (json!({"key": ["id"]}), "/output/table/key"),
        (json!({"mode": "append"}), "/output/table/mode"),
    ] {
        let (status, problem) = service.post("/v1/jobs", &job(table)).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem:#}");
    }
    let doctor = |url: &str| {
        let mut command = nightshift(Some(&s3), None);
        command
            .args(["doctor", "--config"])
            .arg(warehouse.config())
            .env("WAREHOUSE_URL", url)
            .env("NIGHTSHIFT_DATA_DIR", warehouse.folder.path());
        Said::of(command.output().unwrap())
    };
    let said = doctor(&warehouse.url);
    assert!(said.out.contains("connection warehouse") && said.out.contains("answers"), "{said:?}");
    let said = doctor("postgres://nightshift:hunter2@127.0.0.1:1/nowhere");
    assert!(said.code == 1 && said.out.contains("does not answer") && !said.out.contains("hunter2"), "{said:?}");
    let mut unset = nightshift(Some(&s3), None);
    unset
        .args(["serve", "--config"])
        .arg(warehouse.config())
        .env("NIGHTSHIFT_DATA_DIR", warehouse.folder.path())
        .env_remove("WAREHOUSE_URL");
    let said = Said::of(unset.output().unwrap());
    assert!(said.code != 0 && said.err.contains("[connections.warehouse]") && said.err.contains("WAREHOUSE_URL is not set"), "{said:?}");
}

/// Chunks enough that a job outlives its kills.
async fn long(s3: &S3Server, warehouse: &Warehouse) -> (Service, String, usize) {
    let (text, bad) = golden::table(30_000);
    for object in 0..4 {
        s3.put("lake", &format!("in/{object}.csv"), text.as_bytes());
    }
    let service = Service::start(s3, warehouse.options().arg("--chunk-slots", "2").arg("--lease-ttl", "3")).await;
    let mut definition = job(json!({}));
    definition["execution"] = json!({"chunk_records": 1000, "batch_size": 64});
    let id = service.submit(&definition).await;
    (service, id, bad * 4)
}

#[tokio::test]
async fn runner_and_server_killed_at_random_moments_leave_exactly_the_rows_of_the_parts() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    let (mut service, id, bad) = long(&s3, &warehouse).await;
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 0..10 {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        assert!(!service.is_final(&id).await, "the job is too short for this test: it was over before kill {kill} (seed {seed})");
        if random.random_bool(0.5) {
            service.kill9();
            service.restart().await;
        } else {
            service.kill_runner();
        }
    }
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = assert_same(&s3, &warehouse, &id).await;
    assert_eq!((output.rows.len(), output.errors.len()), (120_000 - bad, bad));
}

/// Waits until a session of the warehouse waits for a lock.
async fn until_locked_out(warehouse: &Warehouse, service: &Service) {
    let waits = "SELECT '{}'::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let deadline = std::time::Instant::now() + PATIENCE;
    while warehouse.documents(waits).await.is_empty() {
        assert!(std::time::Instant::now() < deadline, "no attempt came to the table:\n{}", service.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A table as jobs make it, but for its index.
const SCORES: &str = "CREATE TABLE scores (_job text NOT NULL, _chunk bigint NOT NULL, _source text, _position bigint, prediction real)";

#[tokio::test]
async fn an_attempt_that_wakes_up_after_its_successor_changes_nothing() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    let state = database().await;
    let options = warehouse.options().arg("--lease-ttl", "1").arg("--database-connections", "4").env("DATABASE_URL", &state);
    // The first node's runner stands still before its rows are visible: the table is held.
    warehouse.say(SCORES).await;
    let first = Service::start(&s3, options.clone()).await;
    let mut holder = warehouse.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE scores IN SHARE MODE").execute(&mut holder).await.unwrap();
    let id = first.submit(&job(json!({"create": false}))).await;
    until_locked_out(&warehouse, &first).await;
    first.freeze();
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    // Another node takes the chunk over, waits until the frozen one is put out of its transaction, and finishes the job.
    let second = Service::start(&s3, options).await;
    let done = second.wait(&id, PATIENCE).await;
    assert_eq!(done["state"], "completed", "{done:#}");
    assert_same(&s3, &warehouse, &id).await;
    first.thaw();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_same(&s3, &warehouse, &id).await;
    let ledger = warehouse.documents("SELECT to_jsonb(l)::text FROM nightshift_chunk l").await;
    assert_eq!((ledger.len(), &ledger[0]["job"]), (1, &json!(id)));
    assert!(ledger[0]["epoch"].as_i64().unwrap() > 1, "{ledger:?}");
}

#[tokio::test]
async fn a_retry_and_a_cancelled_job_leave_the_rows_of_committed_chunks() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    let (service, id, bad) = long(&s3, &warehouse).await;
    service.until(&id, |job| job["counts"]["chunks_done"].as_u64() > Some(5)).await;
    assert_eq!(service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await.0, 202);
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "cancelled", "{job:#}");
    let kept = assert_same(&s3, &warehouse, &id).await.rows.len();
    assert!(kept > 0 && kept < 120_000 - bad, "{kept}");
    assert_eq!(service.post(&format!("/v1/jobs/{id}/retry"), &Value::Null).await.0, 202);
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(assert_same(&s3, &warehouse, &id).await.rows.len(), 120_000 - bad);
}

/// A server of this test alone, which can be stopped.
struct Server(tempfile::TempDir);

impl Server {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("nightshift-warehouse.").tempdir_in("/tmp").unwrap())
    }

    fn run(&self, what: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres");
        let output = Command::new(script).arg(what[0]).arg(self.0.path()).args(&what[1..]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres");
        let _stopped_already = Command::new(script).arg("stop").arg(self.0.path()).arg("immediate").output();
    }
}

#[tokio::test]
async fn a_database_that_is_away_for_a_while_costs_no_chunk_and_no_attempt() {
    let server = Server::new();
    let (s3, warehouse) = (ridge().await, Warehouse::at(server.run(&["start"])));
    let (service, id, bad) = long(&s3, &warehouse).await;
    service.until(&id, |job| job["counts"]["chunks_done"].as_u64() > Some(2)).await;
    server.run(&["stop", "immediate"]);
    let deadline = std::time::Instant::now() + PATIENCE;
    while service.log().matches("is given back").count() < 5 {
        assert!(std::time::Instant::now() < deadline, "nobody misses the database:\n{}", service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(service.job(&id).await["state"], "in_progress");
    server.run(&["start"]);
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(assert_same(&s3, &warehouse, &id).await.rows.len(), 120_000 - bad);
    let chunks = service.get_all(&format!("/v1/jobs/{id}/chunks")).await;
    assert!(chunks.iter().all(|chunk| chunk["failures"] == 0), "its trouble is not the chunks'");
}

#[tokio::test]
async fn a_cancel_is_heard_while_the_database_is_at_work_and_costs_no_runner() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    let service = Service::start(&s3, warehouse.options()).await;
    warehouse.say(SCORES).await;
    let mut holder = warehouse.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE scores IN SHARE MODE").execute(&mut holder).await.unwrap();
    let id = service.submit(&job(json!({"create": false}))).await;
    until_locked_out(&warehouse, &service).await;
    assert_eq!(service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await.0, 202);
    let deadline = std::time::Instant::now() + PATIENCE;
    // The lock is still held.
    while service.get_all(&format!("/v1/jobs/{id}/chunks")).await[0]["state"] != "cancelled" {
        assert!(std::time::Instant::now() < deadline, "the attempt goes on:\n{}", service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = service.log();
    assert!(!log.contains("the runner is killed"), "{log}");
    assert!(log.contains("CREATE INDEX ON \\\"scores\\\" (\\\"_job\\\", \\\"_chunk\\\")"), "what the table lacks is said: {log}");
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "cancelled");
    assert!(warehouse.rows("scores").await.is_empty(), "what was not committed is undone");
}

/// What a relay does with what it hears.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Relaying {
    /// Passes it on, up to a word of the client's.
    UpTo(&'static str),
    /// Keeps it.
    Nothing,
    /// Passes it on.
    All,
}

/// Stands between clients and a server behind a socket.
struct Relay {
    url: String,
    relaying: watch::Sender<Relaying>,
}

impl Relay {
    async fn before(url: &str, word: &'static str) -> Self {
        let folder = url.split("host=").nth(1).expect("a socket").split('&').next().expect("a folder").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = url.split('?').next().expect("a URL").replace("@localhost", &format!("@127.0.0.1:{port}")) + "?sslmode=disable";
        let relaying = watch::Sender::new(Relaying::UpTo(word));
        let shared = relaying.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(format!("{folder}/.s.PGSQL.5432")).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, shared.clone()));
                tokio::spawn(pass(from_server, to_client, shared.clone()));
            }
        });
        Self { url, relaying }
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, relaying: watch::Sender<Relaying>) {
    let (mut block, mut changes) = (vec![0; 64 * 1024], relaying.subscribe());
    while let Ok(count @ 1..) = from.read(&mut block).await {
        let block = &block[..count];
        relaying.send_if_modified(|relaying| match relaying {
            Relaying::UpTo(word) if block.windows(word.len()).any(|window| window == word.as_bytes()) => {
                *relaying = Relaying::Nothing;
                true
            }
            _ => false,
        });
        let passes = changes.wait_for(|relaying| *relaying != Relaying::Nothing).await.is_ok();
        if !passes || to.write_all(block).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_database_that_falls_silent_is_waited_for_while_other_jobs_have_the_slot() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    warehouse.configure("statement_timeout = 5\n");
    let relay = Relay::before(&warehouse.url, "COPY pg_temp").await;
    let options = warehouse.options_through(&relay.url).arg("--chunk-slots", "1");
    let service = Service::start(&s3, options).await;
    let mut definition = job(json!({}));
    definition["execution"] = json!({"priority": 10, "max_attempts": 1});
    let id = service.submit(&definition).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while !service.log().contains("is given back") {
        assert!(std::time::Instant::now() < deadline, "the attempt waits for ever:\n{}", service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let plain = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/plain/"});
    done(&service, &plain).await;
    assert_eq!(service.job(&id).await["state"], "in_progress");
    let chunk = service.get_all(&format!("/v1/jobs/{id}/chunks")).await.remove(0);
    assert_eq!((&chunk["failures"], &chunk["error"]["type"]), (&json!(0), &json!("urn:nightshift:problem:table_unavailable")), "{chunk:#}");
    relay.relaying.send_replace(Relaying::All);
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "its one attempt was not spent: {job:#}");
    assert_same(&s3, &warehouse, &id).await;
    assert!(!service.log().contains("the runner is killed"), "{}", service.log());
}

#[tokio::test]
async fn a_database_that_only_reads_ends_the_job_after_its_attempts_and_says_why() {
    let (s3, warehouse) = (ridge().await, Warehouse::new().await);
    s3.put_fixture("data/diabetes/csv", "lake", "in/");
    let database = warehouse.url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    warehouse.say(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await;
    let service = Service::start(&s3, warehouse.options()).await;
    let mut definition = job(json!({}));
    definition["execution"] = json!({"max_attempts": 1});
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!((&job["state"], &job["error"]["type"]), (&json!("failed"), &json!("urn:nightshift:problem:table_unable")), "{job:#}");
    assert!(job["error"]["detail"].as_str().unwrap().contains("read-only"), "{job:#}");
}

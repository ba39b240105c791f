//! Reads what a job wrote, checks it against its manifest, and compares it with golden predictions.

use std::{collections::BTreeMap, io::Read};

use nightshift::{
    domain::{
        PartNames,
        spec::{OutputCompression, OutputFormat},
    },
    runner::encode::PartEncoder,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{S3Server, fixture};

/// Columns of data/diabetes, in the order of the model's features.
pub const DIABETES_COLUMNS: [&str; 10] = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"];

pub type Row = Map<String, Value>;

/// Everything below a finished job's output prefix.
pub struct Output {
    pub manifest: Value,
    /// Rows of all parts, in the manifest's order.
    pub rows: Vec<Row>,
    /// Error rows of all parts, in the manifest's order.
    pub errors: Vec<Row>,
    /// Every key below the prefix, relative to it.
    keys: Vec<String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Output {
    pub fn read(s3: &S3Server, bucket: &str, prefix: &str) -> Self {
        let keys: Vec<String> = s3.keys(bucket, prefix).into_iter().map(|k| k[prefix.len()..].to_owned()).collect();
        let files: BTreeMap<String, Vec<u8>> = keys.iter().map(|k| (k.clone(), s3.get(bucket, &format!("{prefix}{k}")))).collect();
        Self::of(keys, files)
    }

    /// The same from a folder of this machine.
    pub fn read_folder(folder: &std::path::Path) -> Self {
        let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(|e| e.expect("an entry"));
        let files: BTreeMap<String, Vec<u8>> = entries
            .filter(|e| e.file_type().is_file())
            .map(|e| {
                (
                    e.path().strip_prefix(folder).expect("below").to_str().expect("UTF-8").to_owned(),
                    std::fs::read(e.path()).expect("a file"),
                )
            })
            .collect();
        Self::of(files.keys().cloned().collect(), files)
    }

    fn of(keys: Vec<String>, files: BTreeMap<String, Vec<u8>>) -> Self {
        let manifest: Value =
            serde_json::from_slice(files.get("_manifest.json").unwrap_or_else(|| panic!("no manifest among {keys:?}"))).expect("JSON");
        let (mut rows, mut errors) = (Vec::new(), Vec::new());
        for part in manifest["parts"].as_array().expect("parts") {
            if let Some(key) = part["key"].as_str() {
                rows.extend(read_rows(key, &files[key]));
            }
            if let Some(key) = part["errors"]["key"].as_str() {
                errors.extend(read_rows(key, &files[key]));
            }
        }
        Self { manifest, rows, errors, keys, files }
    }

    /// The manifest says exactly what is there, and the marker stands.
    pub fn check_invariants(&self) {
        let m = &self.manifest;
        let mut named = vec!["_manifest.json".to_owned()];
        if m["complete"] == true {
            assert!(self.keys.contains(&"_SUCCESS".to_owned()), "{:?}", self.keys);
            named.push("_SUCCESS".to_owned());
        }
        let (mut records, mut failed) = (0, 0);
        for (place, part) in m["parts"].as_array().unwrap().iter().enumerate() {
            if m["complete"] == true {
                assert_eq!(part["part"], place, "parts in order, none missing");
            }
            if let Some(key) = part["key"].as_str() {
                self.check_file(key, &part["bytes"], &part["sha256"], &part["records"]);
                named.push(key.to_owned());
            }
            if let Some(key) = part["errors"]["key"].as_str() {
                let errors = &part["errors"];
                self.check_file(key, &errors["bytes"], &errors["sha256"], &errors["records"]);
                assert_eq!(errors["records"], part["failed"]);
                named.push(key.to_owned());
            } else {
                assert_eq!(part["failed"], 0);
            }
            records += part["records"].as_u64().unwrap();
            failed += part["failed"].as_u64().unwrap();
        }
        assert_eq!(m["counts"]["succeeded"], records);
        assert_eq!(m["counts"]["failed"], failed);
        assert_eq!(m["counts"]["records"], records + failed);
        let mut keys = self.keys.clone();
        keys.sort();
        named.sort();
        assert_eq!(keys, named, "nothing lies there that the manifest does not name");
        let parts = |n: &&String| n.starts_with("errors/") || m["output"]["layout"] != "mirror" && !n.starts_with('_');
        assert!(named.iter().filter(parts).all(|n| PartNames::is_part(n)));
        self.assert_unique();
    }

    fn check_file(&self, key: &str, bytes: &Value, sha256: &Value, records: &Value) {
        let file = &self.files[key];
        let digest: String = Sha256::digest(file).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!((bytes.as_u64(), sha256.as_str()), (Some(file.len() as u64), Some(digest.as_str())), "{key}");
        assert_eq!(records.as_u64(), Some(read_rows(key, file).len() as u64), "{key}");
    }

    fn outcomes(&self) -> Vec<(String, u64)> {
        let place =
            |row: &Row| (row["_source"].as_str().expect("a source").to_owned(), number(&row["_position"]).unwrap_or(f64::MAX) as u64);
        let mut places: Vec<_> = self.rows.iter().chain(&self.errors).map(place).collect();
        places.sort();
        places
    }

    fn assert_unique(&self) {
        let places = self.outcomes();
        if let Some(twice) = places.windows(2).find(|w| w[0] == w[1]) {
            panic!("{:?} has two outcomes", twice[0]);
        }
    }

    /// Promise 2: exactly one outcome for each of these places.
    pub fn assert_one_outcome_each(&self, input: &[(String, u64)]) {
        let mut input = input.to_vec();
        input.sort();
        let found = self.outcomes();
        assert_eq!(found.len(), input.len());
        assert!(found == input, "the places of outcomes are those of the input");
    }

    /// What the parts hold, without their random names.
    pub fn part_digests(&self) -> Vec<String> {
        self.manifest["parts"].as_array().unwrap().iter().map(|p| format!("{} {}", p["sha256"], p["errors"]["sha256"])).collect()
    }
}

fn unpack(key: &str, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    if key.ends_with(".gz") {
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
    } else if key.ends_with(".zst") {
        plain = zstd::decode_all(bytes).expect("zstd");
    } else {
        plain = bytes.to_vec();
    }
    plain
}

/// The rows of a part, by the format that its name tells.
pub fn read_rows(key: &str, bytes: &[u8]) -> Vec<Row> {
    let plain = unpack(key, bytes);
    let stem = key.trim_end_matches(".gz").trim_end_matches(".zst");
    if stem.ends_with(".parquet") {
        return parquet_rows(bytes);
    }
    if stem.ends_with(".csv") {
        let mut reader = csv::Reader::from_reader(plain.as_slice());
        let names = reader.headers().expect("a header").clone();
        let cells = |record: csv::StringRecord| names.iter().zip(&record).map(|(n, c)| (n.to_owned(), json!(c))).collect();
        return reader.records().map(|r| cells(r.expect("CSV"))).collect();
    }
    let text = String::from_utf8(plain).expect("UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "{key}: the last line ends");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{key}: {e}: {line}"))).collect()
}

/// Rows of a Parquet file.
pub fn parquet_rows(bytes: &[u8]) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::copy_from_slice(bytes)).expect("Parquet").build().expect("Parquet");
    let mut encoder = PartEncoder::new(OutputFormat::Jsonl, OutputCompression::None);
    for batch in reader {
        encoder.write(&batch.expect("a batch")).expect("encodable");
    }
    let lines = encoder.finish().expect("encodable");
    let text = std::str::from_utf8(&lines).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Golden rows of a file below tests/fixtures/expected.
pub fn expected(name: &str) -> Vec<Row> {
    let bytes = fixture(&format!("expected/{name}"));
    if name.ends_with(".parquet") {
        return parquet_rows(&bytes);
    }
    let text = String::from_utf8(bytes).expect("UTF-8");
    // Python writes NaN and the infinities bare, which is no JSON: here they are the texts that Nightshift writes.
    let text = text.replace("-Infinity", "\"-Infinity\"").replace(": Infinity", ": \"Infinity\"").replace("NaN", "\"NaN\"");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}"))).collect()
}

/// A number, or a text that is one.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Whether two values agree: numbers within the tolerance, lists and objects piece by piece, a list of one and its element alike.
pub fn agree(found: &Value, wanted: &Value, tolerance: f64) -> bool {
    match (found, wanted) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a.iter().zip(b).all(|(a, b)| agree(a, b, tolerance)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && b.iter().all(|(k, b)| a.get(k).is_some_and(|a| agree(a, b, tolerance)))
        }
        (Value::Array(a), b) if a.len() == 1 => agree(&a[0], b, tolerance),
        (a, Value::Array(b)) if b.len() == 1 => agree(a, &b[0], tolerance),
        (Value::Number(a), Value::Number(b)) if a.is_i64() && b.is_i64() || a.is_u64() && b.is_u64() => a == b,
        (Value::Bool(_), _) | (_, Value::Bool(_)) | (Value::Null, _) | (_, Value::Null) => found == wanted,
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => (a - b).abs() <= tolerance * b.abs().max(1.0) || a.is_nan() && b.is_nan() || a == b,
            _ => a == b,
        },
    }
}

/// A CSV of ten numbers a row, in which every hundredth row has a cell that is no number; and how many rows have.
pub fn table(rows: usize) -> (String, usize) {
    (numbers(rows, |row| row % 100 == 99), rows / 100)
}

/// A CSV of ten numbers a row; the rows at `bad` have a cell that is no number.
pub fn patients(rows: usize, bad: &[usize]) -> Vec<u8> {
    numbers(rows, |row| bad.contains(&row)).into_bytes()
}

fn numbers(rows: usize, is_bad: impl Fn(usize) -> bool) -> String {
    let mut text = DIABETES_COLUMNS.join(",") + "\n";
    for row in 0..rows {
        let cell = |column: usize| match column {
            3 if is_bad(row) => "n/a".to_owned(),
            _ => format!("{:.4}", ((row * 31 + column * 17) % 1000) as f64 / 10_000.0),
        };
        text += &(0..10).map(cell).collect::<Vec<_>>().join(",");
        text.push('\n');
    }
    text
}

/// Places of the records of a plain CSV object with a header and no quotes.
pub fn csv_positions(s3: &S3Server, bucket: &str, key: &str) -> Vec<(String, u64)> {
    let text = s3.get(bucket, key);
    let mut starts = vec![0u64];
    starts.extend(text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at as u64 + 1));
    starts.into_iter().skip(1).filter(|at| *at < text.len() as u64).map(|at| (key.to_owned(), at)).collect()
}

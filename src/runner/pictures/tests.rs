//! Where pictures are found.

use std::path::PathBuf;

use arrow::array::{AsArray, StringArray};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use super::*;
use crate::{
    objects::{Options, Stores},
    runner::batch::{ENCODING_JSON, Provenance},
};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on, some bytes \xff\xfe\xfd";

/// A folder with pictures, and who looks for them there.
struct Here {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Here {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("in/a.png", PNG), ("in/deep/b", b"b"), ("in/large.png", &[0; 101]), ("secret.png", b"s")] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        Self { runtime: tokio::runtime::Runtime::new().unwrap(), folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    fn pictures(&self, source: ImageSource, include: &IncludeInput) -> Pictures {
        let stores = Stores::new(Options { file_roots: vec![self.root().join("in")], ..Options::default() }).unwrap();
        let input = Uri::parse(&format!("file://{}/in/table.csv", self.root().display())).unwrap();
        let image = serde_json::json!({
            "input": "x", "column": "image", "source": source, "size": null, "resize": "none", "resample": "bilinear", "crop": null, "pad_value": 0,
            "channels": "RGB", "layout": "NCHW", "scale": 1.0, "mean": [0.0], "std": [1.0], "alpha": "white"
        });
        let image: Image = serde_json::from_value(image).unwrap();
        let bucket = stores.open(&input).unwrap();
        Pictures::new(&image, include, bucket, &input, self.runtime.handle().clone(), Arc::default(), 100)
    }
}

fn batch(texts: Vec<Option<String>>, encoding: Option<&str>) -> Batch {
    let metadata = encoding.map_or_else(Metadata::default, |encoding| [(ENCODING, encoding)].into());
    let rows = texts.len() as u64;
    let columns = vec![Arc::new(StringArray::from(texts)) as ArrayRef];
    let schema = Schema::new(vec![Field::new("image", DataType::Utf8, true).with_metadata(metadata)]);
    Batch { provenance: Provenance::of("t".into(), 0..rows), columns: RecordBatch::try_new(Arc::new(schema), columns).unwrap() }
}

fn texts(texts: &[&str]) -> Batch {
    batch(texts.iter().map(|text| Some((*text).to_owned())).collect(), None)
}

type Row = (u64, Vec<u8>);
type Lost = (u64, String);

/// Position and picture of each row, position and code of each error.
fn found(pictures: &Pictures, batch: Batch) -> (Vec<Row>, Vec<Lost>) {
    let found = pictures.find(batch).unwrap();
    let rows = found.batches.iter().flat_map(|b| {
        let column = b.columns.column_by_name("image").unwrap().as_binary::<i32>();
        b.provenance.rows.iter().zip(column.iter()).map(|(row, picture)| (row.position, picture.unwrap().to_vec())).collect::<Vec<_>>()
    });
    (rows.collect(), found.errors.iter().map(|e| (e.position.unwrap(), e.code.clone())).collect())
}

#[test]
fn keys_are_relative_to_the_input_or_full_locations_in_its_bucket() {
    let here = Here::new();
    let full = format!("file://{}/in/deep/b", here.root().display());
    let (rows, errors) = found(&here.pictures(ImageSource::Auto, &IncludeInput::None), texts(&["a.png", "gone.png", &full, "deep/b"]));
    assert_eq!(rows, [(0, PNG.to_vec()), (2, b"b".to_vec()), (3, b"b".to_vec())]);
    assert_eq!(errors, [(1, "object_not_found".to_owned())]);
}

#[test]
fn no_key_leads_out_of_the_input() {
    let here = Here::new();
    let outside = format!("file://{}/secret.png", here.root().display());
    let keys =
        ["../secret.png", "deep/../../secret.png", "/etc/passwd", &outside, "s3://other/a.png", "http://127.0.0.1/a.png", "a//b", "a\nb"];
    let (rows, errors) = found(&here.pictures(ImageSource::Key, &IncludeInput::None), texts(&keys));
    assert!(rows.is_empty(), "{rows:?}");
    let codes: Vec<&str> = errors.iter().map(|(_, code)| code.as_str()).collect();
    assert_eq!(codes[3], "outside_file_roots");
    assert!(codes.iter().enumerate().all(|(at, code)| at == 3 || *code == "invalid_key"), "{codes:?}");
}

#[test]
fn base64_is_told_from_keys_value_by_value() {
    let here = Here::new();
    let plain = BASE64_STANDARD.encode(PNG);
    let url_safe = BASE64_URL_SAFE_NO_PAD.encode(PNG);
    let data = format!("data:image/png;base64,{plain}");
    let values = [plain.as_str(), "a.png", &url_safe, &data, "deep/b", "data:image/png;base64,!"];
    let (rows, errors) = found(&here.pictures(ImageSource::Auto, &IncludeInput::None), texts(&values));
    let expected = [PNG, PNG, PNG, PNG, b"b"].map(<[u8]>::to_vec);
    assert_eq!(rows.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), expected);
    assert_eq!(errors, [(5, "invalid_base64".to_owned())]);
    let (rows, errors) = found(&here.pictures(ImageSource::Base64, &IncludeInput::None), texts(&["aGVsbG8", "a.png"]));
    assert_eq!((rows, errors), (vec![(0, b"hello".to_vec())], vec![(1, "invalid_base64".to_owned())]), "what is said is not guessed");
}

#[test]
fn what_is_missing_or_too_large_costs_its_record_only() {
    let here = Here::new();
    let values = vec![None, Some("large.png".into()), Some("  ".into()), Some("a.png".into())];
    let (rows, errors) = found(&here.pictures(ImageSource::Auto, &IncludeInput::None), batch(values, None));
    assert_eq!(rows, [(3, PNG.to_vec())]);
    assert_eq!(errors, [(0, "missing_value".to_owned()), (1, "record_too_large".to_owned()), (2, "missing_value".to_owned())]);
}

#[test]
fn json_texts_are_read_as_such_and_carried_as_they_were_found() {
    let here = Here::new();
    let pictures = here.pictures(ImageSource::Auto, &IncludeInput::All);
    let values = vec![Some("\"a.png\"".to_owned()), Some("7".to_owned()), None];
    let found = pictures.find(batch(values, Some(ENCODING_JSON))).unwrap();
    assert_eq!(found.errors.iter().map(|e| e.code.as_str()).collect::<Vec<_>>(), ["object_not_found", "missing_value"]);
    let columns = &found.batches[0].columns;
    assert_eq!(columns.column_by_name("image").unwrap().as_binary::<i32>().value(0), PNG);
    let carried = columns.schema_ref().fields().iter().position(|f| f.metadata().contains_key(CARRIED)).unwrap();
    assert_eq!(columns.column(carried).as_string::<i32>().value(0), "\"a.png\"");
    assert_eq!(columns.schema_ref().field(carried).metadata().get(ENCODING).map(String::as_str), Some(ENCODING_JSON));
}

#[test]
fn pictures_in_a_binary_column_pass() {
    let here = Here::new();
    let column: ArrayRef = Arc::new(BinaryArray::from_vec(vec![PNG]));
    let columns = RecordBatch::try_from_iter([("image", column)]).unwrap();
    let batch = Batch { provenance: Provenance::of("t".into(), [7]), columns };
    assert_eq!(found(&here.pictures(ImageSource::Key, &IncludeInput::All), batch).0, [(7, PNG.to_vec())]);
}

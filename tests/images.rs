//! Pictures in, classes and boxes out: the predictions of the reference in Python, and hostile pictures at the cost of one row each.

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use support::{
    S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
    fixture, fixture_files,
    golden::{self, Output, agree, number},
};

const PATIENCE: Duration = Duration::from_secs(180);

/// A table with a name and a picture a row.
fn table(pictures: &[(String, Vec<u8>)]) -> Vec<u8> {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(pictures.iter().map(|(name, _)| name)));
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(pictures.iter().map(|(_, bytes)| bytes)));
    let batch = RecordBatch::try_from_iter([("object", names), ("image", bytes)]).unwrap();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}

/// The pictures of a folder of fixtures, by name.
fn pictures(folder: &str) -> Vec<(String, Vec<u8>)> {
    let name = |file: &str| Path::new(file).file_name().unwrap().to_str().unwrap().to_owned();
    fixture_files(folder).iter().map(|file| (name(file), fixture(file))).collect()
}

async fn start() -> (S3Server, Service) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    (s3, service)
}

/// Runs a model over a prefix; the names of pictures are carried along.
async fn run(s3: &S3Server, service: &Service, model: &str, input: &str, pipeline: Value) -> Output {
    let out = format!("out/{}/", uuid::Uuid::now_v7());
    let definition = json!({
        "model": format!("s3://lake/{model}"),
        "input": format!("s3://lake/{input}"),
        "output": {"uri": format!("s3://lake/{out}"), "include_input": ["object"]},
        "pipeline": pipeline,
    });
    let id = service.submit(&definition).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = Output::read(s3, "lake", &out);
    output.check_invariants();
    output
}

#[tokio::test]
async fn image_models_run_from_their_folders_with_no_settings_and_give_the_golden_predictions() {
    let (s3, service) = start().await;
    for (model, data, count) in [("imagenet-tags", "photos", 22), ("digits", "digits", 297), ("text-orientation", "text-lines", 24)] {
        s3.put_fixture(&format!("models/{model}"), "lake", &format!("{model}/"));
        s3.put("lake", &format!("in/{model}/pictures.parquet"), &table(&pictures(&format!("data/{data}"))));
        let output = run(&s3, &service, &format!("{model}/"), &format!("in/{model}/"), json!({})).await;
        let wanted = golden::expected(&format!("{model}.jsonl"));
        assert_eq!((output.rows.len(), output.errors.len(), wanted.len()), (count, 0, count), "{model}");
        let mut worst: f64 = 0.0;
        for (row, want) in output.rows.iter().zip(&wanted) {
            assert_eq!(row["object"], want["object"]);
            // The tags list their best five; the others every class.
            let (label, score, lead, tolerance) = match want.get("scores") {
                Some(scores) => {
                    let score = |at: usize| number(&scores[at]).unwrap();
                    (&want["labels"][0], score(0), score(0) - score(1), 0.02)
                }
                None => {
                    let all: Vec<f64> = want["probabilities"].as_array().unwrap().iter().filter_map(number).collect();
                    (&want["label"], all.iter().copied().fold(0.0, f64::max), 1.0, 1e-4)
                }
            };
            let found = number(&row["score"]).unwrap();
            worst = worst.max((found - score).abs());
            assert!((found - score).abs() <= tolerance, "{model}: {row:?}\n{want:?}");
            assert!(row["label"] == *label || lead <= 0.02, "{model}: {row:?}\n{want:?}");
        }
        let same = output
            .rows
            .iter()
            .zip(&wanted)
            .filter(|(row, want)| Some(&row["label"]) == want.get("label").or(want.get("labels").and_then(|l| l.get(0))));
        let same = same.count();
        println!("{model}: {same} of {count} labels equal, scores within {worst:.2e}");
        assert_eq!(same, count, "{model}: the best label is the reference's for every picture");
    }
}

/// The same model as timm publishes one, and as Optimum lays one out beside a quantized variant that the job names.
#[tokio::test]
async fn folders_of_timm_and_optimum_give_the_predictions_of_the_processors_folder() {
    let (s3, service) = start().await;
    let file = |name: &str| fixture(&format!("models/imagenet-tags/{name}"));
    let config: Value = serde_json::from_slice(&file("config.json")).unwrap();
    let names: Vec<&Value> = (0..1000).map(|id| &config["id2label"][id.to_string()]).collect();
    let timm = json!({
        "architecture": "tf_efficientnet_lite0", "num_classes": 1000, "label_names": names,
        "pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
                           "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    });
    s3.put("lake", "timm/config.json", timm.to_string().as_bytes());
    s3.put("lake", "timm/model.onnx", &file("model.onnx"));
    s3.put("lake", "optimum/onnx/model.onnx", &fixture("models/digits/model.onnx"));
    s3.put("lake", "optimum/onnx/model_quantized.onnx", &file("model.onnx"));
    for name in ["config.json", "preprocessor_config.json"] {
        s3.put("lake", &format!("optimum/{name}"), &file(name));
    }
    s3.put("lake", "in/photos.parquet", &table(&pictures("data/photos")));
    let wanted = golden::expected("imagenet-tags.jsonl");
    for model in ["timm/", "optimum/onnx/model_quantized.onnx"] {
        let output = run(&s3, &service, model, "in/", json!({})).await;
        assert_eq!((output.rows.len(), output.errors.len()), (22, 0), "{model}");
        // timm drops transparency, which this golden composites on white.
        for (row, want) in output.rows.iter().zip(&wanted).filter(|(row, _)| row["object"] != "minduka-alpha.png" || model != "timm/") {
            assert_eq!((&row["object"], &row["label"]), (&want["object"], &want["labels"][0]), "{model}");
            assert!((number(&row["score"]).unwrap() - number(&want["scores"][0]).unwrap()).abs() <= 0.02, "{model}: {row:?}\n{want:?}");
        }
    }
}

#[tokio::test]
async fn a_model_of_the_other_layout_order_and_values_runs_with_a_short_nightshift_json() {
    let (s3, service) = start().await;
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(".models/open-nsfw/open-nsfw.onnx");
    let model = std::fs::read(&model).unwrap_or_else(|e| panic!("{}: {e}; scripts/test fetches it", model.display()));
    s3.put("lake", "nsfw/model.onnx", &model);
    let section = json!({
        "task": "image-classification", "labels": ["safe", "unsafe"], "probabilities": true,
        "image": {"channels": "BGR", "scale": 1, "mean": [104, 117, 123]},
    });
    s3.put("lake", "nsfw/nightshift.json", section.to_string().as_bytes());
    s3.put("lake", "in/photos.parquet", &table(&pictures("data/photos")));
    let output = run(&s3, &service, "nsfw/", "in/", json!({})).await;
    let wanted = golden::expected("open-nsfw.jsonl");
    assert_eq!((output.rows.len(), output.errors.len()), (22, 0));
    let mut worst: f64 = 0.0;
    for (row, want) in output.rows.iter().zip(&wanted) {
        assert_eq!(row["object"], want["object"]);
        for (class, name) in ["safe", "unsafe"].iter().enumerate() {
            let difference = number(&row["probabilities"][name]).unwrap() - number(&want["probabilities"][class]).unwrap();
            worst = worst.max(difference.abs());
            assert!(difference.abs() <= 0.01, "{row:?}\n{want:?}");
        }
    }
    println!("open-nsfw: probabilities within {worst:.2e}");
}

#[tokio::test]
async fn a_threshold_lists_the_classes_above_it_and_sigmoid_scores_stand_alone() {
    let (s3, service) = start().await;
    s3.put_fixture("models/imagenet-tags", "lake", "tags/");
    s3.put("lake", "in/photos.parquet", &table(&pictures("data/photos")));
    // Several labels a picture, as config.json says it.
    let config = String::from_utf8(fixture("models/imagenet-tags/config.json")).unwrap();
    s3.put("lake", "several/config.json", config.replace("single_label", "multi_label").as_bytes());
    for file in ["model.onnx", "preprocessor_config.json"] {
        s3.put("lake", &format!("several/{file}"), &fixture(&format!("models/imagenet-tags/{file}")));
    }
    let threshold = json!({"task": "image-classification", "threshold": 0.05});
    s3.put("lake", "tags/nightshift.json", threshold.to_string().as_bytes());
    let output = run(&s3, &service, "tags/", "in/", json!({})).await;
    for (row, want) in output.rows.iter().zip(&golden::expected("imagenet-tags.jsonl")) {
        let scores: Vec<f64> = row["scores"].as_array().unwrap().iter().filter_map(number).collect();
        assert_eq!(scores.len(), row["labels"].as_array().unwrap().len());
        assert!(scores.iter().all(|s| *s >= 0.05) && scores.is_sorted_by(|a, b| a >= b), "{row:?}");
        let clearly = want["scores"].as_array().unwrap().iter().filter_map(number).filter(|s| *s >= 0.07).count();
        assert!(scores.len() >= clearly, "{row:?}\n{want:?}");
    }
    let sums = |output: &Output| -> Vec<f64> {
        let of = |row: &golden::Row| row["probabilities"].as_object().unwrap().values().filter_map(number).sum();
        output.rows.iter().map(of).collect()
    };
    let output = run(&s3, &service, "several/", "in/", json!({"probabilities": true})).await;
    assert!(sums(&output).iter().all(|sum| (sum - 1.0).abs() > 0.1), "sigmoids of a thousand classes do not add up to 1");
    let output = run(&s3, &service, "several/", "in/", json!({"probabilities": true, "activation": "softmax"})).await;
    assert!(
        sums(&output).iter().all(|sum| (sum - 1.0).abs() < 1e-4),
        "all of a thousand classes are there, though ImageNet has two cranes"
    );
}

#[tokio::test]
async fn every_family_of_detectors_gives_its_boxes_in_pixels_of_the_original_picture() {
    let (s3, service) = start().await;
    let photos = ["china.jpg", "rocket-portrait.jpg", "grace-exif-rotated.jpg"];
    let photos: Vec<_> = photos.iter().map(|name| ((*name).to_owned(), fixture(&format!("data/photos/{name}")))).collect();
    s3.put("lake", "in/photos.parquet", &table(&photos));
    for name in ["yolov5", "yolox", "yolov8", "yolov8-transposed", "end-to-end", "separate", "tensorflow", "detr", "rt-detr", "detr-mask"] {
        s3.put_fixture(&format!("models/detect/{name}"), "lake", &format!("{name}/"));
        let output = run(&s3, &service, &format!("{name}/"), "in/", json!({})).await;
        let wanted = golden::expected(&format!("detect/{name}.jsonl"));
        assert_eq!((output.rows.len(), output.errors.len()), (3, 0), "{name}: {:?}", output.errors);
        let mut boxes = 0;
        for (row, want) in output.rows.iter().zip(&wanted) {
            assert_eq!(row["object"], want["object"]);
            assert!(agree(&row["detections"], &want["detections"], 1e-4), "{name}:\n{row:?}\n{want:?}");
            boxes += want["detections"].as_array().unwrap().len();
        }
        assert!(boxes > 6 || name == "detr-mask" && boxes == 3, "{name} finds something");
    }
}

/// A real detector whose boxes come as its cells tell them, over characters drawn on photographs: one wide, one tall, one turned by its EXIF
/// orientation.
#[tokio::test]
async fn a_real_detector_finds_characters_where_the_reference_finds_them() {
    let (s3, service) = start().await;
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(".models/character-detector.onnx");
    let model = std::fs::read(&model).unwrap_or_else(|e| panic!("{}: {e}; scripts/test fetches it", model.display()));
    s3.put("lake", "detector/model.onnx", &model);
    let mut section = json!({
        "task": "object-detection", "labels": ["character"], "threshold": 0.5,
        "image": {"resize": "letterbox", "position": "top_left", "channels": "BGR", "scale": 1},
    });
    s3.put("lake", "detector/nightshift.json", section.to_string().as_bytes());
    s3.put("lake", "in/characters.parquet", &table(&pictures("data/characters")));

    // Whether the graph has decoded its boxes is not in its shapes, and a wrong guess would give boxes that mean nothing.
    let definition = json!({"model": "s3://lake/detector/", "input": "s3://lake/in/", "output": "s3://lake/refused/"});
    let (status, answer) = service.post("/v1/jobs", &definition).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (422, &json!("unknown_head")), "{answer:#}");
    assert!(answer["errors"][0]["detail"].as_str().unwrap().contains("\"yolov5\", \"yolox\""), "{answer:#}");

    section["head"] = json!("yolox");
    s3.put("lake", "detector/nightshift.json", section.to_string().as_bytes());
    let output = run(&s3, &service, "detector/", "in/", json!({})).await;
    let wanted = golden::expected("characters.jsonl");
    assert_eq!((output.rows.len(), output.errors.len(), wanted.len()), (3, 0, 3));
    let (mut off, mut score_off): (f64, f64) = (0.0, 0.0);
    for (row, want) in output.rows.iter().zip(&wanted) {
        assert_eq!(row["object"], want["object"]);
        let (found, wanted) = (row["detections"].as_array().unwrap(), want["detections"].as_array().unwrap());
        assert_eq!((found.len(), wanted.len()), (5, 5), "{row:?}\n{want:?}");
        // Scores that are nearly equal may change places.
        for want in wanted {
            let box_of = |detection: &Value| -> Vec<f64> { detection["box"].as_array().unwrap().iter().filter_map(number).collect() };
            let distance = |found: &Value| box_of(found).iter().zip(box_of(want)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let nearest = found.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            off = off.max(distance(nearest));
            score_off = score_off.max((number(&nearest["score"]).unwrap() - number(&want["score"]).unwrap()).abs());
            assert_eq!(nearest["label"], "character");
        }
    }
    println!("characters: boxes within {off:.3} pixels, scores within {score_off:.2e}");
    assert!(off < 0.5 && score_off < 0.01, "{off} pixels, {score_off}");
}

#[tokio::test]
async fn broken_pictures_and_bombs_cost_one_row_each_and_the_runner_stays_small() {
    let (s3, service) = start().await;
    s3.put_fixture("models/imagenet-tags", "lake", "tags/");
    let mut all = pictures("data/photos-broken");
    let mut add = |name: &str, bytes: Vec<u8>| all.push((name.to_owned(), bytes));
    add("bomb.png", claiming_png(60_000, 60_000));
    add("claims.png", claiming_png(9_000, 9_000));
    add("claims.jpg", claiming_jpeg(65_000, 65_000));
    add("claims-less.jpg", claiming_jpeg(9_000, 9_000));
    add("zeros.jpg", vec![0; 10 << 20]);
    add("wide.gif", claiming_gif(65_000, 65_000, 1));
    add("endless.gif", claiming_gif(40, 40, 20_000));
    add("endless-frame.gif", endless_gif(10 << 20));
    let codes = [
        ("empty.jpg", "image_empty"),
        ("text.png", "image_unknown_format"),
        ("truncated.jpg", "image_truncated"),
        ("zeros.jpg", "image_unknown_format"),
        ("bomb.png", "image_too_large"),
        ("claims.png", "image_truncated"),
        ("claims.jpg", "image_too_large"),
        ("claims-less.jpg", "image_truncated"),
        ("zeros.jpg", "image_unknown_format"),
        ("wide.gif", "image_too_large"),
        ("endless.gif", "image_truncated"),
        ("endless-frame.gif", "image_truncated"),
    ];
    // A good neighbour before each.
    let good = fixture("data/photos/china.jpg");
    let mixed: Vec<_> = all.into_iter().flat_map(|bad| [("china.jpg".to_owned(), good.clone()), bad]).collect();
    s3.put("lake", "in/mixed.parquet", &table(&mixed));
    // The same as objects, and as files of one archive.
    let mut archive = tar::Builder::new(Vec::new());
    for (at, (name, bytes)) in mixed.iter().enumerate() {
        s3.put("lake", &format!("objects/{at:02}-{name}"), bytes);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, format!("{at:02}-{name}"), bytes.as_slice()).unwrap();
    }
    s3.put("lake", "shards/0.tar", &archive.into_inner().unwrap());
    let output = run(&s3, &service, "tags/", "in/", json!({})).await;
    for input in ["objects/", "shards/"] {
        let out = format!("same/{input}");
        let definition = json!({"model": "s3://lake/tags/", "input": format!("s3://lake/{input}"), "output": format!("s3://lake/{out}")});
        let id = service.submit(&definition).await;
        let job = service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "completed", "{job:#}");
        let same = Output::read(&s3, "lake", &out);
        same.check_invariants();
        let code = |errors: &[golden::Row]| errors.iter().map(|e| e["code"].clone()).collect::<Vec<_>>();
        let prediction = |rows: &[golden::Row]| rows.iter().map(|r| (r["label"].clone(), r["score"].clone())).collect::<Vec<_>>();
        assert_eq!(code(&same.errors), code(&output.errors), "{input}");
        assert_eq!(prediction(&same.rows), prediction(&output.rows), "{input}");
    }
    let found: Vec<(u64, &str)> = output.errors.iter().map(|e| (e["_position"].as_u64().unwrap(), e["code"].as_str().unwrap())).collect();
    let wanted: Vec<(u64, &str)> = codes.iter().enumerate().map(|(at, (_, code))| (at as u64 * 2 + 1, *code)).collect();
    assert_eq!(found, wanted, "{:?}", output.errors);
    assert_eq!(output.rows.len(), codes.len());
    assert!(output.rows.iter().all(|row| row["label"] == output.rows[0]["label"] && row["score"] == output.rows[0]["score"]));
    let peaks: Vec<u64> = service.runner_pids().into_iter().map(|pid| peak_bytes(pid.as_raw_nonzero().get())).collect();
    assert!(!peaks.is_empty() && peaks.iter().all(|peak| *peak < 1 << 30), "{peaks:?}");
    println!("the runner's peak is {} MB", peaks[0] >> 20);
}

/// The most memory that a process has had, bytes.
fn peak_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A PNG of one pixel whose header speaks of many more.
fn claiming_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = fixture("data/photos/tiny-1x1.png");
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

/// A small JPEG whose frame header speaks of more pixels than it has.
fn claiming_jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = fixture("data/photos/china.jpg");
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).expect("a baseline frame");
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

/// A GIF of so many frames that never come to an end: the data of each are cut off.
fn claiming_gif(width: u16, height: u16, frames: usize) -> Vec<u8> {
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
    bytes.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    for _ in 0..frames {
        bytes.push(0x2c);
        bytes.extend([0, 0, 0, 0]);
        bytes.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
        bytes.extend([0, 2, 2, 0x44, 0x01, 0]);
    }
    bytes
}

/// A GIF whose one frame has so many bytes of data that say nothing, and no end.
fn endless_gif(bytes: usize) -> Vec<u8> {
    let mut gif = claiming_gif(40, 40, 1);
    // In place of the frame's own data and their end: codes that clear the table, over and over.
    gif.truncate(gif.len() - 4);
    let block = [vec![255], [0x24, 0x49, 0x92].repeat(85)].concat();
    gif.extend(block.iter().copied().cycle().take(bytes));
    gif
}

#[test]
fn inspecting_pictures_shows_how_far_each_is_from_what_pillow_makes_of_it() {
    // The golden cases begin with every photograph at 48 × 48, as bytes.
    let photos = pictures("data/photos");
    let golden = &fixture("expected/pixels.bin")[..photos.len() * 48 * 48 * 3];
    let folder = tempfile::tempdir().unwrap();
    let reference = folder.path().join("reference.npy");
    let save = |pixels: &[u8]| {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({}, 48, 48, 3), }}\n", photos.len());
        let length = (header.len() as u16).to_le_bytes();
        std::fs::write(&reference, [b"\x93NUMPY\x01\0", length.as_slice(), header.as_bytes(), pixels].concat()).unwrap();
    };
    save(golden);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let inspect = |form: &str, tolerance: &str| {
        let mut command = nightshift(None, None);
        command.args(["models", "inspect", "--output", form, "--tolerance", tolerance]).arg(fixtures.join("models/detect/tensorflow"));
        command.args(["--set", r#"image={"size": 48, "resize": "exact", "resample": "bilinear"}"#, "--compare"]).arg(&reference);
        command.arg("--image").args(photos.iter().map(|(name, _)| fixtures.join("data/photos").join(name)));
        Said::of(command.output().unwrap())
    };
    let said = inspect("json", "1");
    assert_eq!(said.code, 0, "{said:?}");
    let seen = said.json();
    let seen = seen["pictures"].as_array().unwrap();
    assert_eq!(seen.len(), 22);
    for (seen, (name, _)) in seen.iter().zip(&photos) {
        assert!(seen["picture"].as_str().unwrap().ends_with(name.as_str()));
        assert_eq!(seen["tensor"], json!([48, 48, 3]));
        assert!(seen["difference"]["largest"].as_f64().unwrap() <= 1.0, "{seen:#}");
        assert!(seen["difference"]["mean"].as_f64().unwrap() < 0.2, "{seen:#}");
    }
    let table = inspect("table", "1");
    println!("{}", table.out);
    assert!(table.out.contains("LARGEST DIFFERENCE OF 255") && table.out.lines().count() == 23, "{table:?}");

    // A pixel that is far off is found, and said.
    let mut spoiled = golden.to_vec();
    spoiled[48 * 48 * 3 + 7] ^= 0x80;
    save(&spoiled);
    let said = inspect("json", "1");
    assert_eq!((said.code, said.err.as_str()), (1, "nightshift: 1 of 22 pictures differ by more than 1 of 255\n"));
    assert!(said.json()["pictures"][1]["difference"]["largest"].as_f64().unwrap() >= 127.0);
    assert_eq!(inspect("json", "130").code, 0);
    save(&golden[..100]);
    assert!(inspect("json", "1").err.contains("holds 100 numbers"));
}

#[tokio::test]
async fn pictures_in_base64_in_json_lines_and_csv_give_the_predictions_of_bytes() {
    use base64::Engine;
    let (s3, service) = start().await;
    s3.put_fixture("models/digits", "lake", "digits/");
    let scans = &pictures("data/digits")[..20];
    s3.put("lake", "parquet/scans.parquet", &table(scans));
    let text = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let lines: Vec<String> = scans.iter().map(|(name, bytes)| json!({"object": name, "image": text(bytes)}).to_string()).collect();
    s3.put("lake", "jsonl/scans.jsonl", lines.join("\n").as_bytes());
    let rows: Vec<String> = scans.iter().map(|(name, bytes)| format!("{name},{}", text(bytes))).collect();
    s3.put("lake", "csv/scans.csv", format!("object,image\n{}\n", rows.join("\n")).as_bytes());
    let mut all = Vec::new();
    for format in ["parquet", "jsonl", "csv"] {
        let output = run(&s3, &service, "digits/", &format!("{format}/"), json!({"probabilities": true})).await;
        all.push(output.rows.iter().map(|r| (r["object"].clone(), r["label"].clone(), r["probabilities"].clone())).collect::<Vec<_>>());
    }
    assert_eq!(all[0].len(), 20);
    assert!(all[0] == all[1] && all[1] == all[2]);
}

#[tokio::test]
async fn what_the_files_leave_open_or_contradict_is_refused_with_the_setting_to_give() {
    let (s3, service) = start().await;
    let detector = "models/detect/yolov8/model.onnx";
    let cases = [
        (detector, json!({"task": "object-detection", "labels": ["a", "b", "c"]}), "unknown_image_values", "pipeline.image.scale"),
        (
            detector,
            json!({"task": "object-detection", "image": {"scale": 1, "size": [32]}, "labels": ["a", "b", "c"]}),
            "wrong_image_size",
            "size",
        ),
        (
            detector,
            json!({"task": "object-detection", "image": {"scale": 1, "channels": "L"}, "labels": ["a", "b", "c"]}),
            "wrong_channel_count",
            "channels",
        ),
        (
            detector,
            json!({"task": "object-detection", "image": {"scale": 1, "resize": "shortest_edge", "size": [64]}, "labels": ["a", "b", "c"]}),
            "wrong_image_size",
            "crop",
        ),
        (
            detector,
            json!({"task": "object-detection", "image": {"scale": 1, "mean": [1, 2]}, "labels": ["a", "b", "c"]}),
            "wrong_channel_count",
            "channel",
        ),
        (detector, json!({"task": "object-detection", "image": {"scale": 1}, "labels": ["a"]}), "unknown_head", "pipeline.outputs"),
        (
            detector,
            json!({"task": "object-detection", "image": {"scale": 1}, "labels": ["a"], "head": "yolov8"}),
            "wrong_head",
            "pipeline.labels",
        ),
        (
            "models/detect/yolov8-transposed/model.onnx",
            json!({"task": "object-detection", "image": {"scale": 1}}),
            "unknown_head",
            "pipeline.head",
        ),
        (
            "models/detect/rt-detr/model.onnx",
            json!({"task": "object-detection", "image": {"scale": 1}}),
            "unknown_activation",
            "pipeline.activation",
        ),
        (
            "models/detect/tensorflow/model.onnx",
            json!({"task": "object-detection", "image": {"scale": 0.5, "resize": "none"}}),
            "wrong_image_values",
            "scale",
        ),
        (
            "models/text-orientation/model.onnx",
            json!({"task": "image-classification", "image": {"scale": 1}}),
            "unknown_image_size",
            "pipeline.image.size",
        ),
        ("models/diabetes-ridge/model.onnx", json!({"task": "image-classification"}), "no_image_input", "raw"),
    ];
    for (at, (model, section, code, word)) in cases.into_iter().enumerate() {
        s3.put("lake", &format!("{at}/model.onnx"), &fixture(model));
        s3.put("lake", &format!("{at}/nightshift.json"), section.to_string().as_bytes());
        let definition = json!({"model": format!("s3://lake/{at}/"), "input": "s3://lake/in/", "output": format!("s3://lake/out/{at}/")});
        let (status, answer) = service.post("/v1/jobs", &definition).await;
        assert_eq!(status, 422, "{code}: {answer:#}");
        let fault = answer["errors"].as_array().unwrap().iter().find(|e| e["code"] == code);
        let fault = fault.unwrap_or_else(|| panic!("{code}: {answer:#}"));
        assert!(fault["hint"].as_str().unwrap().contains(word), "{fault:#}");
    }
}

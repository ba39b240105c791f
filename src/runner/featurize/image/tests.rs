//! Real photographs against what Pillow and numpy make of them; what is no picture, or half of one.

use std::{path::PathBuf, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray},
    datatypes::{DataType, Field},
};
use serde::Deserialize;

use super::*;
use crate::domain::{
    Dim, Signature, Task, ValueInfo, ValueType,
    pipeline::image::{Alpha, Channels, ImageSource, Position, Resample, Resize},
};

fn fixtures(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn read(path: &str) -> Vec<u8> {
    let path = fixtures(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn photos() -> Vec<String> {
    let folder = std::fs::read_dir(fixtures("data/photos")).unwrap();
    let mut names: Vec<String> = folder.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn plain(channels: Channels, resize: Resize, size: Option<[u32; 2]>) -> Image {
    let count = channels.count();
    Image {
        input: "x".to_owned(),
        column: "image".to_owned(),
        source: ImageSource::default(),
        size,
        resize,
        position: Position::Center,
        resample: Resample::Bilinear,
        crop: None,
        pad: None,
        mask: None,
        pad_value: 0,
        channels,
        layout: Layout::Nhwc,
        scale: 1.0,
        mean: vec![0.0; count],
        std: vec![1.0; count],
        alpha: Alpha::White,
    }
}

fn pipeline(image: &Image, dtype: Dtype) -> Pipeline {
    let shape = Some((0..4).map(|_| Dim::Dynamic(None)).collect());
    let inputs = vec![ValueInfo { name: "x".to_owned(), value: ValueType::Tensor { dtype, shape } }];
    Pipeline { image: Some(image.clone()), ..Pipeline::new(Task::Raw, Signature { inputs, outputs: Vec::new() }) }
}

fn run(image: &Image, dtype: Dtype, limits: ImageLimits, column: ArrayRef) -> Featurized {
    let batch = RecordBatch::try_from_iter([("image", column)]).unwrap();
    Pictures::resolve(&pipeline(image, dtype), image, limits, &batch).unwrap().featurize(&batch)
}

fn binary(pictures: &[&[u8]]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(pictures))
}

#[derive(Debug, Deserialize)]
struct Case {
    object: String,
    channels: Channels,
    resize: Resize,
    resample: Resample,
    size: [u32; 2],
    crop: Option<[u32; 2]>,
    pad_value: u8,
    shape: [usize; 3],
}

#[test]
fn every_photograph_resizes_as_pillow_does_to_within_one_of_255() {
    let golden = read("expected/pixels.bin");
    let index = String::from_utf8(read("expected/pixels.json")).unwrap();
    let mut rest = golden.as_slice();
    let (mut worst, mut cases) = (0, 0);
    for line in index.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let (want, after) = rest.split_at(case.shape.iter().product());
        rest = after;
        let base = plain(case.channels, case.resize, Some(case.size));
        let image = Image { resample: case.resample, crop: case.crop, pad_value: case.pad_value, ..base };
        let bytes = read(&format!("data/photos/{}", case.object));
        let found = run(&image, Dtype::Uint8, ImageLimits::default(), binary(&[&bytes]));
        assert_eq!(found.errors, [], "{case:?}");
        let (_, tensor) = &found.groups[0].inputs[0];
        assert_eq!(tensor.shape[1..], case.shape, "{case:?}");
        let TensorData::Uint8(values) = &tensor.data else { panic!("{case:?}") };
        let difference = values.iter().zip(want).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(difference <= 1, "{case:?}: a pixel differs by {difference}");
        worst = worst.max(difference);
        cases += 1;
    }
    assert!(rest.is_empty());
    println!("{cases} cases, the largest difference is {worst} of 255");
}

#[test]
fn a_photograph_cut_off_anywhere_is_an_error_and_never_half_a_picture() {
    let image = plain(Channels::Rgb, Resize::Exact, Some([8, 8]));
    for name in photos() {
        let bytes = read(&format!("data/photos/{name}"));
        let cuts: Vec<&[u8]> = [1, 2, 3, 5, 8, 9].iter().map(|tenth| &bytes[..bytes.len() * tenth / 10]).collect();
        let found = run(&image, Dtype::Fp32, ImageLimits::default(), binary(&cuts));
        let codes: Vec<&str> = found.errors.iter().map(|e| e.code).collect();
        // An animation's first frame may be whole while the file is not.
        let whole = found.groups.iter().map(|g| g.rows.len()).sum::<usize>();
        assert!(whole == 0 || name == "animated.webp", "{name}: {codes:?} and {whole} pictures");
        let known = ["image_truncated", "image_corrupt", "image_unknown_format"];
        assert!(codes.iter().all(|code| known.contains(code)), "{name}: {codes:?}");
        println!("{name}: {codes:?}");
    }
}

#[test]
fn what_is_no_picture_costs_its_own_row_and_says_why() {
    let good = read("data/photos/tiny-1x1.png");
    let png_of = |width: u32, height: u32| {
        let mut bytes = good.clone();
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let (bomb, claims) = (png_of(60_000, 60_000), png_of(9_000, 9_000));
    let zeros = vec![0; 10 << 20];
    let avif = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf".to_vec();
    let pictures: Vec<&[u8]> = vec![&good, b"", &zeros, b"this is not an image\n", &bomb, &claims, &avif, &good];
    let image = plain(Channels::Rgb, Resize::Exact, Some([2, 2]));
    let found = run(&image, Dtype::Fp32, ImageLimits::default(), binary(&pictures));
    let errors: Vec<(u32, &str)> = found.errors.iter().map(|e| (e.row, e.code)).collect();
    let wanted = [
        (1, "image_empty"),
        (2, "image_unknown_format"),
        (3, "image_unknown_format"),
        (4, "image_too_large"),
        (5, "image_truncated"),
        (6, "image_unsupported"),
    ];
    assert_eq!(errors, wanted, "{:?}", found.errors);
    assert_eq!(found.groups.len(), 1);
    assert_eq!(found.groups[0].rows, [0, 7]);
    let (_, tensor) = &found.groups[0].inputs[0];
    let red: Vec<f32> = [200.0, 10.0, 10.0].repeat(8);
    assert_eq!((tensor.shape.as_slice(), &tensor.data), ([2, 2, 2, 3].as_slice(), &TensorData::Fp32(red)));
}

/// PNG's checksum.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn limits_hold_before_decoding_and_are_named() {
    let bytes = read("data/photos/china.jpg");
    let image = plain(Channels::Rgb, Resize::None, None);
    let all = ImageLimits::default();
    for (limits, word) in [
        (ImageLimits { pixels: 1000, ..all }, "1000"),
        (ImageLimits { side: 639, ..all }, "639"),
        (ImageLimits { bytes: 100, ..all }, "100"),
        (ImageLimits { memory: 5000, ..all }, "5000"),
    ] {
        let found = run(&image, Dtype::Fp32, limits, binary(&[&bytes]));
        assert_eq!(found.errors[0].code, "image_too_large");
        assert!(found.errors[0].detail.contains(word), "{:?}", found.errors);
    }
    assert_eq!(run(&image, Dtype::Fp32, all, binary(&[&bytes])).errors, []);
}

#[test]
fn a_colour_profile_is_never_inflated() {
    use std::io::Write;
    let plain_png = read("data/photos/tiny-1x1.png");
    // 64 MiB of profile, behind the header.
    let mut profile = flate2::write::ZlibEncoder::new(b"iCCPx\0\0".to_vec(), flate2::Compression::fast());
    profile.write_all(&vec![0; 64 << 20]).unwrap();
    let profile = profile.finish().unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(&profile);
    let chunk = [&(profile.len() as u32 - 4).to_be_bytes(), profile.as_slice(), &crc.sum().to_be_bytes()].concat();
    let with_profile = [&plain_png[..33], &chunk, &plain_png[33..]].concat();
    assert_eq!(*png::without_profile(&with_profile), *plain_png);
    assert!(matches!(png::without_profile(&plain_png), std::borrow::Cow::Borrowed(_)));
    // However many there are, each is passed over once.
    let empty = [0, 0, 0, 0, b'i', b'C', b'C', b'P', 0, 0, 0, 0].repeat(500_000);
    let with_many = [&plain_png[..33], &empty, &plain_png[33..]].concat();
    assert_eq!(*png::without_profile(&with_many), *plain_png);
    // A chunk that never ends is the decoder's affair.
    assert_eq!(*png::without_profile(&with_profile[..200]), with_profile[..200]);
    let image = plain(Channels::Rgb, Resize::None, None);
    let limits = ImageLimits { memory: 1 << 20, ..ImageLimits::default() };
    let found = run(&image, Dtype::Uint8, limits, binary(&[&with_profile, &plain_png]));
    assert_eq!((found.errors.len(), found.groups[0].rows.len()), (0, 2), "{:?}", found.errors);
}

#[test]
fn elements_are_rescaled_then_normalised_in_the_models_order_of_channels() {
    let bytes = read("data/photos/tiny-1x1.png");
    let image = Image {
        scale: 0.5,
        mean: vec![1.0, 2.0, 4.0],
        std: vec![1.0, 2.0, 4.0],
        layout: Layout::Nchw,
        ..plain(Channels::Bgr, Resize::Exact, Some([1, 2]))
    };
    // (200, 10, 10) in red, green, blue.
    let want = [4.0, 4.0, 1.5, 1.5, 24.0, 24.0];
    for dtype in [Dtype::Fp32, Dtype::Fp16] {
        let found = run(&image, dtype, ImageLimits::default(), binary(&[&bytes]));
        let (_, tensor) = &found.groups[0].inputs[0];
        assert_eq!(tensor.shape, [1, 3, 1, 2]);
        let values: Vec<f64> = match &tensor.data {
            TensorData::Fp32(v) => v.iter().map(|v| f64::from(*v)).collect(),
            TensorData::Fp16(v) => v.iter().map(|v| v.to_f64()).collect(),
            other => panic!("{other:?}"),
        };
        assert_eq!(values, want);
    }
}

#[test]
fn pictures_of_one_shape_go_together_and_their_place_is_noted() {
    let (wide, tall) = (read("data/photos/china.jpg"), read("data/photos/rocket-portrait.jpg"));
    let image = plain(Channels::Rgb, Resize::ShortestEdge, Some([32, 0]));
    let found = run(&image, Dtype::Uint8, ImageLimits::default(), binary(&[&wide, &tall, &wide]));
    let groups: Vec<_> = found.groups.iter().map(|g| (g.rows.clone(), g.inputs[0].1.shape.clone())).collect();
    assert_eq!(groups, [(vec![0, 2], vec![2, 32, 47, 3]), (vec![1], vec![1, 47, 32, 3])]);
    let image = Image { crop: Some([32, 32]), ..image };
    let geometry = run(&image, Dtype::Uint8, ImageLimits::default(), binary(&[&wide])).notes.geometry[0].unwrap();
    assert_eq!((geometry.width, geometry.height, geometry.left, geometry.top), (640, 427, -7.0, 0.0));
    let image = plain(Channels::Rgb, Resize::Letterbox, Some([64, 64]));
    let geometry = run(&image, Dtype::Uint8, ImageLimits::default(), binary(&[&tall])).notes.geometry[0].unwrap();
    assert_eq!((geometry.left, geometry.top, geometry.scale_y), (10.0, 0.0, 0.1));
    let image = Image { position: Position::TopLeft, ..image };
    let geometry = run(&image, Dtype::Uint8, ImageLimits::default(), binary(&[&tall])).notes.geometry[0].unwrap();
    assert_eq!((geometry.left, geometry.top, geometry.scale_y), (0.0, 0.0, 0.1));
}

#[test]
fn a_padded_picture_ends_in_zeros_and_its_mask_says_where() {
    use crate::domain::pipeline::image::Mask;
    let (bytes, tall) = (read("data/photos/tiny-1x1.png"), read("data/photos/rocket-portrait.jpg"));
    let mask = |size| Some(Mask { input: "pixel_mask".to_owned(), size });
    let exact = plain(Channels::Rgb, Resize::Exact, Some([2, 1]));
    let padded = Image { layout: Layout::Nchw, mean: vec![1.0; 3], pad: Some([3, 2]), mask: mask(None), ..exact };
    let run = |image: &Image, dtype: Dtype, picture: &[u8]| {
        let mut pipeline = pipeline(image, Dtype::Fp32);
        let shape = Some((0..3).map(|_| Dim::Dynamic(None)).collect());
        pipeline.signature.inputs.push(ValueInfo { name: "pixel_mask".to_owned(), value: ValueType::Tensor { dtype, shape } });
        let batch = RecordBatch::try_from_iter([("image", binary(&[picture]))]).unwrap();
        Pictures::resolve(&pipeline, image, ImageLimits::default(), &batch).unwrap().featurize(&batch)
    };
    let found = run(&padded, Dtype::Int64, &bytes);
    let inputs = &found.groups[0].inputs;
    let plane = |value: f32| vec![value, 0.0, value, 0.0, 0.0, 0.0];
    let pixels: TensorData = [plane(199.0), plane(9.0), plane(9.0)].concat().into();
    assert_eq!(
        (&inputs[0].1.shape, &inputs[0].1.data),
        (&vec![1, 3, 3, 2], &pixels),
        "zeros after normalising, not the colour that becomes zero"
    );
    assert_eq!(inputs[1], ("pixel_mask".to_owned(), Tensor { shape: vec![1, 3, 2], data: vec![1i64, 0, 1, 0, 0, 0].into() }));
    let bools = &run(&padded, Dtype::Bool, &bytes).groups[0].inputs[1].1.data;
    assert_eq!(*bools, vec![true, false, true, false, false, false].into());
    let own = Image { pad: None, mask: mask(Some([2, 2])), ..padded.clone() };
    let floats = run(&own, Dtype::Fp32, &bytes);
    assert_eq!(floats.groups[0].inputs[1].1, Tensor { shape: vec![1, 2, 2], data: vec![1f32; 4].into() }, "nothing is padded");
    let open = Image { resize: Resize::ShortestEdge, size: Some([20, 0]), pad: Some([24, 24]), ..padded };
    assert_eq!(run(&open, Dtype::Int64, &tall).errors[0].code, "image_too_large", "20 × 29 pixels do not fit");
}

#[test]
fn pictures_come_as_bytes_in_structs_and_as_base64_in_typed_csv_and_json_columns() {
    use crate::runner::batch::{ENCODING, ENCODING_CSV, ENCODING_JSON};
    let bytes = read("data/photos/tiny-1x1.png");
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes);
    let image = plain(Channels::Rgb, Resize::None, None);
    let whole = |found: Featurized| (found.groups.iter().map(|g| g.rows.clone()).collect::<Vec<_>>(), found.errors);
    let of = |encoding: Option<&str>, cells: Vec<Option<String>>| {
        let field = Field::new("image", DataType::Utf8, true);
        let field = match encoding {
            Some(encoding) => field.with_metadata([(ENCODING.to_owned(), encoding.to_owned())]),
            None => field,
        };
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
        let batch = RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(cells))]).unwrap();
        whole(Pictures::resolve(&pipeline(&image, Dtype::Uint8), &image, ImageLimits::default(), &batch).unwrap().featurize(&batch))
    };
    let url = format!("data:image/png;base64,{}", text.trim_end_matches('='));
    let (rows, errors) = of(None, vec![Some(text.clone()), Some(url.clone()), None, Some("///?".to_owned())]);
    assert_eq!(rows, [[0, 1]]);
    assert_eq!(errors.iter().map(|e| e.code).collect::<Vec<_>>(), ["missing_value", "invalid_base64"]);
    let (rows, errors) = of(Some(ENCODING_CSV), vec![Some(text.clone()), Some(String::new())]);
    assert_eq!((rows, errors[0].code), (vec![vec![0]], "missing_value"));
    let cells = vec![Some(format!("\"{text}\"")), Some("null".to_owned()), Some("12".to_owned()), None];
    let (rows, errors) = of(Some(ENCODING_JSON), cells);
    assert_eq!(rows, [[0]]);
    assert_eq!(errors.iter().map(|e| e.code).collect::<Vec<_>>(), ["missing_value", "wrong_type", "missing_value"]);

    let members: Vec<(Arc<Field>, ArrayRef)> = vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), binary(&[&bytes])),
        (Arc::new(Field::new("path", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["a.png"]))),
    ];
    let (rows, errors) = whole(run(&image, Dtype::Uint8, ImageLimits::default(), Arc::new(StructArray::from(members))));
    assert_eq!((rows, errors), (vec![vec![0]], Vec::new()));
    let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("image", numbers)]).unwrap();
    let refused = Pictures::resolve(&pipeline(&image, Dtype::Uint8), &image, ImageLimits::default(), &batch).unwrap_err();
    assert_eq!(refused.code, "column_type");
}

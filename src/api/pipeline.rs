//! The pipeline section of a job definition, from JSON to [`PipelineSpec`].

use serde_json::Value;

use super::read::{Faults, Field};
use crate::domain::{
    Activation, Missing, PipelineSpec, Task,
    pipeline::{
        detection::Head,
        flags::{Flag, Flags},
        image::{Alpha, Channels, ImageSource, ImageSpec, Layout, Position, Resample, Resize},
        text::{Pooling, TextSpec},
    },
};

pub(super) const PIPELINE: [&str; 18] = [
    "task",
    "features",
    "columns",
    "missing",
    "labels",
    "activation",
    "top_k",
    "probabilities",
    "outputs",
    "image",
    "text",
    "threshold",
    "iou_threshold",
    "head",
    "pooling",
    "normalize",
    "dimensions",
    "flags",
];
pub(super) const IMAGE: [&str; 15] = [
    "column",
    "source",
    "size",
    "resize",
    "position",
    "resample",
    "crop",
    "pad",
    "pad_value",
    "channels",
    "layout",
    "scale",
    "mean",
    "std",
    "alpha",
];
pub(super) const TEXT: [&str; 3] = ["column", "pair", "max_length"];
pub(super) const FLAG: [&str; 3] = ["any_of", "min_score", "top_below"];

pub(super) const MISSING: [(&str, Missing); 2] = [("error", Missing::Error), ("nan", Missing::Nan)];
pub(super) const ACTIVATIONS: [(&str, Activation); 4] =
    [("auto", Activation::Auto), ("softmax", Activation::Softmax), ("sigmoid", Activation::Sigmoid), ("none", Activation::None)];
pub(super) const SOURCES: [(&str, ImageSource); 3] =
    [("auto", ImageSource::Auto), ("base64", ImageSource::Base64), ("key", ImageSource::Key)];
pub(super) const RESIZES: [(&str, Resize); 4] =
    [("exact", Resize::Exact), ("shortest_edge", Resize::ShortestEdge), ("letterbox", Resize::Letterbox), ("none", Resize::None)];
pub(super) const POSITIONS: [(&str, Position); 2] = [("center", Position::Center), ("top_left", Position::TopLeft)];
pub(super) const RESAMPLES: [(&str, Resample); 6] = [
    ("nearest", Resample::Nearest),
    ("lanczos", Resample::Lanczos),
    ("bilinear", Resample::Bilinear),
    ("bicubic", Resample::Bicubic),
    ("box", Resample::Box),
    ("hamming", Resample::Hamming),
];
pub(super) const CHANNELS: [(&str, Channels); 3] = [("RGB", Channels::Rgb), ("BGR", Channels::Bgr), ("L", Channels::Gray)];
pub(super) const LAYOUTS: [(&str, Layout); 2] = [("NCHW", Layout::Nchw), ("NHWC", Layout::Nhwc)];
pub(super) const ALPHAS: [(&str, Alpha); 2] = [("white", Alpha::White), ("drop", Alpha::Drop)];
pub(super) const POOLINGS: [(&str, Pooling); 5] =
    [("mean", Pooling::Mean), ("cls", Pooling::Cls), ("max", Pooling::Max), ("last", Pooling::Last), ("none", Pooling::None)];

/// Longest side that a picture can be brought to, pixels.
const LONGEST_SIDE: i64 = 16_384;
/// Most conditions of a job, and most labels of one.
const MOST_FLAGS: usize = 100;

/// Reads the section.
pub(super) fn read(field: &Field<'_>, faults: &mut Faults) -> PipelineSpec {
    let object = field.object(&PIPELINE, faults);
    PipelineSpec {
        task: object.field("task").choice(&Task::ALL.map(|task| (task.name(), task)), faults),
        features: object.field("features").texts(faults),
        columns: object.field("columns").text_map(faults),
        missing: object.field("missing").choice(&MISSING, faults),
        labels: object.field("labels").texts(faults),
        activation: object.field("activation").choice(&ACTIVATIONS, faults),
        top_k: object.field("top_k").integer(1..=1000, faults).map(|n| n as u32),
        probabilities: object.field("probabilities").bool(faults),
        outputs: object.field("outputs").texts(faults),
        image: image(&object.field("image"), faults),
        text: text(&object.field("text"), faults),
        threshold: object.field("threshold").share(faults),
        iou_threshold: object.field("iou_threshold").share(faults),
        head: object.field("head").choice(&Head::ALL.map(|head| (head.name(), head)), faults),
        pooling: object.field("pooling").choice(&POOLINGS, faults),
        normalize: object.field("normalize").bool(faults),
        dimensions: object.field("dimensions").integer(1..=1_000_000, faults).map(|n| n as u32),
        flags: flags(&object.field("flags"), faults),
    }
}

fn image(field: &Field<'_>, faults: &mut Faults) -> Option<ImageSpec> {
    let object = field.object(&IMAGE, faults);
    if !object.is_present() {
        return None;
    }
    let channels = object.field("channels").choice(&CHANNELS, faults);
    let scale = object.field("scale");
    let factor = scale.number(faults);
    if factor == Some(0.0) {
        faults.add(&scale, "out_of_range", "a scale of 0 makes every picture black", "give 1, or 0.00392156862745098 (1/255)");
    }
    let std = object.field("std");
    let divisors = a_number_a_channel(&std, channels, faults);
    if divisors.as_ref().is_some_and(|numbers| numbers.contains(&0.0)) {
        faults.add(&std, "out_of_range", "nothing can be divided by 0", "give the standard deviation of each channel, after scaling");
    }
    Some(ImageSpec {
        column: column(&object.field("column"), faults),
        source: object.field("source").choice(&SOURCES, faults),
        size: sides(&object.field("size"), faults),
        resize: object.field("resize").choice(&RESIZES, faults),
        position: object.field("position").choice(&POSITIONS, faults),
        resample: object.field("resample").choice(&RESAMPLES, faults),
        crop: sides(&object.field("crop"), faults),
        pad: sides(&object.field("pad"), faults),
        pad_value: object.field("pad_value").integer(0..=255, faults).map(|n| n as u8),
        channels,
        layout: object.field("layout").choice(&LAYOUTS, faults),
        scale: factor,
        mean: a_number_a_channel(&object.field("mean"), channels, faults),
        std: divisors,
        alpha: object.field("alpha").choice(&ALPHAS, faults),
    })
}

fn text(field: &Field<'_>, faults: &mut Faults) -> Option<TextSpec> {
    let object = field.object(&TEXT, faults);
    object.is_present().then(|| TextSpec {
        column: column(&object.field("column"), faults),
        pair: column(&object.field("pair"), faults),
        max_length: object.field("max_length").integer(1..=1_000_000, faults).map(|n| n as u32),
    })
}

fn column(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let name = field.text("write a column's name in quotes", faults)?;
    if name.is_empty() {
        faults.add(field, "empty", "no column has an empty name", "write a column's name");
    }
    Some(name.to_owned())
}

/// Height and width, or one number for both.
fn sides(field: &Field<'_>, faults: &mut Faults) -> Option<Vec<u32>> {
    const HINT: &str = "give height and width, such as [224, 224], or one number for both";
    if field.value().is_some_and(Value::is_number) {
        return field.integer(1..=LONGEST_SIDE, faults).map(|side| vec![side as u32]);
    }
    let items = field.items("a number or a list of two", HINT, faults)?;
    if !(1..=2).contains(&items.len()) {
        faults.add(field, "wrong_length", format!("{} numbers are no height and width", items.len()), HINT);
        return None;
    }
    let sides: Vec<Option<u32>> = items.iter().map(|item| item.integer(1..=LONGEST_SIDE, faults).map(|side| side as u32)).collect();
    sides.into_iter().collect()
}

fn a_number_a_channel(field: &Field<'_>, channels: Option<Channels>, faults: &mut Faults) -> Option<Vec<f64>> {
    const HINT: &str = "give one number a channel, such as [0.485, 0.456, 0.406]; for channels \"L\" a list of one";
    let items = field.items("a list of numbers", HINT, faults)?;
    let numbers: Vec<Option<f64>> = items.iter().map(|item| item.number(faults)).collect();
    let wanted: &[usize] = match channels {
        Some(Channels::Gray) => &[1],
        Some(Channels::Rgb | Channels::Bgr) => &[3],
        None => &[1, 3],
    };
    if !wanted.contains(&items.len()) {
        let wanted: Vec<String> = wanted.iter().map(usize::to_string).collect();
        faults.add(field, "wrong_length", format!("{} numbers for {} channels", items.len(), wanted.join(" or ")), HINT);
    }
    numbers.into_iter().collect()
}

fn flags(field: &Field<'_>, faults: &mut Faults) -> Option<Flags> {
    field.value()?;
    let object = field.any_object(faults);
    let entries = object.entries();
    if entries.len() > MOST_FLAGS {
        faults.add(field, "too_many", format!("{} flags are more than {MOST_FLAGS}", entries.len()), "keep those that someone acts on");
    }
    let mut flags = Flags::new();
    for (name, field) in entries {
        if name.is_empty() {
            faults.add(
                &field,
                "empty_key",
                "a flag needs a name",
                "write {\"needs_review\": {\"any_of\": [\"unsafe\"], \"min_score\": 0.6}}",
            );
        }
        if let Some(flag) = flag(&field, faults) {
            flags.insert(name, flag);
        }
    }
    Some(flags)
}

fn flag(field: &Field<'_>, faults: &mut Faults) -> Option<Flag> {
    const HINT: &str = "write {\"any_of\": [\"unsafe\"], \"min_score\": 0.6}, or {\"top_below\": 0.5}";
    if !field.required(HINT, faults) {
        return None;
    }
    let object = field.object(&FLAG, faults);
    if !object.is_present() {
        return None;
    }
    let (any_of, min_score, top_below) = (object.field("any_of"), object.field("min_score"), object.field("top_below"));
    match (any_of.is_present(), top_below.is_present()) {
        (true, false) => {
            let labels = any_of.texts(faults)?;
            if labels.is_empty() || labels.len() > MOST_FLAGS {
                faults.add(&any_of, "wrong_length", format!("a flag names 1 to {MOST_FLAGS} labels, not {}", labels.len()), HINT);
            }
            Some(Flag::AnyOf { any_of: labels, min_score: min_score.share(faults).unwrap_or_default() })
        }
        (false, true) => {
            if min_score.is_present() {
                faults.add(&min_score, "contradiction", "min_score belongs to any_of, and there is none", HINT);
            }
            Some(Flag::TopBelow { top_below: top_below.share(faults)? })
        }
        (true, true) => {
            faults.add(field, "contradiction", "any_of and top_below are two conditions", "give each a flag of its own");
            None
        }
        (false, false) => {
            faults.add(field, "missing", "a flag is a condition, and this one has none", HINT);
            None
        }
    }
}

//! What an image model's own files say of its pictures: Hugging Face's `preprocessor_config.json`, timm's `config.json`.

use serde_json::Value;

use crate::domain::{
    Fault,
    pipeline::image::{Alpha, Channels, ImageSpec, Layout, Resample, Resize},
};

const FILE: &str = "preprocessor_config.json";
/// A value from 0 to 255 becomes one from 0 to 1.
const UNIT: f64 = 1.0 / 255.0;
/// Processors that read a plain number as the shorter edge; the others read it as a square.
const BY_EDGE: [&str; 14] = [
    "Bit",
    "CLIP",
    "ChineseCLIP",
    "ConditionalDetr",
    "ConvNext",
    "DeformableDetr",
    "Detr",
    "Levit",
    "MobileNetV1",
    "MobileNetV2",
    "MobileViT",
    "PoolFormer",
    "ViTHybrid",
    "Yolos",
];
/// Processors whose filter is bicubic where the file names none; the others' is bilinear.
const BICUBIC: [&str; 10] = ["Beit", "Bit", "Blip", "CLIP", "ChineseCLIP", "DeiT", "Levit", "PoolFormer", "Siglip", "ViTHybrid"];
/// Processors of the DETR family: they fill pictures up to those that go with them, unless they are told not to.
const PADDED: [&str; 7] = ["ConditionalDetr", "DeformableDetr", "Deta", "Detr", "GroundingDino", "RTDetr", "Yolos"];
/// Steps that exist in processors and not here: asked for, they are a fault.
const UNSUPPORTED: [&str; 6] =
    ["size_divisor", "keep_aspect_ratio", "do_thumbnail", "do_align_long_axis", "do_image_splitting", "do_resize_and_pad"];

/// What the folder's files say; `None` where they speak of no pictures.
///
/// # Errors
/// A fault that names the step that is not supported, or the value that cannot be read.
pub(super) fn read(preprocessor: &Value, config: &Value) -> Result<Option<ImageSpec>, Fault> {
    let speaks_of_pictures = ["do_resize", "do_rescale", "do_normalize", "image_mean", "image_processor_type", "crop_size"];
    if speaks_of_pictures.iter().any(|key| preprocessor.get(key).is_some()) {
        return Processor::new(preprocessor).spec().map(Some);
    }
    match config.get("pretrained_cfg") {
        Some(timm @ Value::Object(_)) => timm_spec(timm).map(Some),
        _ => Ok(None),
    }
}

fn fault(file: &str, detail: impl std::fmt::Display) -> Fault {
    Fault::new("/model", "unsupported_preprocessing", format!("{file} in the model's folder: {detail}"))
        .hint("write an \"image\" section into nightshift.json beside it; it takes the place of that file")
}

/// A `preprocessor_config.json`.
struct Processor<'f> {
    file: &'f Value,
    /// `ConvNext` of `ConvNextImageProcessorFast` or `ConvNextFeatureExtractor`; empty where the file names no class.
    kind: &'f str,
}

impl<'f> Processor<'f> {
    fn new(file: &'f Value) -> Self {
        let class = ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| file[*key].as_str()).unwrap_or_default();
        let class = class.strip_suffix("Fast").unwrap_or(class);
        let kind = class.strip_suffix("ImageProcessor").or_else(|| class.strip_suffix("FeatureExtractor")).unwrap_or(class);
        Self { file, kind }
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.file[key].as_bool()
    }

    fn fault(&self, detail: impl std::fmt::Display) -> Fault {
        fault(FILE, detail)
    }

    fn spec(&self) -> Result<ImageSpec, Fault> {
        if let Some(key) = UNSUPPORTED.iter().find(|key| !matches!(self.file[**key], Value::Null | Value::Bool(false))) {
            return Err(self.fault(format!("{key} is not supported")));
        }
        if self.kind == "Perceiver" {
            return Err(self.fault("a crop before the resize is not supported"));
        }
        let mut spec = ImageSpec { layout: self.layout()?, channels: self.channels(), ..ImageSpec::default() };
        if self.flag("do_convert_rgb") == Some(true) {
            spec.alpha = Some(Alpha::Drop);
        }
        self.resize(&mut spec)?;
        if self.flag("do_center_crop") == Some(true) && spec.crop.is_none() && !self.crops_by_itself() {
            spec.crop = Some(self.pair("crop_size")?);
        }
        spec.pad = self.pad()?;
        self.values(&mut spec)?;
        Ok(spec)
    }

    /// What the tensor is filled up to. Without a `pad_size` that is the largest picture of a batch: pictures of one size go together
    /// here, so that there is nothing to fill.
    fn pad(&self) -> Result<Option<Vec<u32>>, Fault> {
        let by_default = PADDED.contains(&self.kind) && self.kind != "RTDetr";
        if !self.flag("do_pad").unwrap_or(by_default) {
            return Ok(None);
        }
        // Others pad before they resize, around the middle, or to a multiple.
        if !PADDED.contains(&self.kind) && !self.kind.is_empty() {
            return Err(self.fault(format!("do_pad of {:?} is not supported", self.kind)));
        }
        if self.file["pad_size"].is_null() { Ok(None) } else { self.pair("pad_size").map(Some) }
    }

    fn layout(&self) -> Result<Option<Layout>, Fault> {
        let said = ["data_format", "input_data_format"].iter().find_map(|key| self.file[*key].as_str());
        match said.map(str::to_ascii_lowercase).as_deref().map(|said| said.trim_start_matches("channeldimension.")) {
            None => Ok(None),
            Some("channels_first" | "first") => Ok(Some(Layout::Nchw)),
            Some("channels_last" | "last") => Ok(Some(Layout::Nhwc)),
            Some(other) => Err(self.fault(format!("data_format is {other:?}"))),
        }
    }

    fn channels(&self) -> Option<Channels> {
        if self.flag("do_grayscale") == Some(true) {
            return Some(Channels::Gray);
        }
        (self.flag("do_flip_channel_order") == Some(true)).then_some(Channels::Bgr)
    }

    /// ConvNext's processor crops as its `size` says, whatever `crop_size` is.
    fn crops_by_itself(&self) -> bool {
        self.kind == "ConvNext"
    }

    fn resize(&self, spec: &mut ImageSpec) -> Result<(), Fault> {
        let size = &self.file["size"];
        if self.flag("do_resize") == Some(false) || self.flag("do_resize").is_none() && size.is_null() {
            spec.resize = Some(Resize::None);
            return Ok(());
        }
        spec.resample = Some(self.resample()?);
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let longest = number(&size["longest_edge"]).or_else(|| number(&self.file["max_size"]));
        let (resize, numbers) = if let Some(number) = number(size) {
            match (self.kind, BY_EDGE.contains(&self.kind)) {
                ("", _) => {
                    return Err(self.fault(format!(
                        "size is {number}, which is the shorter edge for some processors and a square for others, and no class is named"
                    )));
                }
                (_, true) => (Resize::ShortestEdge, [number].into_iter().chain(longest).collect()),
                (_, false) => (Resize::Exact, vec![number, number]),
            }
        } else if let (Some(height), Some(width)) = (number(&size["height"]), number(&size["width"])) {
            (Resize::Exact, vec![height, width])
        } else if let Some(edge) = number(&size["shortest_edge"]) {
            (Resize::ShortestEdge, [edge].into_iter().chain(longest).collect())
        } else {
            return Err(self.fault(format!("size is {size}; a number, height and width, or shortest_edge are supported")));
        };
        self.quirks(spec, resize, numbers);
        Ok(())
    }

    /// What some processors make of `size` beyond what it says.
    fn quirks(&self, spec: &mut ImageSpec, resize: Resize, numbers: Vec<u32>) {
        let enlarged = |n: u32, part: f64| (f64::from(n) / part) as u32;
        let part = |default: f64| self.file["crop_pct"].as_f64().unwrap_or(default);
        (spec.resize, spec.size) = (Some(resize), Some(numbers.clone()));
        match (self.kind, resize, numbers.as_slice()) {
            ("ConvNext", Resize::ShortestEdge, [edge]) if *edge < 384 => {
                spec.size = Some(vec![enlarged(*edge, part(224.0 / 256.0))]);
                spec.crop = Some(vec![*edge, *edge]);
            }
            ("ConvNext", Resize::ShortestEdge, [edge]) => (spec.resize, spec.size) = (Some(Resize::Exact), Some(vec![*edge, *edge])),
            ("PoolFormer", Resize::ShortestEdge, [edge]) => spec.size = Some(vec![enlarged(*edge, part(0.9))]),
            ("PoolFormer", Resize::Exact, [height, width]) if height == width => {
                (spec.resize, spec.size) = (Some(Resize::ShortestEdge), Some(vec![enlarged(*height, part(0.9))]));
            }
            ("Levit", Resize::ShortestEdge, [edge]) => spec.size = Some(vec![(256.0 / 224.0 * f64::from(*edge)) as u32]),
            _ => {}
        }
    }

    fn resample(&self) -> Result<Resample, Fault> {
        Ok(match &self.file["resample"] {
            Value::Null if BICUBIC.contains(&self.kind) => Resample::Bicubic,
            Value::Null => Resample::Bilinear,
            value => match value.as_u64() {
                Some(0) => Resample::Nearest,
                Some(1) => Resample::Lanczos,
                Some(2) => Resample::Bilinear,
                Some(3) => Resample::Bicubic,
                Some(4) => Resample::Box,
                Some(5) => Resample::Hamming,
                _ => return Err(self.fault(format!("resample is {value}; Pillow's numbers from 0 to 5 are supported"))),
            },
        })
    }

    /// Height and width, or one number for both.
    fn pair(&self, key: &str) -> Result<Vec<u32>, Fault> {
        let value = &self.file[key];
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let both = number(value).map(|n| (n, n));
        let both = both.or_else(|| number(&value["height"]).zip(number(&value["width"])));
        let (height, width) = both.ok_or_else(|| self.fault(format!("{key} is {value}; a number, or height and width, are supported")))?;
        Ok(vec![height, width])
    }

    fn values(&self, spec: &mut ImageSpec) -> Result<(), Fault> {
        let rescaled = self.flag("do_rescale") != Some(false);
        spec.scale = Some(if rescaled { self.file["rescale_factor"].as_f64().unwrap_or(UNIT) } else { 1.0 });
        let shift = if rescaled && self.flag("rescale_offset") == Some(true) { 1.0 } else { 0.0 };
        if self.flag("do_normalize") == Some(false) || self.flag("do_normalize").is_none() && self.file["image_mean"].is_null() {
            if shift != 0.0 {
                spec.mean = Some(vec![shift]);
            }
            return Ok(());
        }
        let mut mean = self.numbers("image_mean")?;
        let mut std = self.numbers("image_std")?;
        mean.iter_mut().for_each(|m| *m += shift);
        // EfficientNet's processor divides a second time, unless it is told that the classifier's head is gone.
        if self.kind == "EfficientNet" && self.flag("include_top") != Some(false) {
            std.iter_mut().for_each(|s| *s *= *s);
        }
        (spec.mean, spec.std) = (Some(mean), Some(std));
        Ok(())
    }

    fn numbers(&self, key: &str) -> Result<Vec<f64>, Fault> {
        let value = &self.file[key];
        let list = value.as_f64().map(|n| vec![n]).or_else(|| value.as_array()?.iter().map(Value::as_f64).collect());
        list.filter(|l| !l.is_empty()).ok_or_else(|| self.fault(format!("do_normalize needs {key}, and it is {value}")))
    }
}

/// timm's `pretrained_cfg`: what `create_transform` makes of it for validation.
fn timm_spec(config: &Value) -> Result<ImageSpec, Fault> {
    let fault = |detail: String| fault("config.json (pretrained_cfg)", detail);
    let input: Option<Vec<u32>> = config["input_size"].as_array().and_then(|a| a.iter().map(|n| n.as_u64()?.try_into().ok()).collect());
    let Some([channels, height, width]) = input.as_deref() else {
        return Err(fault(format!("input_size is {}; channels, height and width are supported", config["input_size"])));
    };
    let resample = match config["interpolation"].as_str().unwrap_or("bilinear") {
        "nearest" => Resample::Nearest,
        "lanczos" => Resample::Lanczos,
        "bilinear" => Resample::Bilinear,
        "bicubic" => Resample::Bicubic,
        "box" => Resample::Box,
        "hamming" => Resample::Hamming,
        other => return Err(fault(format!("interpolation is {other:?}"))),
    };
    let part = config["crop_pct"].as_f64().unwrap_or(0.875);
    let enlarged = |side: u32| (f64::from(side) / part).floor() as u32;
    let (resize, size) = match config["crop_mode"].as_str().unwrap_or("center") {
        "center" if height == width => (Resize::ShortestEdge, vec![enlarged(*height)]),
        "squash" => (Resize::Exact, vec![enlarged(*height), enlarged(*width)]),
        other => return Err(fault(format!("crop_mode {other:?} with {height} × {width} is not supported"))),
    };
    let numbers = |key: &str, default: [f64; 3]| match &config[key] {
        Value::Null => Ok(default.to_vec()),
        value => value
            .as_array()
            .and_then(|a| a.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>())
            .ok_or_else(|| fault(format!("{key} is {value}"))),
    };
    Ok(ImageSpec {
        size: Some(size),
        resize: Some(resize),
        resample: Some(resample),
        crop: Some(vec![*height, *width]),
        channels: (*channels == 1).then_some(Channels::Gray),
        scale: Some(UNIT),
        mean: Some(numbers("mean", [0.485, 0.456, 0.406])?),
        std: Some(numbers("std", [0.229, 0.224, 0.225])?),
        alpha: Some(Alpha::Drop),
        ..ImageSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(preprocessor: Value) -> ImageSpec {
        read(&preprocessor, &Value::Null).unwrap().expect("it speaks of pictures")
    }

    /// Resize, size and crop, as the class of that name makes them of its file.
    fn sizes(preprocessor: Value) -> (Resize, Vec<u32>, Option<Vec<u32>>) {
        let spec = spec(preprocessor);
        (spec.resize.unwrap(), spec.size.unwrap_or_default(), spec.crop)
    }

    #[test]
    fn sizes_mean_what_the_processors_class_makes_of_them() {
        let vit = json!({"image_processor_type": "ViTImageProcessor", "size": 224, "image_mean": 0.5, "image_std": 0.5});
        assert_eq!(sizes(vit), (Resize::Exact, vec![224, 224], None));
        let clip = json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "do_center_crop": true, "crop_size": 224, "do_normalize": false});
        assert_eq!(sizes(clip), (Resize::ShortestEdge, vec![224], Some(vec![224, 224])));
        let small = json!({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875, "do_normalize": false});
        assert_eq!(sizes(small), (Resize::ShortestEdge, vec![256], Some(vec![224, 224])));
        let large = json!({"image_processor_type": "ConvNextImageProcessorFast", "size": {"shortest_edge": 384}, "do_normalize": false});
        assert_eq!(sizes(large), (Resize::Exact, vec![384, 384], None));
        let levit = json!({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}, "do_center_crop": true, "crop_size": {"height": 224, "width": 224}, "do_normalize": false});
        assert_eq!(sizes(levit), (Resize::ShortestEdge, vec![256], Some(vec![224, 224])));
        let pool = json!({"image_processor_type": "PoolFormerImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.95, "do_normalize": false});
        assert_eq!(sizes(pool), (Resize::ShortestEdge, vec![235], None));
        let detr = json!({"image_processor_type": "DetrImageProcessor", "size": 800, "max_size": 1333, "do_normalize": false});
        assert_eq!(sizes(detr), (Resize::ShortestEdge, vec![800, 1333], None));
        assert_eq!(sizes(json!({"do_resize": false, "do_normalize": false})), (Resize::None, vec![], None));
    }

    #[test]
    fn values_channels_and_transparency_are_those_of_the_file() {
        let mobile = spec(
            json!({"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 288}, "resample": 2, "do_flip_channel_order": true, "do_rescale": true}),
        );
        assert_eq!((mobile.channels, mobile.scale, mobile.mean), (Some(Channels::Bgr), Some(UNIT), None));
        let efficient = spec(
            json!({"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 8, "width": 8}, "resample": 0, "rescale_offset": true, "image_mean": [0.5], "image_std": [0.5]}),
        );
        assert_eq!((efficient.resample, efficient.mean, efficient.std), (Some(Resample::Nearest), Some(vec![1.5]), Some(vec![0.25])));
        let plain = spec(
            json!({"do_resize": false, "do_rescale": false, "do_convert_rgb": true, "do_grayscale": true, "data_format": "channels_last"}),
        );
        assert_eq!((plain.scale, plain.alpha), (Some(1.0), Some(Alpha::Drop)));
        assert_eq!((plain.channels, plain.layout), (Some(Channels::Gray), Some(Layout::Nhwc)));
        let siglip =
            spec(json!({"image_processor_type": "SiglipImageProcessor", "size": {"height": 8, "width": 8}, "do_normalize": false}));
        assert_eq!(siglip.resample, Some(Resample::Bicubic));
    }

    #[test]
    fn a_detectors_pictures_are_filled_up_to_the_size_that_is_named() {
        let padded = |class: &str, more: Value| {
            let mut file =
                json!({"image_processor_type": class, "size": {"shortest_edge": 800, "longest_edge": 1333}, "do_normalize": false});
            file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec(file).pad
        };
        let size = json!({"pad_size": {"height": 1333, "width": 1340}});
        assert_eq!(padded("DetrImageProcessor", size.clone()), Some(vec![1333, 1340]), "its default is to pad");
        assert_eq!(padded("RTDetrImageProcessor", size.clone()), None, "its is not");
        assert_eq!(padded("YolosImageProcessor", json!({"do_pad": false, "pad_size": {"height": 9, "width": 9}})), None);
        assert_eq!(padded("DetrImageProcessorFast", json!({"do_pad": true, "pad_size": null})), None);
        assert_eq!(padded("RTDetrImageProcessorFast", json!({"do_pad": true, "pad_size": 1333})), Some(vec![1333, 1333]));
    }

    #[test]
    fn timm_shrinks_to_the_crops_share_and_crops() {
        let config = json!({"architecture": "x", "pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}});
        let spec = read(&Value::Null, &config).unwrap().unwrap();
        assert_eq!((spec.resize, spec.size, spec.crop), (Some(Resize::ShortestEdge), Some(vec![235]), Some(vec![224, 224])));
        assert_eq!((spec.resample, spec.mean, spec.alpha), (Some(Resample::Bicubic), Some(vec![0.5; 3]), Some(Alpha::Drop)));
    }

    #[test]
    fn what_is_not_supported_is_named_and_never_left_out() {
        let word = |preprocessor: Value, config: Value| read(&preprocessor, &config).unwrap_err().detail;
        let with =
            |key: &str, value: Value| json!({"do_resize": true, "size": {"height": 8, "width": 8}, "do_normalize": false, key: value});
        for (key, value) in [("size_divisor", json!(32)), ("keep_aspect_ratio", json!(true)), ("resample", json!(6))] {
            assert!(word(with(key, value), Value::Null).contains(key));
        }
        assert!(word(json!({"do_resize": true, "size": 224}), Value::Null).contains("no class is named"));
        let donut = json!({"image_processor_type": "DonutImageProcessor", "size": {"height": 8, "width": 8}, "do_normalize": false, "do_pad": true});
        assert!(word(donut, Value::Null).contains("Donut"), "it pads around the middle");
        assert!(word(json!({"do_resize": true, "size": {"longest_edge": 224}}), Value::Null).contains("longest_edge"));
        assert!(word(json!({"do_normalize": true, "do_resize": false}), Value::Null).contains("image_mean"));
        assert!(word(Value::Null, json!({"pretrained_cfg": {"input_size": [3, 224, 224], "crop_mode": "border"}})).contains("border"));
        assert_eq!(read(&json!({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}), &Value::Null), Ok(None));
    }
}

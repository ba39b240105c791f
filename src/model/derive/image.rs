//! What takes pictures, and how they become its input: the settings of all files and the job, against the graph's signature.
//!
//! Nothing is guessed: a choice that neither a file nor the signature makes is a fault that names the setting. Unambiguous by the
//! signature alone are the layout (by which dimension is 1 or 3), the channels (RGB for 3), the size (fixed height and width) and,
//! for UINT8, the values.

use super::{Folder, Said, names};
use crate::domain::{
    Dim, Dtype, Fault, PipelineSpec, Signature, Task, ValueInfo,
    pipeline::image::{Channels, Image, ImageSpec, Layout, Mask, Resample, Resize},
};

/// The column of pictures when nothing names one.
const COLUMN: &str = "image";
/// What fills the rest of a letterbox when nothing says it: YOLO's grey.
const LETTERBOX_FILL: u8 = 114;
/// The input that Hugging Face's detectors are told by where a padded picture lies.
const MASK: &str = "pixel_mask";

/// The task of an image model, by its files and outputs; `None` for other models, and where that leaves it open.
pub(super) fn task(signature: &Signature, folder: &Folder, spec: &PipelineSpec) -> Option<Task> {
    spec.image.as_ref()?;
    inputs(signature).next()?;
    let architectures = folder.config["architectures"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
    let ends = |end: &str| architectures.clone().any(|name| name.ends_with(end));
    let has = |name: &str| signature.outputs.iter().any(|o| o.name == name);
    if ends("ForObjectDetection") || has("pred_boxes") && has("logits") {
        return Some(Task::ObjectDetection);
    }
    let classes = spec.labels.as_ref().map(|labels| labels.len() as u64).or_else(|| folder.config["num_classes"].as_u64());
    let scores = signature.outputs.iter().any(|o| match o.tensor() {
        Some((dtype, [_, Dim::Fixed(count)])) => dtype.is_float() && Some(*count) == classes,
        _ => false,
    });
    (ends("ForImageClassification") || scores).then_some(Task::ImageClassification)
}

/// Inputs that can take pictures.
fn inputs(signature: &Signature) -> impl Iterator<Item = &ValueInfo> {
    signature.inputs.iter().filter(|input| {
        let Some((dtype, [_, _, _, _])) = input.tensor() else { return false };
        matches!(dtype, Dtype::Fp32 | Dtype::Fp16 | Dtype::Uint8)
    })
}

/// How pictures become the model's input; `None` for models that take none. What cannot be derived is a fault.
pub(super) fn derive(signature: &Signature, spec: &PipelineSpec, task: Task, said: &Said, faults: &mut Vec<Fault>) -> Option<Image> {
    let needed = matches!(task, Task::ImageClassification | Task::ObjectDetection);
    if spec.image.is_none() && !needed {
        return None;
    }
    let at = said.at("image", |j| j.image.is_some());
    let found: Vec<&ValueInfo> = inputs(signature).collect();
    let [input] = found.as_slice() else {
        let detail = format!(
            "pictures need one input [N, C, H, W] or [N, H, W, C] of FP32, FP16 or UINT8; the inputs are {}",
            names(&signature.inputs)
        );
        faults.push(
            Fault::new(at, "no_image_input", detail)
                .hint("use the task \"raw\" without an image section, or export the model with one such input"),
        );
        return None;
    };
    let mask = signature.inputs.iter().find(|i| is_mask(i));
    if let Some(other) = signature.inputs.iter().find(|i| i.name != input.name && !is_mask(i)) {
        let detail = format!("the model's input {:?} takes pictures, and nothing can fill its input {:?}", input.name, other.name);
        faults.push(
            Fault::new(at, "unsupported_input", detail)
                .hint("export the model with the image as its only input, or with a \"pixel_mask\" [N, H, W] beside it"),
        );
        return None;
    }
    let (dtype, shape) = input.tensor()?;
    let mut fault = |code: &str, detail: String, hint: &str| faults.push(Fault::new(&at, code, detail).hint(hint));
    let mut image = Resolver { spec: spec.image.clone().unwrap_or_default(), input, dtype, shape }.resolve(&mut fault)?;
    if let Some(mask) = mask {
        image.mask = Some(mask_of(mask, &image, &mut fault)?);
    }
    Some(image)
}

fn is_mask(input: &ValueInfo) -> bool {
    let dtypes = [Dtype::Bool, Dtype::Uint8, Dtype::Int32, Dtype::Int64, Dtype::Fp16, Dtype::Fp32];
    input.name == MASK && matches!(input.tensor(), Some((dtype, [_, _, _])) if dtypes.contains(&dtype))
}

/// A mask whose size the graph fixes has that of the tensor, or says nothing: all of it is picture.
fn mask_of(input: &ValueInfo, image: &Image, fault: Report<'_>) -> Option<Mask> {
    let (_, shape) = input.tensor()?;
    let side = |at: usize| shape[at].fixed().map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let size = side(1).zip(side(2)).map(|(height, width)| [height, width]);
    let half_fixed = size.is_none() && (side(1).is_some() || side(2).is_some());
    if half_fixed || image.pad.is_some() && size.is_some() && size != image.tensor_size() {
        let detail = format!("the model's input {MASK:?} has another size than the padded picture, {:?}", image.tensor_size());
        fault("wrong_mask_size", detail, "export the model with a mask of the picture's height and width, or with both left open");
        return None;
    }
    Some(Mask { input: input.name.clone(), size })
}

/// What is known while an image input is resolved.
struct Resolver<'s> {
    spec: ImageSpec,
    input: &'s ValueInfo,
    dtype: Dtype,
    shape: &'s [Dim],
}

type Report<'r> = &'r mut dyn FnMut(&str, String, &str);

/// How a picture is brought to size, to which one, what is cut out of it then, and to what the rest is filled up.
struct Sizes {
    resize: Resize,
    size: Option<[u32; 2]>,
    crop: Option<[u32; 2]>,
    pad: Option<[u32; 2]>,
}

impl Resolver<'_> {
    fn resolve(self, fault: Report<'_>) -> Option<Image> {
        let layout = self.layout(fault)?;
        let (channels_at, height_at) = match layout {
            Layout::Nchw => (1, 2),
            Layout::Nhwc => (3, 1),
        };
        let channels = self.channels(self.shape[channels_at].fixed(), fault)?;
        let declared = (self.shape[height_at].fixed(), self.shape[height_at + 1].fixed());
        let Sizes { resize, size, crop, pad } = self.size(declared, fault)?;
        let (scale, mean, std) = self.values(channels.count(), fault)?;
        let image = Image {
            input: self.input.name.clone(),
            column: self.spec.column.clone().unwrap_or_else(|| COLUMN.to_owned()),
            source: self.spec.source.unwrap_or_default(),
            size,
            resize,
            position: self.spec.position.unwrap_or_default(),
            resample: self.spec.resample.unwrap_or(Resample::Bilinear),
            crop,
            pad,
            mask: None,
            pad_value: self.spec.pad_value.unwrap_or(if resize == Resize::Letterbox { LETTERBOX_FILL } else { 0 }),
            channels,
            layout,
            scale,
            mean,
            std,
            alpha: self.spec.alpha.unwrap_or_default(),
        };
        self.check_size(&image, declared, fault).then_some(image)
    }

    fn shape_words(&self) -> String {
        let dim = |(at, d): (usize, &Dim)| match d {
            Dim::Fixed(n) => n.to_string(),
            Dim::Dynamic(Some(name)) => name.clone(),
            Dim::Dynamic(None) if at == 0 => "N".to_owned(),
            Dim::Dynamic(None) => "?".to_owned(),
        };
        format!("{:?} ({} [{}])", self.input.name, self.dtype.name(), self.shape.iter().enumerate().map(dim).collect::<Vec<_>>().join(", "))
    }

    fn layout(&self, fault: Report<'_>) -> Option<Layout> {
        let counts = |at: usize| matches!(self.shape[at].fixed(), Some(1 | 3));
        let called = |at: usize| matches!(&self.shape[at], Dim::Dynamic(Some(name)) if name.to_ascii_lowercase().contains("channel"));
        let by_shape = match (counts(1), counts(3)) {
            (true, false) => Some(Layout::Nchw),
            (false, true) => Some(Layout::Nhwc),
            _ if called(1) => Some(Layout::Nchw),
            _ if called(3) => Some(Layout::Nhwc),
            // The name that Hugging Face's exports give to channels-first pictures.
            _ if self.input.name == "pixel_values" && self.shape[1].fixed().is_none() => Some(Layout::Nchw),
            _ => None,
        };
        match (self.spec.layout, by_shape) {
            (Some(said), _) if self.could_be(said) => Some(said),
            (Some(said), _) => {
                let detail = format!("the layout is said to be {said:?}, and the model's input is {}", self.shape_words());
                fault(
                    "wrong_layout",
                    detail.replace("Nchw", "NCHW").replace("Nhwc", "NHWC"),
                    "leave pipeline.image.layout out, or correct it",
                );
                None
            }
            (None, Some(found)) => Some(found),
            (None, None) => {
                let detail = format!("which dimension of the model's input {} holds the channels is not clear", self.shape_words());
                fault("unknown_layout", detail, "say it with pipeline.image.layout: \"NCHW\" or \"NHWC\"");
                None
            }
        }
    }

    fn could_be(&self, layout: Layout) -> bool {
        let at = if layout == Layout::Nchw { 1 } else { 3 };
        matches!(self.shape[at].fixed(), None | Some(1 | 3))
    }

    fn channels(&self, declared: Option<u64>, fault: Report<'_>) -> Option<Channels> {
        match (self.spec.channels, declared) {
            (Some(said), None) => Some(said),
            (Some(said), Some(count)) if said.count() as u64 == count => Some(said),
            (None, Some(3)) => Some(Channels::Rgb),
            (None, Some(1)) => Some(Channels::Gray),
            // A processor that says nothing of channels leaves a photograph's three.
            (None, None) if self.spec.scale.is_some() => Some(Channels::Rgb),
            (Some(said), Some(count)) => {
                let detail =
                    format!("the settings give {} channels, and the model's input {} takes {count}", said.count(), self.shape_words());
                fault("wrong_channel_count", detail, "correct pipeline.image.channels: \"RGB\", \"BGR\" or \"L\"");
                None
            }
            (None, _) => {
                fault(
                    "unknown_channels",
                    format!("how many channels the model's input {} takes is not clear", self.shape_words()),
                    "say it with pipeline.image.channels: \"RGB\", \"BGR\" or \"L\"",
                );
                None
            }
        }
    }

    fn size(&self, declared: (Option<u64>, Option<u64>), fault: Report<'_>) -> Option<Sizes> {
        let side = |n: u64| u32::try_from(n).ok().filter(|n| (1..=16_384).contains(n));
        let fixed = declared.0.and_then(side).zip(declared.1.and_then(side)).map(|(h, w)| [h, w]);
        let mut pair = |name: &str, said: &Option<Vec<u32>>| match said.as_deref() {
            None => Some(None),
            Some([one]) if side((*one).into()).is_some() => Some(Some([*one, *one])),
            Some([h, w]) if side((*h).into()).is_some() && side((*w).into()).is_some() => Some(Some([*h, *w])),
            Some(other) => {
                let detail = format!("pipeline.image.{name} is {other:?}");
                fault("out_of_range", detail, "give height and width from 1 to 16384, or one number for both");
                None
            }
        };
        let size = pair("size", &self.spec.size)?;
        let crop = pair("crop", &self.spec.crop)?;
        let pad = pair("pad", &self.spec.pad)?;
        let resize = self.spec.resize.unwrap_or_default();
        let size = match (resize, size) {
            (Resize::None, _) => None,
            (Resize::ShortestEdge, Some([edge, longest])) => {
                Some([edge, if self.spec.size.as_ref().is_some_and(|s| s.len() == 2) { longest } else { 0 }])
            }
            (Resize::Exact | Resize::Letterbox, None) => crop.or(if pad.is_none() { fixed } else { None }),
            (_, size) => size,
        };
        if size.is_none() && resize != Resize::None {
            let detail = format!("to which size pictures are brought for the model's input {} is not clear", self.shape_words());
            fault(
                "unknown_image_size",
                detail,
                "say it with pipeline.image.size, or pipeline.image.resize = \"none\" for pictures as they are",
            );
            return None;
        }
        Some(Sizes { resize, size, crop, pad })
    }

    fn check_size(&self, image: &Image, (height, width): (Option<u64>, Option<u64>), fault: Report<'_>) -> bool {
        let fits = |declared: Option<u64>, made: u32| declared.is_none_or(|d| d == u64::from(made));
        if let (Some([h, w]), Some([picture_h, picture_w])) = (image.pad, image.picture_size())
            && (picture_h > h || picture_w > w)
        {
            let detail = format!("pictures of {picture_h} × {picture_w} (height × width) cannot be filled up to {h} × {w}");
            fault("wrong_image_size", detail, "correct pipeline.image.pad");
            return false;
        }
        match image.tensor_size() {
            Some([h, w]) if fits(height, h) && fits(width, w) => true,
            Some([h, w]) => {
                let detail =
                    format!("the settings make pictures of {h} × {w} (height × width), and the model's input is {}", self.shape_words());
                fault("wrong_image_size", detail, "correct pipeline.image.size, pipeline.image.crop or pipeline.image.pad");
                false
            }
            None if image.resize == Resize::ShortestEdge && (height.is_some() || width.is_some()) => {
                let detail = format!(
                    "resized by their shorter edge, pictures have different sizes, and the model's input is {}",
                    self.shape_words()
                );
                fault(
                    "wrong_image_size",
                    detail,
                    "add pipeline.image.crop or pipeline.image.pad, or choose another pipeline.image.resize: \"exact\", \"letterbox\"",
                );
                false
            }
            None => true,
        }
    }

    fn values(&self, channels: usize, fault: Report<'_>) -> Option<(f64, Vec<f64>, Vec<f64>)> {
        let spec = &self.spec;
        let bytes = self.dtype == Dtype::Uint8;
        let Some(scale) = spec.scale.or(bytes.then_some(1.0)) else {
            let detail = format!("which values the model's input {} takes is not clear: 0 to 1, -1 to 1, 0 to 255 …", self.shape_words());
            fault(
                "unknown_image_values",
                detail,
                "say it with pipeline.image.scale (0.00392156862745098 makes 0 to 1, 1 leaves 0 to 255), and pipeline.image.mean and std where the model was trained with them",
            );
            return None;
        };
        let mut each = |name: &str, said: &Option<Vec<f64>>, default: f64| match said.as_deref() {
            None => Some(vec![default; channels]),
            Some([one]) => Some(vec![*one; channels]),
            Some(all) if all.len() == channels => Some(all.to_vec()),
            Some(all) => {
                let detail = format!(
                    "pipeline.image.{name} has {} numbers, and the model's input {} takes {channels} channels",
                    all.len(),
                    self.shape_words()
                );
                fault("wrong_channel_count", detail, "give a number a channel, or one for all");
                None
            }
        };
        let (mean, std) = (each("mean", &spec.mean, 0.0)?, each("std", &spec.std, 1.0)?);
        if !scale.is_finite() || !mean.iter().all(|v| v.is_finite()) || !std.iter().all(|v| v.is_finite() && *v != 0.0) {
            fault("out_of_range", "pipeline.image.scale, mean and std must be numbers, and no std may be 0".to_owned(), "correct them");
            return None;
        }
        let changes = scale != 1.0 || mean.iter().any(|m| *m != 0.0) || std.iter().any(|s| *s != 1.0);
        if bytes && changes {
            let detail = format!(
                "the settings rescale or normalise, and the model's input {} takes whole numbers from 0 to 255",
                self.shape_words()
            );
            fault("wrong_image_values", detail, "set pipeline.image.scale to 1 and leave mean and std out");
            return None;
        }
        Some((scale, mean, std))
    }
}

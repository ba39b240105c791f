//! How a picture becomes a tensor.

use serde::{Deserialize, Deserializer, Serialize};

/// How a picture is brought to `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// To exactly `size`, whatever the picture's proportions.
    #[default]
    Exact,
    /// The shorter edge to the first number of `size`, proportions kept; a second number is the most that the longer edge may become.
    ShortestEdge,
    /// Into `size`, proportions kept, the rest filled with `pad_value`: for detectors.
    Letterbox,
    /// Not at all: the picture must have the size that the model takes.
    None,
}

/// Where a letterbox puts the picture; what is left over is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// In the middle, as Ultralytics' YOLO does; an odd pixel goes to the right and to the bottom.
    #[default]
    Center,
    /// In the upper left corner, as YOLOX and MMDetection do.
    TopLeft,
}

/// The filter; Pillow's numbers are 0 to 5 in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Resample {
    /// 0.
    Nearest,
    /// 1.
    Lanczos,
    /// 2.
    #[default]
    Bilinear,
    /// 3.
    Bicubic,
    /// 4.
    Box,
    /// 5.
    Hamming,
}

/// Which channels the model sees, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    #[serde(rename = "RGB")]
    Rgb,
    /// Blue, green, red.
    #[serde(rename = "BGR")]
    Bgr,
    /// One: luma by ITU-R 601-2, as Pillow's `L`.
    #[serde(rename = "L")]
    Gray,
}

impl Channels {
    /// How many they are.
    pub fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// The order of a tensor's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Layout {
    /// Batch, channels, height, width.
    #[default]
    #[serde(rename = "NCHW")]
    Nchw,
    /// Batch, height, width, channels.
    #[serde(rename = "NHWC")]
    Nhwc,
}

/// What becomes of transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// Composited on white.
    #[default]
    White,
    /// Dropped, as Pillow's `convert("RGB")` does.
    Drop,
}

/// What a column of texts holds in place of pictures; a Binary column holds the pictures themselves, whatever is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// Value by value: a text that begins with `data:`, and one that is Base64 of something that begins as a picture, is Base64; every
    /// other is a key.
    #[default]
    Auto,
    /// Base64 (RFC 4648, either alphabet, padding or not), also after `data:…,`.
    Base64,
    /// Keys of objects relative to the input prefix, or full locations in the input's bucket.
    Key,
}

/// The `image` part of a pipeline section: every field optional.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// The column that holds encoded pictures or keys of objects that do; `image` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What that column holds when it is one of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ImageSource>,
    /// Height and width, or one number for both (for `shortest_edge`: the edge, and the most that the longer edge may become).
    #[serde(default, deserialize_with = "sides", skip_serializing_if = "Option::is_none")]
    pub size: Option<Vec<u32>>,
    /// How a picture is brought to `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Where a letterbox puts the picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resample: Option<Resample>,
    /// Height and width of the centre that is kept after the resize, or one number for both.
    #[serde(default, deserialize_with = "sides", skip_serializing_if = "Option::is_none")]
    pub crop: Option<Vec<u32>>,
    /// Height and width that a picture is filled up to at its right and lower edge after all else, or one number for both.
    #[serde(default, deserialize_with = "sides", skip_serializing_if = "Option::is_none")]
    pub pad: Option<Vec<u32>>,
    /// What fills the rest of a letterbox, and what a crop adds: 0 to 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_value: Option<u8>,
    /// Which channels the model sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// The order of the tensor's dimensions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Multiplies each value from 0 to 255; 1/255 as a rule, 1 for models that take such values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Subtracted after scaling, a number a channel in the order of `channels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Divides after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
    /// What becomes of transparency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<Alpha>,
}

/// A number alone is short for a list of one.
fn sides<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u32>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Sides {
        Both(u32),
        Each(Vec<u32>),
    }
    let sides = Option::<Sides>::deserialize(deserializer)?;
    Ok(sides.map(|sides| match sides {
        Sides::Both(side) => vec![side],
        Sides::Each(sides) => sides,
    }))
}

impl ImageSpec {
    /// `self` with its gaps filled from `base`.
    #[must_use]
    pub fn over(self, base: ImageSpec) -> ImageSpec {
        ImageSpec {
            column: self.column.or(base.column),
            source: self.source.or(base.source),
            size: self.size.or(base.size),
            resize: self.resize.or(base.resize),
            position: self.position.or(base.position),
            resample: self.resample.or(base.resample),
            crop: self.crop.or(base.crop),
            pad: self.pad.or(base.pad),
            pad_value: self.pad_value.or(base.pad_value),
            channels: self.channels.or(base.channels),
            layout: self.layout.or(base.layout),
            scale: self.scale.or(base.scale),
            mean: self.mean.or(base.mean),
            std: self.std.or(base.std),
            alpha: self.alpha.or(base.alpha),
        }
    }
}

/// How pictures become the model's one image input: no choice is left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The model input that takes it.
    pub input: String,
    /// The column that holds encoded pictures or keys of objects that do.
    pub column: String,
    /// What that column holds when it is one of texts.
    #[serde(default)]
    pub source: ImageSource,
    /// Height and width after the resize; for `shortest_edge` the edge, and the most that the longer edge may become (0: any
    /// length); `None` without a resize.
    pub size: Option<[u32; 2]>,
    /// How a picture is brought to `size`.
    pub resize: Resize,
    /// Where a letterbox puts the picture.
    #[serde(default)]
    pub position: Position,
    /// The filter.
    pub resample: Resample,
    /// Height and width of the centre that is kept.
    pub crop: Option<[u32; 2]>,
    /// Height and width that the rest of the tensor is filled up to at the right and at the bottom: with zeros, after normalising.
    #[serde(default)]
    pub pad: Option<[u32; 2]>,
    /// The input that is told where the picture lies in its tensor.
    #[serde(default)]
    pub mask: Option<Mask>,
    /// What fills the rest of a letterbox, and what a crop adds where the picture is smaller.
    pub pad_value: u8,
    /// Which channels the model sees.
    pub channels: Channels,
    /// The order of the tensor's dimensions.
    pub layout: Layout,
    /// Multiplies each value from 0 to 255.
    pub scale: f64,
    /// Subtracted after scaling: a number a channel.
    pub mean: Vec<f64>,
    /// Divides after that: a number a channel.
    pub std: Vec<f64>,
    /// What becomes of transparency.
    pub alpha: Alpha,
}

/// A model input of 1 where the picture lies and of 0 where it was padded: `[N, height, width]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// The model input that takes it.
    pub input: String,
    /// Its height and width, where the graph fixes them; those of the picture's tensor otherwise.
    pub size: Option<[u32; 2]>,
}

impl Image {
    /// Height and width of the tensor, where they do not depend on the picture.
    pub fn tensor_size(&self) -> Option<[u32; 2]> {
        self.pad.or_else(|| self.picture_size())
    }

    /// Height and width of what of the tensor is no padding, where they do not depend on the picture.
    pub fn picture_size(&self) -> Option<[u32; 2]> {
        self.crop.or_else(|| self.size.filter(|_| matches!(self.resize, Resize::Exact | Resize::Letterbox)))
    }

    /// Channels of the tensor.
    pub fn channel_count(&self) -> usize {
        self.channels.count()
    }
}

/// Where a picture lies in the tensor that was made of it: what boxes need to find back to the original's pixels.
///
/// A point (x, y) of the tensor is the point ((x - left) / scale_x, (y - top) / scale_y) of the picture, orientation applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// Width of the picture as people see it, pixels.
    pub width: u32,
    /// Its height.
    pub height: u32,
    /// Pixels of the tensor a pixel of the picture, horizontally.
    pub scale_x: f64,
    /// The same vertically.
    pub scale_y: f64,
    /// Where the picture's left edge lies in the tensor, pixels; negative where a crop took some of it.
    pub left: f64,
    /// Where its upper edge lies.
    pub top: f64,
}

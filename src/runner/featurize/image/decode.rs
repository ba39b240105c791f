//! Bytes → pixels, as people see the picture: first frame, orientation applied, 8 bits a channel, no transparency.
//!
//! Formats are told by content. The header is read first and held against the [`ImageLimits`]; only then are pixels reserved. A
//! picture is whole or it is an error: what a truncated file gives up to its end is never used.

use std::{
    error::Error,
    io::{self, Cursor},
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    ColorType, DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, Limits, RgbImage,
    codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder},
    metadata::Orientation,
};

use super::{jpeg, limits::ImageLimits, png::without_profile};
use crate::domain::pipeline::image::Alpha;

/// Pixels, row by row, interleaved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    /// 1 (luma) or 3 (red, green, blue).
    pub(super) channels: usize,
    /// `width * height * channels` values.
    pub(super) pixels: Vec<u8>,
}

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    /// `image_truncated`, `image_unknown_format`, `image_unsupported`, `image_too_large`, `image_corrupt`, `image_empty`.
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Bad {
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// Decodes one picture.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits, alpha: Alpha) -> Result<Picture, Bad> {
    if bytes.is_empty() {
        return Err(Bad::new("image_empty", "there are no bytes"));
    }
    if bytes.len() as u64 > limits.bytes {
        return Err(Bad::new("image_too_large", format!("{} bytes, over the limit of {}", bytes.len(), limits.bytes)));
    }
    let format = image::guess_format(bytes).map_err(|_| Bad::new("image_unknown_format", unknown(bytes)))?;
    // Decoders index into what hostile bytes tell them; a panic of theirs must cost one record, not the chunk. Nothing of ours is
    // shared with them, so nothing is left half changed.
    let decoded = catch_unwind(AssertUnwindSafe(|| by_format(format, bytes, limits, alpha)));
    let decoded = decoded.unwrap_or_else(|_| Err(Bad::new("image_corrupt", "the decoder met something that it cannot handle")));
    decoded.map_err(|bad| Bad { detail: format!("{format:?}: {}", bad.detail), ..bad })
}

fn unknown(bytes: &[u8]) -> String {
    let first: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("{} bytes that begin with {} are no JPEG, PNG, WebP, GIF, BMP or TIFF", bytes.len(), first.join(" "))
}

fn by_format(format: ImageFormat, bytes: &[u8], limits: &ImageLimits, alpha: Alpha) -> Result<Picture, Bad> {
    let data = Cursor::new(bytes);
    let mut given = Limits::no_limits();
    given.max_image_width = Some(limits.side);
    given.max_image_height = Some(limits.side);
    given.max_alloc = Some(limits.memory);
    let opened = match format {
        ImageFormat::Jpeg => return jpeg::decode(bytes, limits),
        ImageFormat::Png => {
            PngDecoder::with_limits(Cursor::new(without_profile(bytes)), given.clone()).map(|d| pixels(d, given, limits, alpha))
        }
        ImageFormat::Gif => GifDecoder::new(data).map(|d| pixels(d, given, limits, alpha)),
        ImageFormat::WebP => WebPDecoder::new(data).map(|d| pixels(d, given, limits, alpha)),
        ImageFormat::Bmp => BmpDecoder::new(data).map(|d| pixels(d, given, limits, alpha)),
        ImageFormat::Tiff => TiffDecoder::new(data).map(|d| pixels(d, given, limits, alpha)),
        other => return Err(Bad::new("image_unsupported", format!("{other:?} pictures are not supported"))),
    };
    opened.map_err(|e| bad(&e))?
}

fn pixels(mut decoder: impl ImageDecoder, given: Limits, limits: &ImageLimits, alpha: Alpha) -> Result<Picture, Bad> {
    let (width, height) = decoder.dimensions();
    check_size(width, height, limits)?;
    let color = decoder.color_type();
    check_memory(u64::from(width) * u64::from(height) * u64::from(color.bytes_per_pixel()), limits)?;
    decoder.set_limits(given).map_err(|e| bad(&e))?;
    // What the metadata say beyond a readable orientation is ignored, and so is metadata that cannot be read.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(|e| bad(&e))?;
    decoded.apply_orientation(orientation);
    flatten(decoded, color, alpha)
}

/// Refuses a picture by the size that its header claims.
pub(super) fn check_size(width: u32, height: u32, limits: &ImageLimits) -> Result<(), Bad> {
    if width == 0 || height == 0 {
        return Err(Bad::new("image_corrupt", format!("{width} × {height} pixels")));
    }
    let pixels = u64::from(width) * u64::from(height);
    if width.max(height) > limits.side || pixels > limits.pixels {
        let detail = format!("{width} × {height} pixels, over the limit of {} a side and {} in all", limits.side, limits.pixels);
        return Err(Bad::new("image_too_large", detail));
    }
    Ok(())
}

fn check_memory(needed: u64, limits: &ImageLimits) -> Result<(), Bad> {
    if needed > limits.memory {
        return Err(Bad::new("image_too_large", format!("decoding takes {needed} bytes, over the limit of {}", limits.memory)));
    }
    Ok(())
}

/// What an error of the image crate means for the record.
fn bad(error: &ImageError) -> Bad {
    let code = match error {
        ImageError::Limits(_) => "image_too_large",
        ImageError::Unsupported(_) => "image_unsupported",
        error if ends_early(error) => "image_truncated",
        _ => "image_corrupt",
    };
    Bad::new(code, error.to_string())
}

fn ends_early(error: &ImageError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let at_the_end = error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof);
        // The decoders of PNG and GIF have no kind of error of their own for pixels that are not there.
        const ENDS: [&str; 3] = ["does not have enough data for image.", "image truncated", "Unexpected End of File"];
        let told = |text: String| ENDS.iter().any(|end| text.ends_with(end));
        if at_the_end || told(error.to_string()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// To 8 bits a channel without transparency. Grey of 16 bits is divided by 257, as numpy users do; colours of 16 bits keep their upper
/// byte, as Pillow reads them.
fn flatten(image: DynamicImage, color: ColorType, alpha: Alpha) -> Result<Picture, Bad> {
    let upper = |values: Vec<u16>| -> Vec<u8> { values.into_iter().map(|v| (v >> 8) as u8).collect() };
    let (width, height) = (image.width(), image.height());
    let (channels, pixels) = match image {
        DynamicImage::ImageLuma8(image) => (1, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (3, image.into_raw()),
        DynamicImage::ImageLumaA8(image) => (1, without_alpha::<2>(image.into_raw(), alpha)),
        DynamicImage::ImageRgba8(image) => (3, without_alpha::<4>(image.into_raw(), alpha)),
        DynamicImage::ImageLuma16(image) => (1, image.into_raw().into_iter().map(|v| (v / 257) as u8).collect()),
        DynamicImage::ImageRgb16(image) => (3, upper(image.into_raw())),
        DynamicImage::ImageLumaA16(image) => (1, without_alpha::<2>(upper(image.into_raw()), alpha)),
        DynamicImage::ImageRgba16(image) => (3, without_alpha::<4>(upper(image.into_raw()), alpha)),
        _ => return Err(Bad::new("image_unsupported", format!("pixels of {color:?} are not supported"))),
    };
    Ok(Picture { width, height, channels, pixels })
}

/// Drops the last of `N` channels, in place; composited on white with the rounding of Pillow's `alpha_composite`.
fn without_alpha<const N: usize>(mut pixels: Vec<u8>, alpha: Alpha) -> Vec<u8> {
    let count = pixels.len() / N;
    for at in 0..count {
        let opacity = u32::from(pixels[at * N + N - 1]);
        for channel in 0..N - 1 {
            let value = pixels[at * N + channel];
            pixels[at * (N - 1) + channel] = match alpha {
                Alpha::Drop => value,
                Alpha::White => on_white(value, opacity),
            };
        }
    }
    pixels.truncate(count * (N - 1));
    pixels
}

fn on_white(value: u8, opacity: u32) -> u8 {
    let sum = (u32::from(value) * opacity + 255 * (255 - opacity)) * 128 + 0x4000;
    ((((sum >> 8) + sum) >> 8) >> 7) as u8
}

impl Picture {
    /// Turned and mirrored as its metadata say.
    pub(super) fn oriented(self, orientation: Orientation) -> Self {
        if orientation == Orientation::NoTransforms {
            return self;
        }
        let Self { width, height, channels, pixels } = self;
        let mut image = if channels == 1 {
            GrayImage::from_raw(width, height, pixels).map(DynamicImage::from)
        } else {
            RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
        }
        .expect("a picture has as many values as its size says");
        image.apply_orientation(orientation);
        Self { width: image.width(), height: image.height(), channels, pixels: image.into_bytes() }
    }

    /// Luma by ITU-R 601-2, rounded as Pillow's `convert("L")`.
    pub(super) fn into_gray(self) -> Self {
        if self.channels == 1 {
            return self;
        }
        let luma = |p: &[u8]| (u32::from(p[0]) * 19_595 + u32::from(p[1]) * 38_470 + u32::from(p[2]) * 7_471 + 0x8000) >> 16;
        let pixels = self.pixels.chunks_exact(3).map(|p| luma(p) as u8).collect();
        Self { channels: 1, pixels, ..self }
    }
}

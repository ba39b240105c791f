//! Where a picture comes to lie in its tensor, and the pixels of it that are seen there.
//!
//! Filters are Pillow's: convolution whose support grows with the shrinking, first along rows, then along columns, rounded to 8 bits
//! after each. Only what a crop leaves is computed, so that an extreme shape costs no more than a square.

use std::ops::Range;

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image as Pixels, ImageRef},
};

use super::decode::{Bad, Picture};
use crate::domain::pipeline::image::{Geometry, Image, Position, Resample, Resize};

/// Where a picture lies in its tensor: resized to `resized`, its upper left corner at (`left`, `top`) of a tensor of `tensor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    /// Width and height of the whole picture after the resize.
    pub(super) resized: (u32, u32),
    /// Width and height of the tensor.
    pub(super) tensor: (u32, u32),
    /// Width and height of what of the tensor is no padding, from its upper left corner on.
    pub(super) canvas: (u32, u32),
    /// Negative where a crop took some of it.
    pub(super) left: i64,
    pub(super) top: i64,
}

impl Placement {
    /// Places a picture of this size.
    pub(super) fn of(image: &Image, width: u32, height: u32) -> Self {
        let resized = match (image.resize, image.size) {
            (Resize::None, _) | (_, None) => (width, height),
            (Resize::Exact, Some([h, w])) => (w, h),
            (Resize::ShortestEdge, Some([edge, longest])) => shortest_edge(width, height, edge, longest),
            (Resize::Letterbox, Some([h, w])) => contain(width, height, w, h),
        };
        let mut placement = Self { resized, tensor: resized, canvas: resized, left: 0, top: 0 };
        if let (Resize::Letterbox, Some([h, w])) = (image.resize, image.size) {
            placement.tensor = (w, h);
            if image.position == Position::Center {
                // As YOLO's own letterbox: half a pixel goes to the right and to the bottom.
                placement.left = i64::from((w - resized.0) / 2);
                placement.top = i64::from((h - resized.1) / 2);
            }
        }
        if let Some([h, w]) = image.crop {
            // Hugging Face's centre: the offset is rounded down, and where the picture is smaller it is padded by the same arithmetic.
            let offset = |have: u32, keep: u32| (i64::from(have) - i64::from(keep)).div_euclid(2);
            placement.left -= offset(placement.tensor.0, w);
            placement.top -= offset(placement.tensor.1, h);
            placement.tensor = (w, h);
        }
        placement.canvas = placement.tensor;
        if let Some([h, w]) = image.pad {
            placement.tensor = (w, h);
        }
        placement
    }

    /// How to find back from the tensor to a picture of this size.
    pub(super) fn geometry(&self, width: u32, height: u32) -> Geometry {
        Geometry {
            width,
            height,
            scale_x: f64::from(self.resized.0) / f64::from(width),
            scale_y: f64::from(self.resized.1) / f64::from(height),
            left: self.left as f64,
            top: self.top as f64,
        }
    }

    /// Whether the tensor has room for what is to be padded.
    pub(super) fn fits(&self) -> bool {
        self.canvas.0 <= self.tensor.0 && self.canvas.1 <= self.tensor.1
    }

    /// Columns and rows of the resized picture that the tensor shows.
    pub(super) fn seen(&self) -> (Range<u32>, Range<u32>) {
        let range = |resized: u32, tensor: u32, offset: i64| {
            let start = (-offset).clamp(0, resized.into()) as u32;
            let end = (i64::from(tensor) - offset).clamp(start.into(), resized.into()) as u32;
            start..end
        };
        (range(self.resized.0, self.canvas.0, self.left), range(self.resized.1, self.canvas.1, self.top))
    }
}

/// Hugging Face's arithmetic: the longer edge is rounded down. `longest` bounds it, unless it is 0, and the shorter edge gives
/// way.
fn shortest_edge(width: u32, height: u32, edge: u32, longest: u32) -> (u32, u32) {
    let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
    let (mut new_short, mut new_long) = (u64::from(edge), u64::from(edge) * long / short);
    if longest > 0 && new_long > u64::from(longest) {
        // As DETR rounds it.
        (new_short, new_long) = ((f64::from(longest) * short as f64 / long as f64).round_ties_even() as u64, longest.into());
    }
    let (short, long) = (new_short.clamp(1, u32::MAX.into()) as u32, new_long.clamp(1, u32::MAX.into()) as u32);
    if width <= height { (short, long) } else { (long, short) }
}

/// The largest size of the same proportions in a box.
fn contain(width: u32, height: u32, box_width: u32, box_height: u32) -> (u32, u32) {
    let scale = (f64::from(box_width) / f64::from(width)).min(f64::from(box_height) / f64::from(height));
    let side = |side: u32, most: u32| ((f64::from(side) * scale).round_ties_even() as u32).clamp(1, most);
    (side(width, box_width), side(height, box_height))
}

/// The pixels that the tensor shows, resized: those of [`Placement::seen`].
pub(super) fn resize(picture: Picture, placement: &Placement, resample: Resample) -> Result<Picture, Bad> {
    let (columns, rows) = placement.seen();
    let (width, height) = (columns.len() as u32, rows.len() as u32);
    if (width, height) == (picture.width, picture.height) && placement.resized == (width, height) {
        return Ok(picture);
    }
    let pixels = match filter(resample) {
        None => nearest(&picture, placement, &columns, &rows),
        Some(filter) => convolve(&picture, placement, &columns, &rows, filter)
            .map_err(|e| Bad::new("image_unsupported", format!("cannot be resized: {e}")))?,
    };
    Ok(Picture { width, height, channels: picture.channels, pixels })
}

fn filter(resample: Resample) -> Option<FilterType> {
    match resample {
        Resample::Nearest => None,
        Resample::Lanczos => Some(FilterType::Lanczos3),
        Resample::Bilinear => Some(FilterType::Bilinear),
        Resample::Bicubic => Some(FilterType::CatmullRom),
        Resample::Box => Some(FilterType::Box),
        Resample::Hamming => Some(FilterType::Hamming),
    }
}

fn convolve(
    picture: &Picture,
    placement: &Placement,
    columns: &Range<u32>,
    rows: &Range<u32>,
    filter: FilterType,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let kind = if picture.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let (width, height) = (columns.len() as u32, rows.len() as u32);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let mut resizer = Resizer::new();

    // One call would do the columns first; Pillow does the rows first, and rounds between.
    let source = ImageRef::new(picture.width, picture.height, &picture.pixels, kind)?;
    let mut across = Pixels::new(width, picture.height, kind);
    let (left, seen) = stretch(columns, picture.width, placement.resized.0);
    resizer.resize(&source, &mut across, &options.crop(left, 0.0, seen, picture.height.into()))?;
    let (top, seen) = stretch(rows, picture.height, placement.resized.1);
    if top == 0.0 && height == picture.height && seen == f64::from(height) {
        return Ok(across.into_vec());
    }
    let mut down = Pixels::new(width, height, kind);
    resizer.resize(&across, &mut down, &options.crop(0.0, top, width.into(), seen))?;
    Ok(down.into_vec())
}

/// Where a range of resized pixels lies among the original's: its start and its length. Multiplied before it is divided, so that the end
/// of the picture is its end exactly.
fn stretch(range: &Range<u32>, original: u32, resized: u32) -> (f64, f64) {
    let at = |place: u32| f64::from(place) * f64::from(original) / f64::from(resized);
    (at(range.start), at(range.end) - at(range.start))
}

/// The pixel under the centre, found by adding up steps as Pillow does.
fn nearest(picture: &Picture, placement: &Placement, columns: &Range<u32>, rows: &Range<u32>) -> Vec<u8> {
    let places = |from: u32, to: u32, seen: &Range<u32>| -> Vec<usize> {
        let step = f64::from(from) / f64::from(to);
        let mut at = step * 0.5;
        let mut places = Vec::with_capacity(seen.len());
        for place in 0..seen.end {
            if place >= seen.start {
                places.push((at as usize).min(from as usize - 1));
            }
            at += step;
        }
        places
    };
    let xs = places(picture.width, placement.resized.0, columns);
    let ys = places(picture.height, placement.resized.1, rows);
    let (channels, stride) = (picture.channels, picture.width as usize * picture.channels);
    let mut pixels = Vec::with_capacity(xs.len() * ys.len() * channels);
    for y in ys {
        let row = &picture.pixels[y * stride..(y + 1) * stride];
        for x in &xs {
            pixels.extend_from_slice(&row[x * channels..(x + 1) * channels]);
        }
    }
    pixels
}

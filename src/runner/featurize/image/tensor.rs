//! Pixels → their slot of a batch tensor.

use half::f16;

use super::{decode::Picture, resize::Placement};
use crate::domain::pipeline::image::{Channels, Image, Layout};

/// An element that pixels can become.
pub(super) trait Element: Copy + Default {
    /// The nearest.
    fn of(value: f64) -> Self;
}

impl Element for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
}

impl Element for f16 {
    fn of(value: f64) -> Self {
        f16::from_f64(value)
    }
}

impl Element for u8 {
    fn of(value: f64) -> Self {
        value.round_ties_even() as u8
    }
}

/// What each value of a pixel becomes, channel by channel of the model: rescaled, then normalised.
#[derive(Debug, Clone)]
pub(super) struct Table<T>(Vec<[T; 256]>);

impl<T: Element> Table<T> {
    pub(super) fn new(image: &Image) -> Self {
        let channel = |at: usize| {
            let (mean, std) = (image.mean[at], image.std[at]);
            std::array::from_fn(|value| T::of((value as f64 * image.scale - mean) / std))
        };
        Self((0..image.channel_count()).map(channel).collect())
    }

    /// Writes one picture into its slot: `[channels, height, width]` or `[height, width, channels]` of the placement's tensor, row-major,
    /// zeros before. `seen` holds the pixels that the placement shows.
    pub(super) fn write(&self, image: &Image, placement: &Placement, seen: &Picture, slot: &mut [T]) {
        let (width, height) = (placement.tensor.0 as usize, placement.tensor.1 as usize);
        let (canvas_width, canvas_height) = (placement.canvas.0 as usize, placement.canvas.1 as usize);
        let (left, top) = (placement.left.max(0) as usize, placement.top.max(0) as usize);
        let channels = self.0.len();
        let whole = (seen.width, seen.height) == placement.canvas;
        let (pixel_step, channel_step) = match image.layout {
            Layout::Nchw => (1, width * height),
            Layout::Nhwc => (channels, 1),
        };
        for (channel, table) in self.0.iter().enumerate() {
            let start = channel * channel_step;
            if !whole {
                let rest = table[usize::from(image.pad_value)];
                for row in 0..canvas_height {
                    slot[start + row * width * pixel_step..].iter_mut().step_by(pixel_step).take(canvas_width).for_each(|v| *v = rest);
                }
            }
            let from = match image.channels {
                _ if seen.channels == 1 => 0,
                Channels::Bgr => 2 - channel,
                Channels::Rgb | Channels::Gray => channel,
            };
            let stride = seen.width as usize * seen.channels;
            for (row, pixels) in seen.pixels.chunks_exact(stride.max(1)).enumerate() {
                let at = start + ((top + row) * width + left) * pixel_step;
                let to = slot[at..].iter_mut().step_by(pixel_step);
                for (value, pixel) in to.zip(pixels[from..].iter().step_by(seen.channels)) {
                    *value = table[usize::from(*pixel)];
                }
            }
        }
    }
}

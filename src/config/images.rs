//! Settings of pictures.

use clap::Args;

use crate::runner::featurize::ImageLimits;

/// What a picture may cost: one beyond it is an error row.
#[derive(Debug, Clone, Args)]
pub struct Images {
    /// Most pixels of a picture
    #[arg(long, env = "NIGHTSHIFT_MAX_IMAGE_PIXELS", default_value_t = ImageLimits::default().pixels, value_name = "COUNT")]
    pub max_image_pixels: u64,
    /// Longest side of a picture, pixels
    #[arg(long, env = "NIGHTSHIFT_MAX_IMAGE_SIDE", default_value_t = ImageLimits::default().side, value_name = "COUNT")]
    pub max_image_side: u32,
    /// Largest encoded picture
    #[arg(long, env = "NIGHTSHIFT_MAX_IMAGE_BYTES", default_value_t = ImageLimits::default().bytes, value_name = "BYTES")]
    pub max_image_bytes: u64,
    /// Most memory that decoding one picture may take; as many as there are sessions are decoded at once
    #[arg(long, env = "NIGHTSHIFT_MAX_IMAGE_MEMORY", default_value_t = ImageLimits::default().memory, value_name = "BYTES")]
    pub max_image_memory: u64,
}

impl Images {
    /// As the runner takes them.
    pub fn limits(&self) -> ImageLimits {
        ImageLimits { pixels: self.max_image_pixels, side: self.max_image_side, bytes: self.max_image_bytes, memory: self.max_image_memory }
    }
}

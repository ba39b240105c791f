//! What a picture may cost.

use serde::{Deserialize, Serialize};

/// Limits that are checked against a picture's header, before any pixel is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageLimits {
    /// Most pixels, width times height.
    pub pixels: u64,
    /// Longest side, pixels.
    pub side: u32,
    /// Largest encoded picture, bytes.
    pub bytes: u64,
    /// Most memory that decoding one picture may take, bytes; and most that its tensor may take.
    pub memory: u64,
}

impl Default for ImageLimits {
    /// Pillow's count of pixels, beyond which it speaks of a decompression bomb.
    fn default() -> Self {
        Self { pixels: 89_478_485, side: 16_384, bytes: 64 * 1024 * 1024, memory: 512 * 1024 * 1024 }
    }
}

//! JPEG, bit for bit as libjpeg-turbo (and so Pillow) decodes it: baseline, progressive, grey, CMYK and YCCK.
//!
//! Pictures are decoded at full size: no smaller DCT scale keeps to 1 of 255 of the reference (docs/PERFORMANCE.md).

use image::metadata::Orientation;
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

use super::{
    decode::{Bad, Picture, check_size},
    limits::ImageLimits,
};

/// Scans beyond this are a bomb: encoders make a dozen.
const MOST_SCANS: usize = 100;

/// Decodes one JPEG.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<Picture, Bad> {
    let side = limits.side as usize;
    let bounds = DecodeLimits {
        max_width: side,
        max_height: side,
        max_pixels: limits.pixels,
        max_scans: MOST_SCANS,
        max_memory: Some(limits.memory),
    };
    let mut decoder = Decoder::new_with_limits(bytes, bounds).map_err(|e| bad(&e))?;
    let frame = decoder.header();
    check_size(frame.width.into(), frame.height.into(), limits)?;
    if frame.precision != 8 {
        return Err(Bad::new("image_unsupported", format!("{} bits a sample are not supported", frame.precision)));
    }
    let (format, values) = match frame.components.len() {
        1 => (PixelFormat::Grayscale, 1),
        3 => (PixelFormat::Rgb, 3),
        4 => (PixelFormat::Cmyk, 4),
        other => return Err(Bad::new("image_unsupported", format!("{other} colour components are not supported"))),
    };
    decoder.set_output_format(format);
    let orientation = decoder.exif_orientation().and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    let image = decoder.decode_image().map_err(|e| bad(&e))?;
    let (width, height) = (image.width as u32, image.height as u32);
    let mut pixels = image.data;
    if pixels.len() as u64 != u64::from(width) * u64::from(height) * values {
        return Err(Bad::new("image_corrupt", format!("{} values for {width} × {height} pixels", pixels.len())));
    }
    let channels = if values == 1 { 1 } else { 3 };
    if values == 4 {
        cmyk_to_rgb(&mut pixels);
    }
    Ok(Picture { width, height, channels, pixels }.oriented(orientation))
}

fn bad(error: &JpegError) -> Bad {
    let code = match error {
        JpegError::UnexpectedEof => "image_truncated",
        JpegError::LimitExceeded { .. } | JpegError::AllocationFailed { .. } => "image_too_large",
        JpegError::Unsupported(_) => "image_unsupported",
        _ => "image_corrupt",
    };
    Bad::new(code, error.to_string())
}

/// In place. Files hold inverted ink, as Adobe writes it and Pillow takes for granted; the arithmetic is Pillow's.
fn cmyk_to_rgb(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for at in 0..count {
        let white = u32::from(pixels[at * 4 + 3]);
        for channel in 0..3 {
            let ink = 255 - u32::from(pixels[at * 4 + channel]);
            let product = ink * white + 128;
            pixels[at * 3 + channel] = white.saturating_sub(((product >> 8) + product) >> 8) as u8;
        }
    }
    pixels.truncate(count * 3);
}

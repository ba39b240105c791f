//! JPEG at the smaller DCT scales: what each saves, and what it costs in likeness to the reference.
//!
//! ```sh
//! cargo bench --bench jpeg_scales
//! ```
//!
//! A picture is decoded at each scale that still covers a shorter edge of 256 pixels, and resized to that edge (bilinear, as a processor
//! does). The reference decodes at full size: differences are those of the resized pictures, of 255. Times are the best of 15.

#![allow(missing_docs, reason = "a program")]

use std::{error::Error, fs, path::Path, time::Instant};

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use libjpeg_turbo_rs::{Decoder, PixelFormat, ScalingFactor, Subsampling, compress};

const EDGE: usize = 256;
const ROUNDS: usize = 15;

struct Pixels {
    width: usize,
    height: usize,
    values: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/photos");
    let read = |name: &str| fs::read(photos.join(name));
    let china = decode(&read("china.jpg")?, 1)?;
    println!("{:<28} {:>5} {:>12} {:>9} {:>9} {:>8}", "picture", "scale", "decoded", "ms", "largest", "mean");
    for (name, bytes) in [
        ("china.jpg", read("china.jpg")?),
        ("rocket-portrait.jpg", read("rocket-portrait.jpg")?),
        ("retina.jpg", read("retina.jpg")?),
        ("china.jpg at 2048", enlarged(&china, 2048)?),
        ("china.jpg at 4000", enlarged(&china, 4000)?),
    ] {
        let whole = decode(&bytes, 1)?;
        let wanted = to_edge(&whole)?;
        for scale in [1, 2, 4, 8] {
            let found = decode(&bytes, scale)?;
            if scale > 1 && found.width.min(found.height) < EDGE {
                continue;
            }
            let times: Vec<f64> = (0..ROUNDS)
                .map(|_| {
                    let start = Instant::now();
                    decode(&bytes, scale).map(|_| start.elapsed().as_secs_f64() * 1000.0)
                })
                .collect::<Result<_, _>>()?;
            let best = times.iter().copied().fold(f64::INFINITY, f64::min);
            let differences = to_edge(&found)?.values.iter().zip(&wanted.values).map(|(a, b)| a.abs_diff(*b)).collect::<Vec<_>>();
            let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
            let size = format!("{} × {}", found.width, found.height);
            let largest = differences.iter().max().copied().unwrap_or_default();
            println!("{name:<28} {:>5} {size:>12} {:>9.2} {largest:>9} {mean:>8.2}", format!("1/{scale}"), best);
        }
    }
    Ok(())
}

/// A JPEG of the size that cameras make: larger, and with the grain of a sensor, without which there is nothing in it to lose.
fn enlarged(pixels: &Pixels, width: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut large = resize(pixels, width, width * pixels.height / pixels.width)?;
    let mut state = 0x9e37_79b9_u32;
    for value in &mut large.values {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value = value.saturating_add_signed((state >> 27) as i8 - 16);
    }
    Ok(compress(&large.values, large.width, large.height, PixelFormat::Rgb, 90, Subsampling::S420)?)
}

fn decode(bytes: &[u8], scale: u32) -> Result<Pixels, Box<dyn Error>> {
    let mut decoder = Decoder::new(bytes)?;
    decoder.set_output_format(PixelFormat::Rgb);
    decoder.set_scale(ScalingFactor::try_new(1, scale)?);
    let image = decoder.decode_image()?;
    Ok(Pixels { width: image.width, height: image.height, values: image.data })
}

/// To a shorter edge of [`EDGE`] pixels; the longer one is that of 3:2, so that every scale gives the same size.
fn to_edge(pixels: &Pixels) -> Result<Pixels, Box<dyn Error>> {
    let long = EDGE * 3 / 2;
    if pixels.width > pixels.height { resize(pixels, long, EDGE) } else { resize(pixels, EDGE, long) }
}

fn resize(pixels: &Pixels, width: usize, height: usize) -> Result<Pixels, Box<dyn Error>> {
    let source = ImageRef::new(pixels.width as u32, pixels.height as u32, &pixels.values, PixelType::U8x3)?;
    let mut target = Image::new(width as u32, height as u32, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options)?;
    Ok(Pixels { width, height, values: target.into_vec() })
}

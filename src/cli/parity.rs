//! `nightshift models inspect … --image`: what pictures become before the model sees them, and how far that is from a reference.
//!
//! In: a resolved pipeline, pictures of this machine, and what another program makes of them. Out: a line a picture. What runs is what a
//! runner runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use serde::Serialize;

use super::{npy, show, stop::Stop};
use crate::{
    domain::{
        Pipeline,
        pipeline::image::{Image, Layout},
    },
    runner::{
        featurize::{Assets, Binding, Featurized, ImageLimits},
        tensor::TensorData,
    },
};

/// What a picture became.
#[derive(Debug, Serialize)]
pub(super) struct Seen {
    picture: PathBuf,
    /// Width and height, as people see it.
    pixels: [u32; 2],
    /// Without the batch.
    tensor: Vec<usize>,
    min: f64,
    mean: f64,
    max: f64,
    difference: Option<Difference>,
}

/// How far a tensor is from the reference's, in steps of a picture's values from 0 to 255, before they are normalised.
#[derive(Debug, Serialize)]
struct Difference {
    largest: f64,
    mean: f64,
}

/// A picture's tensor.
struct Made {
    pixels: [u32; 2],
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// Makes tensors of pictures and compares them with the rows of a `.npy` file, where one is named.
///
/// # Errors
/// Names the picture or the file, and what is wrong with it.
pub(super) fn look(pipeline: &Pipeline, pictures: &[PathBuf], reference: Option<&Path>) -> Result<Vec<Seen>, Stop> {
    let Some(image) = &pipeline.image else {
        return Err("this model takes no pictures; --set task=image-classification says that it does".into());
    };
    let reference = reference.map(|path| Reference::read(path, pictures.len())).transpose()?;
    let look = |(at, path): (usize, &PathBuf)| {
        let Made { pixels, shape, values } = made(pipeline, image, path)?;
        let difference =
            reference.as_ref().map(|r| r.picture(at, &shape).map(|wanted| difference(image, &shape, &values, wanted))).transpose()?;
        let bound = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap_or_default();
        Ok(Seen {
            picture: path.clone(),
            pixels,
            min: bound(f64::min),
            mean: values.iter().sum::<f64>() / values.len().max(1) as f64,
            max: bound(f64::max),
            tensor: shape,
            difference,
        })
    };
    pictures.iter().enumerate().map(look).collect()
}

/// Pictures of which a value is further from the reference's than it may be.
pub(super) fn beyond(seen: &[Seen], tolerance: f64) -> usize {
    // Floats that stand for neighbouring steps of 255 differ by 1 and a little.
    let far = |difference: &Difference| difference.largest > tolerance + 1e-2;
    seen.iter().filter(|seen| seen.difference.as_ref().is_some_and(far)).count()
}

/// A table, a line a picture.
pub(super) fn table(seen: &[Seen]) -> String {
    let number = |n: f64| format!("{n:.4}");
    let rows = seen.iter().map(|s| {
        let name = s.picture.display().to_string();
        let mut row = vec![
            name,
            format!("{} × {}", s.pixels[0], s.pixels[1]),
            format!("{:?}", s.tensor),
            number(s.min),
            number(s.mean),
            number(s.max),
        ];
        row.extend(s.difference.iter().flat_map(|d| [number(d.largest), number(d.mean)]));
        row
    });
    let compared = seen.iter().any(|s| s.difference.is_some());
    let head = ["PICTURE", "PIXELS", "TENSOR", "MIN", "MEAN", "MAX", "LARGEST DIFFERENCE OF 255", "MEAN DIFFERENCE"];
    show::columns(if compared { &head } else { &head[..6] }, rows)
}

fn made(pipeline: &Pipeline, image: &Image, path: &Path) -> Result<Made, Stop> {
    let broken = |why: String| Stop::from(format!("{}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| broken(e.to_string()))?;
    let column: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&bytes]));
    let batch = RecordBatch::try_from_iter([(image.column.as_str(), column)]).map_err(|e| broken(e.to_string()))?;
    let binding = Binding::resolve(pipeline, &batch, &Assets::default(), &ImageLimits::default(), 1).map_err(|e| broken(e.detail))?;
    let Featurized { groups, errors, notes } = binding.featurize(&batch);
    if let Some(error) = errors.first() {
        return Err(broken(format!("{}: {}", error.code, error.detail)));
    }
    let tensor = groups.into_iter().next().and_then(|group| group.inputs.into_iter().find(|(name, _)| *name == image.input));
    let geometry = notes.geometry.first().copied().flatten();
    let ((_, tensor), geometry) = tensor.zip(geometry).ok_or_else(|| broken("it became no tensor".to_owned()))?;
    let values = match tensor.data {
        TensorData::Fp32(values) => values.into_iter().map(f64::from).collect(),
        TensorData::Fp16(values) => values.into_iter().map(f64::from).collect(),
        TensorData::Uint8(values) => values.into_iter().map(f64::from).collect(),
        other => return Err(broken(format!("it became a tensor of {}", other.dtype().name()))),
    };
    Ok(Made { pixels: [geometry.width, geometry.height], shape: tensor.shape[1..].to_vec(), values })
}

/// What another program made of the pictures.
struct Reference<'p> {
    path: &'p Path,
    array: npy::Array,
    pictures: usize,
}

impl<'p> Reference<'p> {
    fn read(path: &'p Path, pictures: usize) -> Result<Self, Stop> {
        let broken = |why: String| Stop::from(format!("{}: {why}", path.display()));
        let bytes = std::fs::read(path).map_err(|e| broken(e.to_string()))?;
        let array = npy::read(&bytes).map_err(broken)?;
        Ok(Self { path, array, pictures })
    }

    /// The values of the picture at this place: of an array `[N, …]` a row, of one `[…]` all.
    fn picture(&self, at: usize, shape: &[usize]) -> Result<&[f64], Stop> {
        let length: usize = shape.iter().product();
        let alone = self.pictures == 1 && self.array.shape == shape;
        if alone || self.array.shape.split_first() == Some((&self.pictures, shape)) {
            return Ok(&self.array.values[at * length..(at + 1) * length]);
        }
        let found = &self.array.shape;
        Err(format!("{}: it is an array of {found:?}; {} pictures of {shape:?} are compared", self.path.display(), self.pictures).into())
    }
}

fn difference(image: &Image, shape: &[usize], found: &[f64], wanted: &[f64]) -> Difference {
    // How many steps of 255 one of the tensor's units is, in each channel.
    let steps: Vec<f64> = image.std.iter().map(|std| (std / image.scale).abs()).collect();
    let channel = |at: usize| match image.layout {
        Layout::Nchw => at / (shape[1] * shape[2]),
        Layout::Nhwc => at % shape[2],
    };
    let (mut largest, mut sum) = (0.0, 0.0);
    for (at, (a, b)) in found.iter().zip(wanted).enumerate() {
        let difference = (a - b).abs() * steps[channel(at)];
        // What is no number is as far as can be, and stays so.
        largest = if difference.is_nan() { f64::INFINITY } else { f64::max(largest, difference) };
        sum += difference;
    }
    Difference { largest, mean: sum / found.len().max(1) as f64 }
}

//! Detection: boxes in pixels of the original picture, with a label and a score each, highest score first.
//!
//! Boxes come out of the model in pixels of its tensor; the notes of featurizing say where the picture lay there.

mod heads;
mod overlap;

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float32Array, ListArray, StringArray, StructArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Fields},
};

use super::{InterpretError, arrays::list_type};
use crate::{
    domain::{
        Pipeline,
        pipeline::{
            detection::Head,
            image::{Geometry, Image},
        },
    },
    runner::{featurize::Notes, tensor::Value},
};
use heads::Reading;

/// Most detections of a picture, as in the tools that the heads come from.
const MOST_DETECTIONS: usize = 300;

/// What may be an object.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    class: usize,
    score: f64,
    /// Left, top, right, bottom, in pixels of the tensor.
    corners: [f64; 4],
}

/// `detections`: a list of `{label: Utf8, score: Float32, box: list of Float32}`; a box is left, top, right, bottom in pixels.
pub(super) fn field() -> Field {
    Field::new("detections", list_type(DataType::Struct(members())), true)
}

fn members() -> Fields {
    Fields::from(vec![
        Field::new("label", DataType::Utf8, true),
        Field::new("score", DataType::Float32, true),
        Field::new("box", list_type(DataType::Float32), true),
    ])
}

/// The detections of some rows of a batch.
pub(super) fn array(pipeline: &Pipeline, outputs: &[(String, Value)], of: &[u32], notes: &Notes) -> Result<ArrayRef, InterpretError> {
    let reading = Reading::new(pipeline, outputs, of.len())?;
    let detection = reading.detection;
    let (mut labels, mut scores, mut boxes, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::with_capacity(of.len()));
    for (at, row) in of.iter().enumerate() {
        let geometry = notes.geometry.get(*row as usize).copied().flatten();
        let geometry = geometry.ok_or_else(|| InterpretError(format!("where the picture of row {row} lies was not noted")))?;
        let mut found = reading.candidates(at, tensor_size(pipeline, &geometry))?;
        // Highest first, equals in the model's order.
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        match detection.head {
            Head::Yolov5 | Head::Yolox | Head::Yolov8 | Head::Yolov8Transposed => {
                found = overlap::keep_best(&found, detection.iou_threshold, MOST_DETECTIONS);
            }
            Head::EndToEnd | Head::Separate | Head::Detr => found.truncate(MOST_DETECTIONS),
        }
        lengths.push(found.len());
        for candidate in found {
            labels.push(label(pipeline, candidate.class));
            scores.push(candidate.score as f32);
            boxes.extend(original(candidate.corners, &geometry).map(|side| side as f32));
        }
    }
    Ok(list(labels, scores, boxes, &lengths))
}

fn list(labels: Vec<String>, scores: Vec<f32>, boxes: Vec<f32>, lengths: &[usize]) -> ArrayRef {
    let sides = OffsetBuffer::from_lengths(std::iter::repeat_n(4, labels.len()));
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let boxes = ListArray::new(item, sides, Arc::new(Float32Array::from(boxes)), None);
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(labels)), Arc::new(Float32Array::from(scores)), Arc::new(boxes)];
    let detections = StructArray::new(members(), columns, None);
    let item = Arc::new(Field::new_list_field(DataType::Struct(members()), true));
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths.iter().copied()), Arc::new(detections), None))
}

/// A class by its name, else by its number.
fn label(pipeline: &Pipeline, class: usize) -> String {
    pipeline.labels.as_ref().and_then(|labels| labels.get(class)).cloned().unwrap_or_else(|| class.to_string())
}

/// Width and height that boxes from 0 to 1 are parts of: those of the tensor; of a DETR those of the picture in it, as it is told by its
/// mask what is padding.
fn tensor_size(pipeline: &Pipeline, geometry: &Geometry) -> [f64; 2] {
    let is_detr = pipeline.detection.as_ref().is_some_and(|detection| detection.head == Head::Detr);
    let size = |image: &Image| if is_detr { image.picture_size() } else { image.tensor_size() };
    match pipeline.image.as_ref().and_then(size) {
        Some([height, width]) => [width.into(), height.into()],
        None => [(f64::from(geometry.width) * geometry.scale_x).round(), (f64::from(geometry.height) * geometry.scale_y).round()],
    }
}

/// A box of the tensor in the original picture, resize, padding and crop undone, cut to the picture.
fn original(corners: [f64; 4], geometry: &Geometry) -> [f64; 4] {
    let x = |x: f64| ((x - geometry.left) / geometry.scale_x).clamp(0.0, geometry.width.into());
    let y = |y: f64| ((y - geometry.top) / geometry.scale_y).clamp(0.0, geometry.height.into());
    [x(corners[0]), y(corners[1]), x(corners[2]), y(corners[3])]
}

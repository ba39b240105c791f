//! How a detector's outputs become boxes.

use serde::{Deserialize, Serialize};

/// The form of a detector's outputs. Boxes are in pixels of the tensor unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// `[N, boxes, 5 + classes]`: centre, width and height, the score that there is an object, the score of each class.
    Yolov5,
    /// As `yolov5`, each box told by its cell as YOLOX's own export leaves it: centre from the cell's corner, in cells, and logarithms of
    /// width and height in cells. The boxes are one a cell, row by row, of cells of 8, 16 and 32 pixels, and of 64 in larger models.
    Yolox,
    /// `[N, 4 + classes, boxes]`, of version 8 and later: centre, width and height, the score of each class.
    Yolov8,
    /// The same with the last two dimensions exchanged.
    Yolov8Transposed,
    /// `[N, boxes, 6]`, overlaps already left out by the graph: corners, score, class.
    EndToEnd,
    /// Three outputs, overlaps already left out: corners `[N, boxes, 4]`, scores `[N, boxes]`, classes `[N, boxes]`.
    Separate,
    /// `pred_boxes` `[N, queries, 4]`: centre, width and height, from 0 to 1; `logits` `[N, queries, classes]`, and one class more for "no
    /// object" where a softmax makes scores of them.
    Detr,
}

impl Head {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yolov5 => "yolov5",
            Self::Yolox => "yolox",
            Self::Yolov8 => "yolov8",
            Self::Yolov8Transposed => "yolov8_transposed",
            Self::EndToEnd => "end_to_end",
            Self::Separate => "separate",
            Self::Detr => "detr",
        }
    }

    /// Every head, for messages that list them.
    pub const ALL: [Head; 7] =
        [Self::Yolov5, Self::Yolox, Self::Yolov8, Self::Yolov8Transposed, Self::EndToEnd, Self::Separate, Self::Detr];
}

/// Sides of the cells that YOLOX's boxes belong to, pixels: its models have three sizes, the larger ones four.
const CELL_SIDES: [u64; 4] = [8, 16, 32, 64];

/// The sides of the cells that a tensor of this height and width is divided into by a model with so many boxes, one a cell; `None` where
/// that is no number of cells.
pub fn cell_sides([height, width]: [u64; 2], boxes: u64) -> Option<&'static [u64]> {
    let cells = |side: &u64| (height / side) * (width / side);
    [3, 4].into_iter().map(|sizes| &CELL_SIDES[..sizes]).find(|sides| sides.iter().map(cells).sum::<u64>() == boxes)
}

/// How corners are written in an output of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Corners {
    /// Left, top, right, bottom, in pixels of the tensor.
    #[default]
    Pixels,
    /// Top, left, bottom, right, from 0 to 1, as TensorFlow's detectors write `detection_boxes`.
    UnitsYx,
}

/// How a detector's outputs become boxes: no choice is left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The form of the outputs.
    pub head: Head,
    /// The output that holds the boxes, or everything.
    pub boxes: String,
    /// The output that holds the scores or logits, where they are apart.
    pub scores: Option<String>,
    /// The output that holds the classes, where they are apart.
    pub classes: Option<String>,
    /// How `separate` writes corners.
    pub corners: Corners,
    /// Of two boxes of one class that overlap more than this (intersection over union), the one with the lower score is left out;
    /// unused where the graph or the architecture has seen to it.
    pub iou_threshold: f64,
}

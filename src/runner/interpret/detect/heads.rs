//! What each form of outputs says of a record: candidates at or above the score threshold.

use super::{
    super::{InterpretError, arrays::doubles, take},
    Candidate,
};
use crate::{
    domain::{
        Activation, Pipeline,
        pipeline::detection::{Corners, Detection, Head, cell_sides},
    },
    runner::tensor::Value,
};

/// An output's numbers, record by record.
struct Numbers {
    values: Vec<f64>,
    /// Dimensions after the batch's.
    dims: Vec<usize>,
}

impl Numbers {
    fn of(outputs: &[(String, Value)], name: &str, rows: usize, rank: usize) -> Result<Self, InterpretError> {
        let Value::Tensor(tensor) = take(outputs, name)? else { return Err(InterpretError(format!("output {name:?} is no tensor"))) };
        match tensor.shape.split_first() {
            Some((first, dims)) if *first == rows && dims.len() == rank => Ok(Self { values: doubles(tensor, name)?, dims: dims.to_vec() }),
            _ => Err(InterpretError(format!("output {name:?} has shape {:?} for {rows} records", tensor.shape))),
        }
    }

    fn record(&self, at: usize) -> &[f64] {
        let length: usize = self.dims.iter().product();
        &self.values[at * length..(at + 1) * length]
    }
}

/// A batch's outputs, ready to be read record by record.
pub(super) struct Reading<'p> {
    pub(super) detection: &'p Detection,
    activation: Activation,
    threshold: f64,
    boxes: Numbers,
    scores: Option<Numbers>,
    classes: Option<Numbers>,
}

impl<'p> Reading<'p> {
    pub(super) fn new(pipeline: &'p Pipeline, outputs: &[(String, Value)], rows: usize) -> Result<Self, InterpretError> {
        let detection = pipeline.detection.as_ref().ok_or_else(|| InterpretError("the pipeline names no head".to_owned()))?;
        let rank = if detection.head == Head::Detr { 2 } else { 1 };
        let other = |name: &Option<String>| name.as_ref().map(|name| Numbers::of(outputs, name, rows, rank)).transpose();
        let reading = Self {
            detection,
            activation: pipeline.activation,
            threshold: pipeline.threshold.unwrap_or(0.0),
            boxes: Numbers::of(outputs, &detection.boxes, rows, 2)?,
            scores: other(&detection.scores)?,
            classes: other(&detection.classes)?,
        };
        reading.check(pipeline)?;
        Ok(reading)
    }

    /// That the dimensions are those of the head: a graph may leave them open.
    fn check(&self, pipeline: &Pipeline) -> Result<(), InterpretError> {
        let labels = pipeline.labels.as_ref().map(Vec::len);
        let (rows, columns) = (self.boxes.dims[0], self.boxes.dims[1]);
        let numbers = |before: usize, dim: usize| labels.map_or(dim > before, |labels| dim == before + labels);
        let listed = |n: &Option<Numbers>| n.as_ref().is_some_and(|n| n.dims[0] == rows);
        let fits = match self.detection.head {
            Head::Yolov5 | Head::Yolox => numbers(5, columns),
            Head::Yolov8 => numbers(4, rows),
            Head::Yolov8Transposed => numbers(4, columns),
            Head::EndToEnd => columns == 6,
            Head::Separate => columns == 4 && listed(&self.scores) && listed(&self.classes),
            Head::Detr => columns == 4 && listed(&self.scores),
        };
        if fits {
            return Ok(());
        }
        let name = self.detection.head.name();
        let labels = labels.map_or("unnamed".to_owned(), |l| l.to_string());
        Err(InterpretError(format!(
            "output {:?} gives {rows} × {columns} numbers a record, which is not the form {name:?} with {labels} classes",
            self.detection.boxes
        )))
    }

    /// The candidates of a record, in the model's order; `tensor` is the width and height that boxes from 0 to 1 are parts of, and that
    /// cells divide.
    ///
    /// # Errors
    /// When the model does not give a box for each cell.
    pub(super) fn candidates(&self, at: usize, tensor: [f64; 2]) -> Result<Vec<Candidate>, InterpretError> {
        let record = self.boxes.record(at);
        let (rows, columns) = (self.boxes.dims[0], self.boxes.dims[1]);
        let other = |n: &'_ Option<Numbers>| n.as_ref().map(|n| n.record(at).to_vec()).unwrap_or_default();
        let found = match self.detection.head {
            Head::Yolov5 => record.chunks_exact(columns).filter_map(|b| self.of_object(b, &b[..4])).collect(),
            Head::Yolox => {
                let boxes = record.chunks_exact(columns).zip(cells(tensor, rows)?);
                boxes.filter_map(|(b, cell)| self.of_object(b, &cell.place(b))).collect()
            }
            Head::Yolov8Transposed => record
                .chunks_exact(columns)
                .filter_map(|b| {
                    let (class, score) = best(b[4..].iter().copied())?;
                    self.candidate(class, score, centred(&b[..4]))
                })
                .collect(),
            Head::Yolov8 => (0..columns)
                .filter_map(|k| {
                    let number = |row: usize| record[row * columns + k];
                    let (class, score) = best((4..rows).map(number))?;
                    self.candidate(class, score, centred(&[number(0), number(1), number(2), number(3)]))
                })
                .collect(),
            Head::EndToEnd => record.chunks_exact(6).filter_map(|b| self.candidate(class(b[5])?, b[4], [b[0], b[1], b[2], b[3]])).collect(),
            Head::Separate => {
                let (scores, classes) = (other(&self.scores), other(&self.classes));
                let about = record.chunks_exact(4).zip(scores).zip(classes);
                about.filter_map(|((b, score), number)| self.candidate(class(number)?, score, self.corners(b, tensor))).collect()
            }
            Head::Detr => {
                let logits = other(&self.scores);
                let count = self.scores.as_ref().map_or(0, |s| s.dims[1]).max(1);
                let about = record.chunks_exact(4).zip(logits.chunks_exact(count));
                about.flat_map(|(b, logits)| self.query(b, logits, tensor)).collect()
            }
        };
        Ok(found)
    }

    /// A box behind whose first four numbers stand the score that there is an object, and the score of each class.
    fn of_object(&self, b: &[f64], place: &[f64]) -> Option<Candidate> {
        let (class, score) = best(b[5..].iter().copied())?;
        self.candidate(class, score * b[4], centred(place))
    }

    fn candidate(&self, class: usize, score: f64, corners: [f64; 4]) -> Option<Candidate> {
        (score >= self.threshold && corners.iter().all(|c| c.is_finite())).then_some(Candidate { class, score, corners })
    }

    fn corners(&self, b: &[f64], [width, height]: [f64; 2]) -> [f64; 4] {
        match self.detection.corners {
            Corners::Pixels => [b[0], b[1], b[2], b[3]],
            Corners::UnitsYx => [b[1] * width, b[0] * height, b[3] * width, b[2] * height],
        }
    }

    /// With a softmax, the best class but the last, which means "no object"; with a sigmoid, every class by itself.
    fn query(&self, b: &[f64], logits: &[f64], [width, height]: [f64; 2]) -> Vec<Candidate> {
        let corners = centred(&[b[0] * width, b[1] * height, b[2] * width, b[3] * height]);
        if self.activation == Activation::Sigmoid {
            let scores = logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).enumerate();
            return scores.filter_map(|(class, score)| self.candidate(class, score, corners)).collect();
        }
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
        let objects = logits[..logits.len() - 1].iter().map(|l| (l - largest).exp() / sum);
        best(objects).and_then(|(class, score)| self.candidate(class, score, corners)).into_iter().collect()
    }
}

/// What a box of YOLOX is told by.
struct Cell {
    column: f64,
    row: f64,
    /// Pixels.
    side: f64,
}

impl Cell {
    /// Centre, width and height in pixels of the tensor.
    fn place(&self, b: &[f64]) -> [f64; 4] {
        [(self.column + b[0]) * self.side, (self.row + b[1]) * self.side, b[2].exp() * self.side, b[3].exp() * self.side]
    }
}

/// The cells of a tensor, in the order of the model's boxes.
fn cells([width, height]: [f64; 2], boxes: usize) -> Result<impl Iterator<Item = Cell>, InterpretError> {
    let (width, height) = (width as u64, height as u64);
    let sides = cell_sides([height, width], boxes as u64)
        .ok_or_else(|| InterpretError(format!("{boxes} boxes are not one for each cell of a tensor of {height} × {width}")))?;
    Ok(sides.iter().flat_map(move |side| {
        let row = move |row: u64| (0..width / side).map(move |column| (column, row));
        (0..height / side).flat_map(row).map(|(column, row)| Cell { column: column as f64, row: row as f64, side: *side as f64 })
    }))
}

/// The class with the highest score, the first among equals; `None` where no score is a number.
fn best(scores: impl Iterator<Item = f64>) -> Option<(usize, f64)> {
    let numbers = scores.enumerate().filter(|(_, score)| !score.is_nan());
    numbers.reduce(|best, next| if next.1 > best.1 { next } else { best })
}

/// A class's number, as models write it: a float as a rule.
fn class(number: f64) -> Option<usize> {
    (0.0..1e6).contains(&number).then_some(number as usize)
}

/// Corners from centre, width and height.
fn centred(b: &[f64]) -> [f64; 4] {
    [b[0] - b[2] / 2.0, b[1] - b[3] / 2.0, b[0] + b[2] / 2.0, b[1] + b[3] / 2.0]
}

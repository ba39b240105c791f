//! Which form a detector's outputs have: said by `pipeline.head`, or seen from names and shapes where only one form fits.

use super::{Said, names};
use crate::domain::{
    Activation, Dim, Fault, PipelineSpec, Signature, ValueInfo,
    pipeline::{
        detection::{Corners, Detection, Head, cell_sides},
        image::Image,
    },
};

/// Boxes below this score are left out when nothing says where to draw the line.
pub(super) const SCORE_THRESHOLD: f64 = 0.25;
/// Boxes of one class that overlap more are one object when nothing says where to draw the line.
const IOU_THRESHOLD: f64 = 0.45;

/// How outputs become boxes, and what makes scores of them. What cannot be seen is a fault. `image` is what the model's pictures become.
pub(super) fn derive(
    signature: &Signature,
    spec: &PipelineSpec,
    image: Option<&Image>,
    said: &Said,
    faults: &mut Vec<Fault>,
) -> Option<(Detection, Activation)> {
    for (name, value, by_job) in [
        ("threshold", spec.threshold, said.job.threshold.is_some()),
        ("iou_threshold", spec.iou_threshold, said.job.iou_threshold.is_some()),
    ] {
        if let Some(value) = value.filter(|v| !(0.0..=1.0).contains(v)) {
            let detail = format!("{name} is {value}");
            faults.push(Fault::new(said.at(name, |_| by_job), "out_of_range", detail).hint("give a number from 0 to 1"));
        }
    }
    let tensor = image.and_then(Image::tensor_size).map(|size| size.map(u64::from));
    let outputs = Outputs { signature, labels: spec.labels.as_ref().map(|l| l.len() as u64), tensor };
    let at = said.at("head", |j| j.head.is_some());
    let fitting: Vec<Head> = Head::ALL.into_iter().filter(|head| outputs.fits(*head)).collect();
    let forms = |heads: &[Head]| heads.iter().map(|h| format!("{:?}", h.name())).collect::<Vec<_>>().join(", ");
    let head = match (spec.head, fitting.as_slice()) {
        (Some(head), fitting) if fitting.contains(&head) => head,
        // Where the graph leaves the number of boxes open, the first picture shows whether it is that of the cells.
        (Some(Head::Yolox), fitting) if fitting.contains(&Head::Yolov5) && !outputs.has_counted_boxes() => Head::Yolox,
        (Some(head), _) => {
            let detail = format!("the outputs do not have the form {:?}: {}", head.name(), outputs.words());
            faults.push(Fault::new(at, "wrong_head", detail).hint("leave pipeline.head out, or correct it or pipeline.labels"));
            return None;
        }
        (None, [one]) if outputs.labels.is_some() || matches!(one, Head::Yolov8 | Head::Separate | Head::Detr) => *one,
        (None, []) => {
            let detail = format!("the outputs have no form of a detector that is known: {}", outputs.words());
            faults.push(Fault::new(at, "unknown_head", detail).hint("choose the outputs with pipeline.outputs, or use the task \"raw\""));
            return None;
        }
        (None, several) => {
            let detail = format!("the outputs could have the form {}: {}", forms(several), outputs.words());
            faults.push(Fault::new(at, "unknown_head", detail).hint("say it with pipeline.head, or name the classes with pipeline.labels"));
            return None;
        }
    };
    let activation = if head == Head::Detr { outputs.detr_activation(spec, said, faults)? } else { Activation::None };
    let boxes = outputs.boxes(head)?;
    let detection = Detection {
        head,
        boxes: boxes.name.clone(),
        scores: outputs.scores(head).map(|o| o.name.clone()),
        classes: outputs.called(&["class", "label"]).filter(|_| head == Head::Separate).map(|o| o.name.clone()),
        corners: if boxes.name.contains("detection_boxes") { Corners::UnitsYx } else { Corners::Pixels },
        iou_threshold: spec.iou_threshold.unwrap_or(IOU_THRESHOLD),
    };
    Some((detection, activation))
}

struct Outputs<'s> {
    signature: &'s Signature,
    /// Number of classes, where they are named.
    labels: Option<u64>,
    /// Height and width of the input, where they are known.
    tensor: Option<[u64; 2]>,
}

impl<'s> Outputs<'s> {
    /// The only output whose name contains one of these words.
    fn called(&self, words: &[&str]) -> Option<&'s ValueInfo> {
        let mut found = self.signature.outputs.iter().filter(|o| words.iter().any(|w| o.name.to_ascii_lowercase().contains(w)));
        found.next().filter(|_| found.next().is_none())
    }

    fn boxes(&self, head: Head) -> Option<&'s ValueInfo> {
        match head {
            Head::Separate | Head::Detr => self.called(&["box"]),
            _ => self.single().map(|(output, _)| output),
        }
    }

    fn scores(&self, head: Head) -> Option<&'s ValueInfo> {
        match head {
            Head::Separate => self.called(&["score", "conf"]),
            Head::Detr => self.called(&["logits"]),
            _ => None,
        }
    }

    /// The only output of three dimensions, and the last two of them.
    fn single(&self) -> Option<(&'s ValueInfo, [Option<u64>; 2])> {
        let mut found = self.signature.outputs.iter().filter_map(|output| match output.tensor() {
            Some((dtype, [_, a, b])) if dtype.is_float() => Some((output, [a.fixed(), b.fixed()])),
            _ => None,
        });
        found.next().filter(|_| found.next().is_none())
    }

    fn fits(&self, head: Head) -> bool {
        let rank = |output: Option<&ValueInfo>| output.and_then(ValueInfo::tensor).map(|(_, shape)| shape.len());
        match head {
            Head::Separate => {
                let classes = self.called(&["class", "label"]);
                rank(self.boxes(head)) == Some(3) && rank(self.scores(head)) == Some(2) && rank(classes) == Some(2)
            }
            Head::Detr => rank(self.boxes(head)) == Some(3) && rank(self.scores(head)) == Some(3),
            _ => self.single().is_some_and(|(_, dims)| self.single_fits(head, dims)),
        }
    }

    fn single_fits(&self, head: Head, [rows, columns]: [Option<u64>; 2]) -> bool {
        let is = |dim: Option<u64>, before: u64| match (dim, self.labels) {
            (Some(dim), Some(labels)) => dim == before + labels,
            (Some(dim), None) => dim > before,
            (None, _) => false,
        };
        // There are more boxes than numbers about each: what tells the two apart where the classes are not named.
        let wide = rows.zip(columns).is_none_or(|(rows, columns)| rows < columns);
        match head {
            Head::Yolov5 => is(columns, 5) && (self.labels.is_some() || !wide),
            // YOLOX's boxes have the shape of version 5's: those that it has decoded itself cannot be told from those that it has not.
            Head::Yolox => is(columns, 5) && self.tensor.zip(rows).is_some_and(|(tensor, boxes)| cell_sides(tensor, boxes).is_some()),
            Head::Yolov8 => is(rows, 4) && (self.labels.is_some() || wide),
            Head::Yolov8Transposed => is(columns, 4) && (self.labels.is_some() || !wide),
            Head::EndToEnd => columns == Some(6),
            Head::Separate | Head::Detr => false,
        }
    }

    /// Whether graph and settings say both how many boxes there are and how many cells.
    fn has_counted_boxes(&self) -> bool {
        self.tensor.is_some() && self.single().is_some_and(|(_, [rows, _])| rows.is_some())
    }

    /// Softmax where there is a class more than labels ("no object"), a sigmoid where there are as many.
    fn detr_activation(&self, spec: &PipelineSpec, said: &Said, faults: &mut Vec<Fault>) -> Option<Activation> {
        match spec.activation {
            Some(said @ (Activation::Softmax | Activation::Sigmoid)) => return Some(said),
            Some(Activation::None) => {
                let detail = "the logits of a DETR are no scores yet".to_owned();
                faults.push(
                    Fault::new(said.at("activation", |j| j.activation.is_some()), "wrong_activation", detail)
                        .hint("choose \"softmax\" or \"sigmoid\", or leave it out"),
                );
                return None;
            }
            Some(Activation::Auto) | None => {}
        }
        let logits = self.scores(Head::Detr)?;
        let classes = logits.tensor().and_then(|(_, shape)| shape.get(2)).and_then(Dim::fixed);
        match (classes, self.labels) {
            (Some(classes), Some(labels)) if classes == labels + 1 => Some(Activation::Softmax),
            (Some(classes), Some(labels)) if classes == labels => Some(Activation::Sigmoid),
            _ => {
                let labels = self.labels.map_or("no".to_owned(), |l| l.to_string());
                let detail = format!(
                    "whether scores come by softmax (with a class for \"no object\") or by sigmoid is not clear: {labels} labels, {}",
                    self.words()
                );
                faults.push(
                    Fault::new(said.at("activation", |j| j.activation.is_some()), "unknown_activation", detail)
                        .hint("say it with pipeline.activation, or name the classes with pipeline.labels"),
                );
                None
            }
        }
    }

    fn words(&self) -> String {
        let shape = |o: &ValueInfo| match o.tensor() {
            Some((_, shape)) => {
                let dims =
                    shape.iter().enumerate().map(|(at, d)| d.fixed().map_or(if at == 0 { "N" } else { "?" }.to_owned(), |n| n.to_string()));
                format!("{:?} [{}]", o.name, dims.collect::<Vec<_>>().join(", "))
            }
            None => format!("{:?}", o.name),
        };
        if self.signature.outputs.is_empty() { names(&[]) } else { self.signature.outputs.iter().map(shape).collect::<Vec<_>>().join(", ") }
    }
}

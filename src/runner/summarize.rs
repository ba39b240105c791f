//! Prediction columns and notes → what they are like.
//!
//! In: the predictions of a batch's good rows, and what featurizing noted of them. Out: their [`Summary`].

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    compute::cast,
    datatypes::{DataType, Field, Float64Type},
};

use super::{batch::Batch, featurize::Notes, sketch::sketch};
use crate::domain::{
    Pipeline, Summary, Task,
    summary::{Images, Lengths, Values},
};

/// The summary of predictions, which are those of the rows `rows` of the batch that `notes` are about.
///
/// Of a record with one label that one counts, of one with several best ones the first, and with a threshold every label above it; of
/// detections every box.
pub(super) fn summarize(pipeline: &Pipeline, predictions: &[(Arc<Field>, ArrayRef)], notes: &Notes, rows: &[u32]) -> Summary {
    let column = |name: &str| predictions.iter().find(|(field, _)| field.name() == name).map(|(_, array)| array);
    let mut summary = Summary::default();
    match pipeline.task {
        task if task.is_classification() => {
            if let (Some(labels), Some(scores)) = (column("label"), column("score")) {
                add_labels(&mut summary, labels, scores, 0..labels.len());
            } else if let (Some(labels), Some(scores)) = (column("labels"), column("scores")) {
                add_lists(&mut summary, pipeline, labels, scores);
            }
        }
        Task::ObjectDetection => {
            if let Some(boxes) = column("detections").and_then(|boxes| boxes.as_list_opt::<i32>()) {
                if let Some(items) = boxes.values().as_struct_opt()
                    && let (Some(labels), Some(scores)) = (items.column_by_name("label"), items.column_by_name("score"))
                {
                    let offsets = boxes.value_offsets();
                    add_labels(&mut summary, labels, scores, offsets[0] as usize..offsets[boxes.len()] as usize);
                }
                summary.detections = Lengths::of((0..boxes.len()).map(|row| boxes.value_length(row) as u64));
            }
        }
        Task::TabularRegression => {
            let values = column("prediction").and_then(|values| cast(values, &DataType::Float64).ok());
            summary.values = values.and_then(|values| Values::of(values.as_primitive::<Float64Type>().iter().flatten()));
        }
        Task::FeatureExtraction => summary.embedding_dimension = column("embedding").and_then(dimension),
        _ => {}
    }
    let noted = |row: &u32| notes.geometry.get(*row as usize).copied().flatten();
    summary.images = Images::of(rows.iter().filter_map(noted).map(|g| (g.width, g.height)));
    summary.tokens = Lengths::of(rows.iter().filter_map(|row| notes.tokens.get(*row as usize)).map(|tokens| u64::from(*tokens)));
    add_flags(&mut summary, pipeline, column("flags"));
    summary
}

/// Adds what only those need who compare runs: what the columns are like, those that went in and those that came out.
pub(super) fn add_sketches(summary: &mut Summary, batch: &Batch, predictions: &[(Arc<Field>, ArrayRef)]) {
    let schema = batch.columns.schema();
    summary.inputs = sketch(schema.fields().iter().zip(batch.columns.columns()));
    summary.predicted = sketch(predictions.iter().map(|(field, array)| (field, array)));
}

fn add_labels(summary: &mut Summary, labels: &ArrayRef, scores: &ArrayRef, at: impl Iterator<Item = usize>) {
    let (Some(labels), Ok(scores)) = (labels.as_string_opt::<i32>(), cast(scores, &DataType::Float64)) else { return };
    let scores = scores.as_primitive::<Float64Type>();
    for at in at.filter(|at| labels.is_valid(*at)) {
        summary.add_label(labels.value(at), scores.is_valid(at).then(|| scores.value(at)));
    }
}

fn add_lists(summary: &mut Summary, pipeline: &Pipeline, labels: &ArrayRef, scores: &ArrayRef) {
    let (Some(labels), Some(scores)) = (labels.as_list_opt::<i32>(), scores.as_list_opt::<i32>()) else { return };
    let listed = |row: usize| {
        let (start, end) = (labels.value_offsets()[row] as usize, labels.value_offsets()[row + 1] as usize);
        if pipeline.threshold.is_some() { start..end } else { start..end.min(start + 1) }
    };
    let at: Vec<usize> = (0..labels.len()).flat_map(listed).collect();
    add_labels(summary, labels.values(), scores.values(), at.into_iter());
}

fn add_flags(summary: &mut Summary, pipeline: &Pipeline, met: Option<&ArrayRef>) {
    let Some(met) = met.and_then(|met| met.as_list_opt::<i32>()).filter(|_| !pipeline.flags.is_empty()) else { return };
    summary.flags = pipeline.flags.keys().map(|name| (name.clone(), 0)).collect();
    let Some(names) = met.values().as_any().downcast_ref::<StringArray>() else { return };
    let (start, end) = (met.value_offsets()[0] as usize, met.value_offsets()[met.len()] as usize);
    for at in start..end {
        *summary.flags.entry(names.value(at).to_owned()).or_default() += 1;
    }
}

fn dimension(embeddings: &ArrayRef) -> Option<u32> {
    match embeddings.data_type() {
        DataType::FixedSizeList(_, length) => u32::try_from(*length).ok(),
        DataType::List(_) => {
            let lists = embeddings.as_list::<i32>();
            (0..lists.len()).map(|row| lists.value_length(row) as u32).max()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{FixedSizeListArray, Float32Array, Float64Array, ListArray, ListBuilder, StringBuilder, StructArray};

    use super::*;
    use crate::domain::{
        Signature,
        pipeline::{flags::Flag, image::Geometry},
    };

    fn columns(columns: Vec<(&str, ArrayRef)>) -> Vec<(Arc<Field>, ArrayRef)> {
        columns.into_iter().map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array)).collect()
    }

    fn lists(rows: &[&[&str]]) -> ArrayRef {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for row in rows {
            row.iter().for_each(|item| lists.values().append_value(item));
            lists.append(true);
        }
        Arc::new(lists.finish())
    }

    fn pipeline(task: Task) -> Pipeline {
        Pipeline::new(task, Signature { inputs: Vec::new(), outputs: Vec::new() })
    }

    #[test]
    fn labels_scores_and_flags_of_a_classification_are_counted() {
        let mut pipeline = pipeline(Task::TextClassification);
        pipeline.flags = ["odd", "never"].map(|name| (name.to_owned(), Flag::TopBelow { top_below: 0.5 })).into();
        let predictions = columns(vec![
            ("label", Arc::new(StringArray::from(vec!["a", "b", "a"]))),
            ("score", Arc::new(Float32Array::from(vec![0.125, 0.5, f32::NAN]))),
            ("flags", lists(&[&["odd"], &[], &["odd"]])),
        ]);
        let summary = summarize(&pipeline, &predictions, &Notes::default(), &[0, 1, 2]);
        assert_eq!(summary.labels.counts, [("a".to_owned(), 2), ("b".to_owned(), 1)].into());
        let scores = summary.scores.unwrap();
        assert_eq!((scores.bins[2], scores.bins[10], scores.outside), (1, 1, 1));
        assert_eq!(summary.flags, [("never".to_owned(), 0), ("odd".to_owned(), 2)].into(), "a flag that nobody met is a 0, not nothing");
        assert_eq!((summary.images, summary.tokens), (None, None));
    }

    #[test]
    fn of_a_record_with_several_labels_the_first_counts_and_with_a_threshold_all_do() {
        let mut pipeline = pipeline(Task::ImageClassification);
        let scores = ListArray::from_iter_primitive::<Float64Type, _, _>([Some([0.9, 0.1].map(Some)), Some([0.6, 0.4].map(Some))]);
        let predictions = columns(vec![("labels", lists(&[&["a", "b"], &["b", "c"]])), ("scores", Arc::new(scores))]);
        let counts = |pipeline: &Pipeline| summarize(pipeline, &predictions, &Notes::default(), &[0, 1]).labels.counts;
        pipeline.top_k = 2;
        assert_eq!(counts(&pipeline), [("a".to_owned(), 1), ("b".to_owned(), 1)].into());
        pipeline.threshold = Some(0.05);
        assert_eq!(counts(&pipeline), [("a".to_owned(), 1), ("b".to_owned(), 2), ("c".to_owned(), 1)].into());
    }

    #[test]
    fn every_box_of_a_detection_counts() {
        let labels: ArrayRef = Arc::new(StringArray::from(vec!["cat", "dog", "cat"]));
        let scores: ArrayRef = Arc::new(Float32Array::from(vec![0.9, 0.8, 0.7]));
        let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
        let boxes = StructArray::from(vec![(field("label", &labels), labels.clone()), (field("score", &scores), scores.clone())]);
        let item = Arc::new(Field::new_list_field(boxes.data_type().clone(), true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([0, 3, 0]);
        let predictions = columns(vec![("detections", Arc::new(ListArray::new(item, offsets, Arc::new(boxes), None)))]);
        let geometry = |width, height| Some(Geometry { width, height, scale_x: 1.0, scale_y: 1.0, left: 0.0, top: 0.0 });
        let notes = Notes { geometry: vec![geometry(640, 480), None, geometry(32, 8), geometry(700, 500)], ..Notes::default() };
        let summary = summarize(&pipeline(Task::ObjectDetection), &predictions, &notes, &[0, 2, 3]);
        assert_eq!(summary.labels.counts, [("cat".to_owned(), 2), ("dog".to_owned(), 1)].into());
        assert_eq!(summary.detections.unwrap().histogram, [(0, 2), (2, 1)].into());
        assert_eq!(summary.images.unwrap().sizes, [("512x256".to_owned(), 2), ("32x8".to_owned(), 1)].into());
    }

    #[test]
    fn numbers_embeddings_and_tokens_are_described() {
        let values = columns(vec![("prediction", Arc::new(Float64Array::from(vec![1.5, -2.0, f64::INFINITY])))]);
        let values = summarize(&pipeline(Task::TabularRegression), &values, &Notes::default(), &[0, 1, 2]).values.unwrap();
        assert_eq!((values.count, values.min, values.max, values.sum), (2, -2.0, 1.5, -0.5));
        let vectors = FixedSizeListArray::from_iter_primitive::<arrow::datatypes::Float32Type, _, _>([Some(vec![Some(0.0); 3])], 3);
        let notes = Notes { tokens: vec![7, 0, 300], ..Notes::default() };
        let summary = summarize(&pipeline(Task::FeatureExtraction), &columns(vec![("embedding", Arc::new(vectors))]), &notes, &[0, 2]);
        assert_eq!((summary.embedding_dimension, summary.tokens.unwrap().histogram), (Some(3), [(4, 1), (256, 1)].into()));
    }
}

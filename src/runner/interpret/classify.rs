//! Classification: a label and its score, the best few, or every class's probability.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use arrow::{
    array::{ArrayRef, Float32Array, Float64Array, ListArray, StringArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field},
};

use super::{InterpretError, arrays, raw, take};
use crate::{
    domain::{Activation, Pipeline, ValueInfo, ValueType, pipeline::ClassifierOutputs},
    runner::tensor::{MapKeys, TensorData, Value},
};

pub(super) fn fields(pipeline: &Pipeline) -> Vec<Field> {
    let score = score_type(pipeline);
    let mut fields = if pipeline.lists_classes() {
        vec![Field::new("labels", arrays::list_type(DataType::Utf8), true), Field::new("scores", arrays::list_type(score.clone()), true)]
    } else {
        vec![Field::new("label", DataType::Utf8, true), Field::new("score", score.clone(), true)]
    };
    if pipeline.probabilities {
        let kind = if by_label(pipeline) { raw::map_type(DataType::Utf8, score) } else { arrays::list_type(score) };
        fields.push(Field::new("probabilities", kind, true));
    }
    fields
}

fn roles(pipeline: &Pipeline) -> ClassifierOutputs {
    pipeline.classifier.clone().unwrap_or(ClassifierOutputs { label: None, scores: None })
}

fn scores_output(pipeline: &Pipeline) -> Option<&ValueInfo> {
    let name = roles(pipeline).scores?;
    pipeline.signature.outputs.iter().find(|o| o.name == name)
}

fn score_type(pipeline: &Pipeline) -> DataType {
    super::float_type(scores_output(pipeline))
}

/// Whether each class has a name of its own.
fn by_label(pipeline: &Pipeline) -> bool {
    pipeline.labels.is_some() || scores_output(pipeline).is_some_and(|o| !matches!(o.value, ValueType::Tensor { .. }))
}

/// Scores of all rows, row by row.
struct Scores {
    classes: usize,
    values: Vec<f64>,
    /// What the graph itself calls the classes, where it does.
    keys: Option<Vec<String>>,
}

pub(super) fn arrays(pipeline: &Pipeline, outputs: &[(String, Value)], rows: usize) -> Result<Vec<ArrayRef>, InterpretError> {
    let roles = roles(pipeline);
    let scores = roles.scores.as_ref().map(|name| read_scores(pipeline, take(outputs, name)?, name, rows)).transpose()?;
    let given = roles.label.as_ref().map(|name| read_labels(take(outputs, name)?, name, rows)).transpose()?;
    if let (Some(scores), Some(labels)) = (&scores, &pipeline.labels)
        && scores.keys.is_none()
        && scores.classes != labels.len()
    {
        return Err(InterpretError(format!("the model gives {} classes, and {} labels are named", scores.classes, labels.len())));
    }
    let kind = score_type(pipeline);
    let mut columns = if pipeline.lists_classes() {
        top(pipeline, scores.as_ref(), rows, &kind)?
    } else {
        best(pipeline, scores.as_ref(), given.as_ref(), rows, &kind)?
    };
    if pipeline.probabilities {
        columns.push(probabilities(pipeline, scores.as_ref(), rows, &kind)?);
    }
    Ok(columns)
}

/// Every class's score.
pub(super) struct ClassScores {
    /// What the classes are called.
    pub(super) classes: Vec<String>,
    /// A score for each class, row by row.
    pub(super) values: Vec<f64>,
}

/// The scores of all classes; `None` where the model gives a label alone.
pub(super) fn all_scores(pipeline: &Pipeline, outputs: &[(String, Value)], rows: usize) -> Result<Option<ClassScores>, InterpretError> {
    let Some(name) = roles(pipeline).scores else { return Ok(None) };
    let scores = read_scores(pipeline, take(outputs, &name)?, &name, rows)?;
    // The other columns say what is wrong with a number of classes that is not that of the labels.
    if scores.keys.is_none() && pipeline.labels.as_ref().is_some_and(|labels| labels.len() != scores.classes) {
        return Ok(None);
    }
    let classes = (0..scores.classes).map(|class| class_name(pipeline, &scores, class)).collect();
    Ok(Some(ClassScores { classes, values: scores.values }))
}

/// What a class is called: by `labels`, else by the graph's own key, else by its number.
fn class_name(pipeline: &Pipeline, scores: &Scores, class: usize) -> String {
    match (&scores.keys, &pipeline.labels) {
        (Some(keys), Some(labels)) => keys[class].parse::<usize>().ok().and_then(|k| labels.get(k)).unwrap_or(&keys[class]).clone(),
        (Some(keys), None) => keys[class].clone(),
        (None, Some(labels)) => labels[class].clone(),
        (None, None) => class.to_string(),
    }
}

/// What the graph's own label is called: an integer by `labels` where they are given.
fn given_name(pipeline: &Pipeline, given: &str) -> String {
    let labels = pipeline.labels.as_ref();
    labels.and_then(|labels| labels.get(given.parse::<usize>().ok()?)).cloned().unwrap_or_else(|| given.to_owned())
}

fn row(scores: &Scores, row: usize) -> &[f64] {
    &scores.values[row * scores.classes..(row + 1) * scores.classes]
}

/// The class with the highest score, the first among equals; a NaN wins against nothing.
fn argmax(scores: &[f64]) -> usize {
    let mut best = 0;
    for (class, score) in scores.iter().enumerate() {
        if *score > scores[best] || scores[best].is_nan() && !score.is_nan() {
            best = class;
        }
    }
    best
}

fn best(
    pipeline: &Pipeline,
    scores: Option<&Scores>,
    given: Option<&Given>,
    rows: usize,
    kind: &DataType,
) -> Result<Vec<ArrayRef>, InterpretError> {
    let names: Option<Vec<String>> = scores.map(|s| (0..s.classes).map(|class| class_name(pipeline, s, class)).collect());
    // The graph's own label stands, and the score is that label's, where it can be found; a graph may have a threshold inside.
    let given = given.map(|given| {
        let called: Vec<String> = given.labels.iter().map(|label| given_name(pipeline, label)).collect();
        let class = |name: &String| names.as_ref().and_then(|names| names.iter().position(|known| known == name));
        let classes: Vec<Option<usize>> = called.iter().map(class).collect();
        (called, classes, &given.rows)
    });
    let mut labels: Vec<Option<&str>> = Vec::with_capacity(rows);
    let mut best: Vec<Option<f64>> = Vec::with_capacity(rows);
    for at in 0..rows {
        let own = given.as_ref().map(|(called, classes, rows)| (called[rows[at]].as_str(), classes[rows[at]]));
        let winner = || scores.filter(|s| s.classes > 0).map(|s| argmax(row(s, at)));
        let class = own.and_then(|(_, class)| class).or_else(winner);
        best.push(scores.and_then(|s| class.map(|class| row(s, at)[class])));
        labels.push(match (own, class, &names) {
            (Some((label, _)), _, _) => Some(label),
            (None, Some(class), Some(names)) => Some(&names[class]),
            _ => None,
        });
    }
    let score: ArrayRef = match kind {
        DataType::Float64 => Arc::new(Float64Array::from(best)),
        _ => Arc::new(Float32Array::from_iter(best.into_iter().map(|s| s.map(|s| s as f32)))),
    };
    Ok(vec![Arc::new(StringArray::from(labels)), score])
}

fn top(pipeline: &Pipeline, scores: Option<&Scores>, rows: usize, kind: &DataType) -> Result<Vec<ArrayRef>, InterpretError> {
    let scores = scores.ok_or_else(|| InterpretError("top_k and threshold need an output with a score for each class".to_owned()))?;
    let count = (pipeline.top_k as usize).min(scores.classes);
    let names: Vec<String> = (0..scores.classes).map(|class| class_name(pipeline, scores, class)).collect();
    let (mut labels, mut values, mut lengths) = (Vec::new(), Vec::new(), Vec::with_capacity(rows));
    for at in 0..rows {
        let row = row(scores, at);
        let mut order: Vec<usize> = (0..scores.classes).collect();
        // Highest first, NaN last, equals in class order.
        order.sort_by(|a, b| row[*b].partial_cmp(&row[*a]).unwrap_or_else(|| row[*a].is_nan().cmp(&row[*b].is_nan())).then(a.cmp(b)));
        let before = labels.len();
        for class in order[..count].iter().filter(|class| pipeline.threshold.is_none_or(|least| row[**class] >= least)) {
            labels.push(names[*class].as_str());
            values.push(row[*class]);
        }
        lengths.push(labels.len() - before);
    }
    let list = |items: ArrayRef| -> ArrayRef {
        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
        Arc::new(ListArray::new(Arc::new(Field::new_list_field(items.data_type().clone(), true)), offsets, items, None))
    };
    Ok(vec![list(Arc::new(StringArray::from(labels))), list(arrays::of_floats(&values, kind))])
}

fn probabilities(pipeline: &Pipeline, scores: Option<&Scores>, rows: usize, kind: &DataType) -> Result<ArrayRef, InterpretError> {
    let scores = scores.ok_or_else(|| InterpretError("probabilities need an output with a score for each class".to_owned()))?;
    let values = arrays::of_floats(&scores.values, kind);
    let lengths = std::iter::repeat_n(scores.classes, rows);
    if by_label(pipeline) {
        let names: Vec<String> = (0..scores.classes).map(|class| class_name(pipeline, scores, class)).collect();
        let keys = StringArray::from_iter_values((0..rows).flat_map(|_| names.iter()));
        return Ok(raw::map_array(Arc::new(keys), values, lengths));
    }
    Ok(Arc::new(ListArray::new(Arc::new(Field::new_list_field(kind.clone(), true)), OffsetBuffer::from_lengths(lengths), values, None)))
}

fn read_scores(pipeline: &Pipeline, value: &Value, name: &str, rows: usize) -> Result<Scores, InterpretError> {
    let mut scores = match value {
        Value::Tensor(tensor) => {
            let values = arrays::floats(value, name, rows)?;
            match tensor.shape.as_slice() {
                [_, classes] if *classes > 1 => Scores { classes: *classes, values, keys: None },
                // One number a record is the probability of the second of two classes.
                [_] | [_, 1] => return Ok(binary(pipeline.activation, &values)),
                shape => return Err(InterpretError(format!("output {name:?} has shape {shape:?}; a classifier's is [N, classes]"))),
            }
        }
        Value::Sequence(items) => of_maps(items, name, rows)?,
        Value::Map { .. } => return Err(InterpretError(format!("output {name:?} is one map for all records"))),
    };
    for row in scores.values.chunks_exact_mut(scores.classes.max(1)) {
        activate(pipeline.activation, row);
    }
    Ok(scores)
}

fn binary(activation: Activation, values: &[f64]) -> Scores {
    let second = |v: f64| if activation == Activation::Sigmoid { 1.0 / (1.0 + (-v).exp()) } else { v };
    Scores { classes: 2, values: values.iter().flat_map(|v| [1.0 - second(*v), second(*v)]).collect(), keys: None }
}

fn activate(activation: Activation, row: &mut [f64]) {
    match activation {
        Activation::None | Activation::Auto => {}
        Activation::Sigmoid => row.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp())),
        Activation::Softmax => {
            // Shifted by the largest, so that no exponential overflows.
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|v| *v = (*v - largest).exp());
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }
    }
}

fn of_maps(items: &[Value], name: &str, rows: usize) -> Result<Scores, InterpretError> {
    let wrong = |what: &str| InterpretError(format!("output {name:?} {what}"));
    if items.len() != rows {
        return Err(wrong(&format!("is a sequence of {} maps for {rows} records", items.len())));
    }
    let mut scores = Scores { classes: 0, values: Vec::new(), keys: None };
    for item in items {
        let Value::Map { keys, values } = item else { return Err(wrong("holds something other than maps")) };
        let keys: Vec<String> = match keys {
            MapKeys::Bytes(keys) => keys.clone(),
            MapKeys::Int64(keys) => keys.iter().map(i64::to_string).collect(),
        };
        match &scores.keys {
            None => {
                scores.classes = keys.len();
                scores.keys = Some(keys);
            }
            Some(known) if *known == keys => {}
            Some(_) => return Err(wrong("has maps with different keys")),
        }
        match values {
            TensorData::Fp32(values) => scores.values.extend(values.iter().map(|v| f64::from(*v))),
            TensorData::Fp64(values) => scores.values.extend(values),
            other => return Err(wrong(&format!("has maps of {}, where numbers were expected", other.dtype().name()))),
        }
    }
    Ok(scores)
}

/// The graph's own labels.
struct Given {
    /// Those that there are, integers by their text.
    labels: Vec<String>,
    /// The place of each row's.
    rows: Vec<usize>,
}

impl Given {
    /// Few labels stand for very many rows, and mostly the one before does.
    fn of<'v, T: Eq + Hash + ToString + ?Sized + 'v>(values: impl Iterator<Item = &'v T>) -> Self {
        let mut given = Self { labels: Vec::new(), rows: Vec::new() };
        let mut places: HashMap<&T, usize> = HashMap::new();
        let mut last: Option<(&T, usize)> = None;
        for value in values {
            let place = match last {
                Some((known, place)) if known == value => place,
                _ => *places.entry(value).or_insert_with(|| {
                    given.labels.push(value.to_string());
                    given.labels.len() - 1
                }),
            };
            last = Some((value, place));
            given.rows.push(place);
        }
        given
    }
}

fn read_labels(value: &Value, name: &str, rows: usize) -> Result<Given, InterpretError> {
    let Value::Tensor(tensor) = value else { return Err(InterpretError(format!("output {name:?} is no tensor of labels"))) };
    let given = match &tensor.data {
        TensorData::Bytes(v) => Given::of(v.iter()),
        TensorData::Int64(v) => Given::of(v.iter()),
        TensorData::Int32(v) => Given::of(v.iter()),
        TensorData::Bool(v) => Given::of(v.iter().map(|v| if *v { "1" } else { "0" })),
        other => return Err(InterpretError(format!("output {name:?} holds {}, where labels were expected", other.dtype().name()))),
    };
    if given.rows.len() != rows {
        return Err(InterpretError(format!("output {name:?} gives {} labels for {rows} records", given.rows.len())));
    }
    Ok(given)
}

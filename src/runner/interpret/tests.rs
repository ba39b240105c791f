//! Outputs by hand, predictions as people expect them.

use arrow::{array::RecordBatch, util::display::array_value_to_string};

use super::*;
use crate::{
    domain::{
        Activation, Dim, Signature, ValueType,
        pipeline::{
            ClassifierOutputs,
            text::{Embedding, Padding, Pooling, Side, Text},
        },
    },
    runner::tensor::{MapKeys, Tensor, TensorData},
};

fn tensor_type(dtype: Dtype, dims: &[i64]) -> ValueType {
    let dim = |d: &i64| if *d < 0 { Dim::Dynamic(None) } else { Dim::Fixed(*d as u64) };
    ValueType::Tensor { dtype, shape: Some(dims.iter().map(dim).collect()) }
}

fn output(name: &str, value: ValueType) -> ValueInfo {
    ValueInfo { name: name.to_owned(), value }
}

fn pipeline(task: Task, outputs: Vec<ValueInfo>) -> Pipeline {
    let name = |at: usize| outputs.get(at).map(|o| o.name.clone());
    let classifier = ClassifierOutputs { label: name(0).filter(|_| outputs.len() > 1), scores: name(outputs.len() - 1) };
    Pipeline { classifier: Some(classifier), ..Pipeline::new(task, Signature { inputs: Vec::new(), outputs }) }
}

fn tensor(shape: &[usize], data: TensorData) -> Value {
    Value::Tensor(Tensor { shape: shape.to_vec(), data })
}

/// The prediction columns as text, row by row; checks that they are of the announced types.
fn rows(pipeline: &Pipeline, outputs: Vec<(&str, Value)>, rows: usize) -> Vec<String> {
    let outputs = outputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let columns = interpret(pipeline, outputs, &(0..rows as u32).collect::<Vec<_>>(), &Notes::default()).unwrap();
    let schema = arrow::datatypes::Schema::new(prediction_fields(pipeline));
    let batch = RecordBatch::try_new(schema.into(), columns).expect("the announced types");
    let names = pipeline.prediction_columns();
    assert_eq!(batch.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>(), names);
    let cell = |row: usize, column: usize| array_value_to_string(batch.column(column), row).unwrap();
    (0..rows).map(|row| (0..names.len()).map(|column| cell(row, column)).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn raw_outputs_keep_their_shape_but_for_a_last_dimension_of_one() {
    let p = pipeline(
        Task::Raw,
        vec![
            output("n", tensor_type(Dtype::Int64, &[-1])),
            output("n1", tensor_type(Dtype::Bool, &[-1, 1])),
            output("nk", tensor_type(Dtype::Fp16, &[-1, 2])),
            output("nhw", tensor_type(Dtype::Bytes, &[-1, 1, 2])),
            output("wrong", tensor_type(Dtype::Int64, &[1])),
        ],
    );
    let half = |v: f32| half::f16::from_f32(v);
    let found = rows(
        &p,
        vec![
            ("n", tensor(&[2], TensorData::Int64(vec![i64::MIN, i64::MAX]))),
            ("n1", tensor(&[2, 1], TensorData::Bool(vec![true, false]))),
            ("nk", tensor(&[2, 2], TensorData::Fp16(vec![half(0.5), half(f32::NAN), half(1.0), half(2.0)]))),
            ("nhw", tensor(&[2, 1, 2], TensorData::Bytes(["a", "b", "c", "d"].map(str::to_owned).to_vec()))),
            ("wrong", tensor(&[2], TensorData::Int64(vec![5, 6]))),
        ],
        2,
    );
    assert_eq!(found, ["-9223372036854775808 true [0.5, NaN] [[a, b]] 5", "9223372036854775807 false [1.0, 2.0] [[c, d]] 6"]);
}

#[test]
fn the_graphs_own_label_stands_and_the_score_is_that_labels() {
    let mut p = pipeline(
        Task::TabularClassification,
        vec![output("label", tensor_type(Dtype::Int64, &[-1])), output("p", tensor_type(Dtype::Fp32, &[-1, 2]))],
    );
    p.labels = Some(vec!["ok".to_owned(), "fraud".to_owned()]);
    p.probabilities = true;
    // The second record: a threshold inside the graph says fraud at 0.3.
    let outputs = || {
        vec![
            ("label", tensor(&[2], TensorData::Int64(vec![0, 1]))),
            ("p", tensor(&[2, 2], TensorData::Fp32(vec![0.75, 0.25, 0.625, 0.375]))),
        ]
    };
    assert_eq!(rows(&p, outputs(), 2), ["ok 0.75 {ok: 0.75, fraud: 0.25}", "fraud 0.375 {ok: 0.625, fraud: 0.375}"]);
    p.labels = None;
    assert_eq!(rows(&p, outputs(), 2), ["0 0.75 [0.75, 0.25]", "1 0.375 [0.625, 0.375]"]);
    p.labels = Some(vec!["one".to_owned()]);
    assert!(
        interpret(&p, outputs().into_iter().map(|(n, v)| (n.to_owned(), v)).collect(), &[0, 1], &Notes::default())
            .unwrap_err()
            .0
            .contains("2 classes")
    );
}

#[test]
fn zip_maps_are_read_by_their_own_keys() {
    let map =
        ValueType::Sequence { element: Box::new(ValueType::Map { key: Dtype::Bytes, value: Box::new(tensor_type(Dtype::Fp32, &[])) }) };
    let mut p = pipeline(Task::TabularClassification, vec![output("label", tensor_type(Dtype::Bytes, &[-1])), output("p", map.clone())]);
    p.top_k = 2;
    let item = |no: f32| Value::Map {
        keys: MapKeys::Bytes(vec!["No".to_owned(), "Yes".to_owned()]),
        values: TensorData::Fp32(vec![no, 1.0 - no]),
    };
    let labels = || tensor(&[2], TensorData::Bytes(vec!["No".to_owned(), "Yes".to_owned()]));
    let maps = || Value::Sequence(vec![item(0.75), item(0.25)]);
    assert_eq!(rows(&p, vec![("label", labels()), ("p", maps())], 2), ["[No, Yes] [0.75, 0.25]", "[Yes, No] [0.75, 0.25]"]);
    let raw = pipeline(Task::Raw, vec![output("p", map)]);
    assert_eq!(rows(&raw, vec![("p", maps())], 2), ["{No: 0.75, Yes: 0.25}", "{No: 0.25, Yes: 0.75}"]);
    assert!(interpret(&raw, vec![("p".to_owned(), Value::Sequence(vec![item(0.5)]))], &[0, 1], &Notes::default()).is_err());
}

#[test]
fn logits_become_probabilities_without_overflow_and_one_number_is_the_second_class() {
    let mut p = pipeline(Task::TabularClassification, vec![output("logits", tensor_type(Dtype::Fp64, &[-1, 2]))]);
    p.activation = Activation::Softmax;
    let logits = tensor(&[2, 2], TensorData::Fp64(vec![1000.0, 1000.0, -5.0, 800.0]));
    assert_eq!(rows(&p, vec![("logits", logits)], 2), ["0 0.5", "1 1.0"]);
    let mut p = pipeline(Task::TabularClassification, vec![output("p", tensor_type(Dtype::Fp32, &[-1, 1]))]);
    p.labels = Some(vec!["ok".to_owned(), "fraud".to_owned()]);
    assert_eq!(rows(&p, vec![("p", tensor(&[2, 1], TensorData::Fp32(vec![0.25, 0.75])))], 2), ["ok 0.75", "fraud 0.75"]);
    p.activation = Activation::Sigmoid;
    assert_eq!(rows(&p, vec![("p", tensor(&[1, 1], TensorData::Fp32(vec![0.0])))], 1), ["ok 0.5"]);
}

#[test]
fn a_regression_gives_one_number_a_record_or_says_why_not() {
    let p = pipeline(Task::TabularRegression, vec![output("y", tensor_type(Dtype::Fp64, &[-1, 1]))]);
    assert_eq!(rows(&p, vec![("y", tensor(&[2, 1], TensorData::Fp64(vec![0.1, f64::INFINITY])))], 2), ["0.1 ".trim(), "inf"]);
    let two = tensor(&[2, 2], TensorData::Fp64(vec![0.0; 4]));
    assert!(interpret(&p, vec![("y".to_owned(), two)], &[0, 1], &Notes::default()).unwrap_err().0.contains("4 numbers for 2 records"));
    assert!(interpret(&p, Vec::new(), &[0, 1], &Notes::default()).unwrap_err().0.contains("\"y\""));
}

#[test]
fn a_sequence_of_tensors_is_a_list_of_each_records_rows() {
    let sequence = ValueType::Sequence { element: Box::new(tensor_type(Dtype::Int64, &[-1, 2])) };
    let p = pipeline(Task::Raw, vec![output("s", sequence)]);
    let item = |v: &[i64]| tensor(&[v.len() / 2, 2], TensorData::Int64(v.to_vec()));
    let by_row = Value::Sequence(vec![item(&[1, 2, 3, 4]), item(&[5, 6, 7, 8]), item(&[9, 10, 11, 12])]);
    assert_eq!(rows(&p, vec![("s", by_row)], 2), ["[[1, 2], [5, 6], [9, 10]]", "[[3, 4], [7, 8], [11, 12]]"]);
    let one_each = Value::Sequence(vec![item(&[1, 2]), item(&[3, 4, 5, 6])]);
    assert_eq!(rows(&p, vec![("s", one_each)], 2), ["[[1, 2]]", "[[3, 4], [5, 6]]"]);
}

/// A pipeline for embeddings of texts that are padded on this side, and notes of a batch whose row 0 has one token and whose row 1 has two.
fn embedding(pooling: Pooling, shape: &[i64], side: Side) -> (Pipeline, Notes) {
    let mut p = pipeline(Task::FeatureExtraction, vec![output("v", tensor_type(Dtype::Fp32, shape))]);
    p.embedding = Some(Embedding { output: "v".to_owned(), pooling, normalize: false, dimensions: None });
    p.text = Some(Text {
        tokenizer: "tokenizer.json".to_owned(),
        column: "text".to_owned(),
        pair: None,
        max_length: None,
        truncation_side: Side::Right,
        padding: Padding { side, ..Padding::default() },
        first_position: 0,
    });
    (p, Notes { tokens: vec![1, 2], ..Notes::default() })
}

/// The embeddings of rows 1 and 0 of a batch, in this order, and the column's type.
fn vectors(
    (p, notes): &(Pipeline, Notes),
    data: impl Into<TensorData>,
    shape: &[usize],
) -> Result<(Vec<String>, DataType), InterpretError> {
    let columns = interpret(p, vec![("v".to_owned(), tensor(shape, data.into()))], &[1, 0], notes)?;
    assert_eq!(columns[0].data_type(), prediction_fields(p)[0].data_type());
    let cells = (0..2).map(|row| array_value_to_string(&columns[0], row).unwrap());
    Ok((cells.collect(), columns[0].data_type().clone()))
}

#[test]
fn tokens_are_pooled_without_their_padding_on_either_side() {
    // Row 1 has two tokens of three, row 0 one; 9 stands where the padding is.
    let right = vec![1.0f32, 2.0, 3.0, 0.0, 9.0, 9.0, 5.0, 6.0, 9.0, 9.0, 9.0, 9.0];
    let left = vec![9.0f32, 9.0, 1.0, 2.0, 3.0, 0.0, 9.0, 9.0, 9.0, 9.0, 5.0, 6.0];
    for (side, data) in [(Side::Right, right), (Side::Left, left)] {
        let pooled = |pooling| vectors(&embedding(pooling, &[-1, -1, 2], side), data.clone(), &[2, 3, 2]).unwrap().0;
        assert_eq!(pooled(Pooling::Mean), ["[2.0, 1.0]", "[5.0, 6.0]"], "{side:?}");
        assert_eq!(pooled(Pooling::Cls), ["[1.0, 2.0]", "[5.0, 6.0]"], "{side:?}");
        assert_eq!(pooled(Pooling::Max), ["[3.0, 2.0]", "[5.0, 6.0]"], "{side:?}");
        assert_eq!(pooled(Pooling::Last), ["[3.0, 0.0]", "[5.0, 6.0]"], "{side:?}");
    }
}

#[test]
fn embeddings_are_cut_first_and_normalised_then() {
    let mut e = embedding(Pooling::None, &[-1, 3], Side::Right);
    let data = || vec![3.0f32, 4.0, 12.0, 0.0, 0.0, 7.0];
    let (cells, kind) = vectors(&e, data(), &[2, 3]).unwrap();
    assert_eq!(cells, ["[3.0, 4.0, 12.0]", "[0.0, 0.0, 7.0]"]);
    assert!(matches!(kind, DataType::FixedSizeList(_, 3)), "{kind}");
    let settings = e.0.embedding.as_mut().unwrap();
    (settings.normalize, settings.dimensions) = (true, Some(2));
    let (cells, kind) = vectors(&e, data(), &[2, 3]).unwrap();
    assert_eq!(cells, ["[0.6, 0.8]", "[0.0, 0.0]"], "what has no length keeps it");
    assert!(matches!(kind, DataType::FixedSizeList(_, 2)), "{kind}");
}

#[test]
fn half_floats_and_vectors_of_undeclared_length_are_lists_of_floats() {
    let e = embedding(Pooling::None, &[-1, -1], Side::Right);
    let half: Vec<half::f16> = [0.5, 1.0, -2.0, 0.25].map(half::f16::from_f32).to_vec();
    let (cells, kind) = vectors(&e, half, &[2, 2]).unwrap();
    assert_eq!((cells, kind.clone()), (vec!["[0.5, 1.0]".to_owned(), "[-2.0, 0.25]".to_owned()], kind.clone()));
    assert!(matches!(&kind, DataType::List(item) if *item.data_type() == DataType::Float32), "{kind}");
    // Pictures have features of one pixel each.
    let e = embedding(Pooling::None, &[-1, 2, 1, 1], Side::Right);
    let (cells, kind) = vectors(&e, vec![1.0f32, 2.0, 3.0, 4.0], &[2, 2, 1, 1]).unwrap();
    assert_eq!(cells, ["[1.0, 2.0]", "[3.0, 4.0]"]);
    assert!(matches!(kind, DataType::FixedSizeList(_, 2)), "{kind}");
}

#[test]
fn an_output_of_another_shape_is_the_models_fault_and_said() {
    let error = |pooling, declared: &[i64], shape: &[usize]| {
        vectors(&embedding(pooling, declared, Side::Right), vec![0.0f32; shape.iter().product()], shape).unwrap_err().0
    };
    assert!(error(Pooling::Mean, &[-1, -1, 2], &[2, 4]).contains("[N, tokens, D]"));
    assert!(error(Pooling::None, &[-1, 2], &[4, 1]).contains("for 2 records"));
    assert!(error(Pooling::None, &[-1, 2], &[2, 3]).contains("the model declares 2"));
    let mut e = embedding(Pooling::None, &[-1, -1], Side::Right);
    e.0.embedding.as_mut().unwrap().dimensions = Some(5);
    assert!(vectors(&e, vec![0.0f32; 4], &[2, 2]).unwrap_err().0.contains("vectors of 2, of which 5"));
}

#[test]
fn flags_look_at_every_class_and_not_only_at_those_that_are_listed() {
    use crate::domain::pipeline::flags::Flag;
    let any_of = |labels: &[&str], min_score| Flag::AnyOf { any_of: labels.iter().map(|l| (*l).to_owned()).collect(), min_score };
    let mut p = pipeline(Task::TabularClassification, vec![output("scores", tensor_type(Dtype::Fp32, &[-1, 3]))]);
    p.labels = Some(["a", "b", "c"].map(str::to_owned).to_vec());
    p.flags = [
        ("maybe_c".to_owned(), any_of(&["c"], 0.2)),
        ("surely_a_or_b".to_owned(), any_of(&["a", "b"], 0.9)),
        ("unsure".to_owned(), Flag::TopBelow { top_below: 0.5 }),
    ]
    .into();
    let scores = || vec![("scores", tensor(&[3, 3], TensorData::Fp32(vec![0.75, 0.0, 0.25, 0.0, 1.0, 0.0, 0.25, 0.375, 0.375])))];
    assert_eq!(rows(&p, scores(), 3), ["a 0.75 [maybe_c]", "b 1.0 [surely_a_or_b]", "b 0.375 [maybe_c, unsure]"]);
    p.top_k = 2;
    p.probabilities = true;
    assert!(rows(&p, scores(), 3)[0].ends_with(" [maybe_c]"), "whatever else is written");
}

#[test]
fn a_label_without_a_score_is_certain() {
    use crate::domain::pipeline::flags::Flag;
    let mut p = pipeline(Task::TabularClassification, vec![output("label", tensor_type(Dtype::Bytes, &[-1]))]);
    p.classifier = Some(ClassifierOutputs { label: Some("label".to_owned()), scores: None });
    p.flags = [
        ("bad".to_owned(), Flag::AnyOf { any_of: vec!["bad".to_owned()], min_score: 0.9 }),
        ("unsure".to_owned(), Flag::TopBelow { top_below: 0.9 }),
    ]
    .into();
    let labels = vec![("label", tensor(&[2], TensorData::Bytes(vec!["bad".into(), "good".into()])))];
    assert_eq!(rows(&p, labels, 2), ["bad  [bad]", "good  []"]);
}

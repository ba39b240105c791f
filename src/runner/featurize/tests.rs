//! Every encoding into every kind of input, and every way in which it does not fit.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, DictionaryArray, FixedSizeListArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
        UInt64Array,
    },
    datatypes::{DataType, Field, Float32Type, Int32Type, Schema},
};
use proptest::prelude::*;

use super::*;
use crate::{
    domain::{Dim, Signature, Task, ValueInfo, ValueType},
    runner::batch::{ENCODING, ENCODING_CSV, ENCODING_JSON},
};

fn input(name: &str, dtype: Dtype, dims: &[i64]) -> ValueInfo {
    let dim = |d: &i64| if *d < 0 { Dim::Dynamic(None) } else { Dim::Fixed(*d as u64) };
    let shape = std::iter::once(Dim::Dynamic(None)).chain(dims.iter().map(dim)).collect();
    ValueInfo { name: name.to_owned(), value: ValueType::Tensor { dtype, shape: Some(shape) } }
}

fn pipeline(inputs: Vec<ValueInfo>) -> Pipeline {
    Pipeline::new(Task::Raw, Signature { inputs, outputs: Vec::new() })
}

/// Columns of text, as the decoders of CSV and JSON Lines make them.
fn text(encoding: &str, columns: &[(&str, &[Option<&str>])]) -> RecordBatch {
    let metadata = HashMap::from([(ENCODING.to_owned(), encoding.to_owned())]);
    let fields = columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, true).with_metadata(metadata.clone()));
    let arrays = columns.iter().map(|(_, cells)| Arc::new(StringArray::from(cells.to_vec())) as ArrayRef);
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), arrays.collect()).unwrap()
}

fn run(pipeline: &Pipeline, batch: &RecordBatch) -> (Vec<Group>, Vec<(u32, &'static str)>) {
    let bound = Binding::resolve(pipeline, batch, &Assets::default(), &ImageLimits::default(), 1024).unwrap();
    let Featurized { groups, errors, .. } = bound.featurize(batch);
    (groups, errors.into_iter().map(|e| (e.row, e.code)).collect())
}

fn refused(pipeline: &Pipeline, batch: &RecordBatch) -> BindError {
    Binding::resolve(pipeline, batch, &Assets::default(), &ImageLimits::default(), 1024).unwrap_err()
}

#[test]
fn the_cells_of_csv_become_what_the_input_wants() {
    let p = pipeline(vec![
        input("f", Dtype::Fp32, &[1]),
        input("i", Dtype::Int64, &[]),
        input("b", Dtype::Bool, &[1]),
        input("s", Dtype::Bytes, &[1]),
    ]);
    let batch = text(
        ENCODING_CSV,
        &[
            ("s", &[Some("a"), Some(""), Some("c"), Some("d"), Some("e")]),
            ("f", &[Some(" 1.5 "), Some("-2"), Some("x"), Some(""), Some("1")]),
            ("i", &[Some("9007199254740993"), Some("2.0"), Some("1"), Some("1"), Some("1.5")]),
            ("b", &[Some("TRUE"), Some("no"), Some("1"), Some("1"), Some("1")]),
        ],
    );
    let (groups, errors) = run(&p, &batch);
    assert_eq!(errors, [(2, "invalid_number"), (3, "missing_value"), (4, "not_an_integer")]);
    let [group] = groups.as_slice() else { panic!("{groups:?}") };
    assert_eq!(group.rows, [0, 1]);
    assert_eq!(group.inputs[0].1, Tensor { shape: vec![2, 1], data: TensorData::Fp32(vec![1.5, -2.0]) });
    assert_eq!(group.inputs[1].1, Tensor { shape: vec![2], data: TensorData::Int64(vec![9_007_199_254_740_993, 2]) });
    assert_eq!(group.inputs[2].1.data, TensorData::Bool(vec![true, false]));
    assert_eq!(group.inputs[3].1.data, TensorData::Bytes(vec!["a".to_owned(), String::new()]));
}

#[test]
fn json_values_are_taken_exactly_and_never_guessed() {
    let p = pipeline(vec![input("x", Dtype::Uint64, &[1]), input("s", Dtype::Bytes, &[1])]);
    let batch = text(
        ENCODING_JSON,
        &[
            (
                "x",
                &[Some("18446744073709551615"), Some("[7]"), Some("\"7\""), Some("true"), Some("null"), None, Some("-1"), Some("[1, 2]")],
            ),
            ("s", &[Some("\"\\u00e9\""), Some("12"), Some("\"\""), Some("\"\""), Some("\"\""), Some("\"\""), Some("\"\""), Some("\"\"")]),
        ],
    );
    let (groups, errors) = run(&p, &batch);
    let expected =
        [(2, "wrong_type"), (3, "wrong_type"), (4, "missing_value"), (5, "missing_value"), (6, "out_of_range"), (7, "wrong_type")];
    assert_eq!(errors, expected);
    assert_eq!(groups[0].inputs[0].1.data, TensorData::Uint64(vec![u64::MAX, 7]));
    assert_eq!(groups[0].inputs[1].1.data, TensorData::Bytes(vec!["é".to_owned(), "12".to_owned()]));
}

#[test]
fn typed_columns_convert_where_nothing_is_lost() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("i", Arc::new(Int64Array::from(vec![Some(1), Some(300), None]))),
        ("u", Arc::new(UInt64Array::from(vec![1, 2, 3]))),
        ("d", Arc::new(DictionaryArray::<Int32Type>::from_iter(["a", "b", "a"]))),
        ("b", Arc::new(BooleanArray::from(vec![true, false, true]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let p = pipeline(vec![
        input("i", Dtype::Uint8, &[1]),
        input("u", Dtype::Fp64, &[1]),
        input("d", Dtype::Bytes, &[1]),
        input("b", Dtype::Bool, &[1]),
    ]);
    let (groups, errors) = run(&p, &batch);
    assert_eq!(errors, [(1, "out_of_range"), (2, "missing_value")]);
    assert_eq!(groups[0].inputs[0].1.data, TensorData::Uint8(vec![1]));
    assert_eq!(groups[0].inputs[2].1.data, TensorData::Bytes(vec!["a".to_owned()]));
    for (column, dtype) in [("d", Dtype::Fp32), ("b", Dtype::Fp32), ("b", Dtype::Bytes)] {
        assert_eq!(refused(&pipeline(vec![input(column, dtype, &[1])]), &batch).code, "column_type", "{column}");
    }
}

#[test]
fn a_missing_value_is_a_nan_only_where_the_pipeline_says_so_and_the_input_can() {
    let mut p = pipeline(vec![input("f", Dtype::Fp32, &[1])]);
    p.missing = Missing::Nan;
    let batch = text(ENCODING_CSV, &[("f", &[Some(""), Some("1")])]);
    let (groups, errors) = run(&p, &batch);
    assert!(errors.is_empty());
    assert!(matches!(&groups[0].inputs[0].1.data, TensorData::Fp32(v) if v[0].is_nan() && v[1] == 1.0));
    let mut p = pipeline(vec![input("f", Dtype::Int32, &[1])]);
    p.missing = Missing::Nan;
    assert_eq!(run(&p, &batch).1, [(0, "missing_value")]);
}

#[test]
fn features_fill_a_matrix_in_the_models_order() {
    let mut p = pipeline(vec![input("X", Dtype::Fp32, &[3])]);
    p.features = Some(["c", "a", "b"].map(str::to_owned).to_vec());
    let batch = text(
        ENCODING_CSV,
        &[("a", &[Some("1"), Some("4")]), ("id", &[Some("x"), Some("y")]), ("b", &[Some("2"), Some("5")]), ("c", &[Some("3"), Some("6")])],
    );
    let (groups, _) = run(&p, &batch);
    assert_eq!(groups[0].inputs[0].1, Tensor { shape: vec![2, 3], data: TensorData::Fp32(vec![3.0, 1.0, 2.0, 6.0, 4.0, 5.0]) });
    assert_eq!(wanted_columns(&p), Some(["a", "b", "c"].map(str::to_owned).into()));
}

#[test]
fn a_matrix_takes_the_numeric_columns_if_there_are_exactly_so_many() {
    let p = pipeline(vec![input("X", Dtype::Fp64, &[2])]);
    assert_eq!(wanted_columns(&p), None);
    let typed: Vec<(&str, ArrayRef)> = vec![
        ("a", Arc::new(Int64Array::from(vec![1, 2]))),
        ("name", Arc::new(StringArray::from(vec!["x", "y"]))),
        ("b", Arc::new(Float64Array::from(vec![0.5, 1.5]))),
    ];
    let (groups, _) = run(&p, &RecordBatch::try_from_iter(typed).unwrap());
    assert_eq!(groups[0].inputs[0].1.data, TensorData::Fp64(vec![1.0, 0.5, 2.0, 1.5]));
    // A bad first cell does not change what its column means.
    let batch = text(ENCODING_CSV, &[("a", &[Some("x"), Some("2")]), ("b", &[Some("1"), Some("1")])]);
    assert_eq!(run(&p, &batch).1, [(0, "invalid_number")]);
    let batch = text(ENCODING_CSV, &[("a", &[Some("1")]), ("b", &[Some("1")]), ("c", &[Some("1")])]);
    let error = refused(&p, &batch);
    assert_eq!(error.code, "ambiguous_columns");
    assert!(error.detail.contains("a, b, c") && error.detail.contains("pipeline.features"), "{}", error.detail);
}

#[test]
fn a_column_that_is_not_there_is_said_with_both_lists_and_the_nearest() {
    let p = pipeline(vec![input("amount", Dtype::Fp32, &[1])]);
    let error = refused(&p, &text(ENCODING_CSV, &[("Amount ", &[Some("1")]), ("id", &[Some("1")])]));
    assert_eq!(error.code, "missing_column");
    for part in ["\"amount\" (FP32 [N, 1])", "did you mean \"Amount \"?", "Amount , id"] {
        assert!(error.detail.contains(part), "{part}: {}", error.detail);
    }
    let mut p = p;
    p.columns.insert("amount".to_owned(), "Amount ".to_owned());
    assert_eq!(run(&p, &text(ENCODING_CSV, &[("Amount ", &[Some("1")])])).0.len(), 1);
}

#[test]
fn lists_fill_inputs_of_more_dimensions_and_ragged_ones_go_in_groups() {
    let batch = text(ENCODING_JSON, &[("x", &[Some("[[1, 2], [3, 4]]"), Some("[[1, 2], [3]]"), Some("[1, 2]"), Some("[[5, 6], [7, 8]]")])]);
    let (groups, errors) = run(&pipeline(vec![input("x", Dtype::Int32, &[2, 2])]), &batch);
    assert_eq!(errors, [(1, "wrong_length"), (2, "wrong_length")]);
    assert_eq!((groups[0].rows.as_slice(), &groups[0].inputs[0].1.shape), ([0, 3].as_slice(), &vec![2, 2, 2]));
    assert_eq!(groups[0].inputs[0].1.data, TensorData::Int32(vec![1, 2, 3, 4, 5, 6, 7, 8]));

    let batch = text(ENCODING_JSON, &[("x", &[Some("[1]"), Some("[2, 3]"), Some("[4]"), Some("[5, null]")])]);
    let (groups, errors) = run(&pipeline(vec![input("x", Dtype::Fp32, &[-1])]), &batch);
    assert_eq!(errors, [(3, "missing_value")]);
    let shapes: Vec<_> = groups.iter().map(|g| (g.rows.clone(), g.inputs[0].1.shape.clone())).collect();
    assert_eq!(shapes, [(vec![0, 2], vec![2, 1]), (vec![1], vec![1, 2])]);
    assert_eq!(groups[0].inputs[0].1.data, TensorData::Fp32(vec![1.0, 4.0]));

    let lists = ListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![Some(1.0), Some(2.0)]), None, Some(vec![Some(3.0)])]);
    let batch = RecordBatch::try_from_iter([("x", Arc::new(lists) as ArrayRef)]).unwrap();
    let (groups, errors) = run(&pipeline(vec![input("x", Dtype::Fp32, &[2])]), &batch);
    assert_eq!((groups[0].rows.as_slice(), errors), ([0].as_slice(), vec![(1, "missing_value"), (2, "wrong_length")]));

    let fixed = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), Some(2)]), Some(vec![Some(3), Some(4)])], 2);
    let batch = RecordBatch::try_from_iter([("x", Arc::new(fixed) as ArrayRef)]).unwrap();
    let (groups, _) = run(&pipeline(vec![input("x", Dtype::Int32, &[2])]), &batch);
    assert_eq!(groups[0].inputs[0].1.data, TensorData::Int32(vec![1, 2, 3, 4]));
}

proptest! {
    #[test]
    fn every_row_ends_up_in_exactly_one_group_or_one_error(cells in prop::collection::vec(prop::sample::select(vec!["[1]", "[1, 2]", "[", "null", "x", "3", "[\"a\"]", "[[1]]", "1e999"]), 1..60)) {
        let cells: Vec<Option<&str>> = cells.into_iter().map(Some).collect();
        let batch = text(ENCODING_JSON, &[("x", &cells), ("y", &cells)]);
        let p = pipeline(vec![input("x", Dtype::Fp32, &[-1]), input("y", Dtype::Int8, &[1])]);
        let (groups, errors) = run(&p, &batch);
        let mut rows: Vec<u32> = groups.iter().flat_map(|g| g.rows.iter().copied()).chain(errors.iter().map(|(row, _)| *row)).collect();
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..cells.len() as u32).collect::<Vec<_>>());
        for group in &groups {
            for (_, tensor) in &group.inputs {
                prop_assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len());
                prop_assert_eq!(tensor.shape[0], group.rows.len());
            }
        }
    }
}

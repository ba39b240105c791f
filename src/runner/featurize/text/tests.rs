//! Tokens as Python makes them, runs of rows, and tensors by hand.

use std::path::PathBuf;

use arrow::array::{ArrayRef, StringArray};
use proptest::prelude::*;
use serde_json::Value;

use super::super::ImageLimits;
use super::{
    runs::{Run, Width, cut},
    tensors::tensor,
    *,
};
use crate::{
    domain::{Dim, Signature, Task, ValueInfo, ValueType, pipeline::text::Side},
    runner::{
        featurize::{Binding, RowError},
        tensor::{Tensor, TensorData},
    },
};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_and_pairs_give_the_ids_that_pythons_tokenizers_give() {
    let golden = std::fs::read_to_string(fixtures().join("expected/tokens.jsonl")).unwrap();
    let mut tokenizers = std::collections::HashMap::new();
    for line in golden.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let file = case["tokenizer"].as_str().unwrap().to_owned();
        let tokenizer = tokenizers.entry(file.clone()).or_insert_with(|| Tokenizer::load(&fixtures().join(file)).unwrap());
        let side = if case["side"] == "left" { Side::Left } else { Side::Right };
        let most = case["max_length"].as_u64().map(|n| n as usize);
        let found = tokenizer.encode(case["text"].as_str().unwrap(), case["pair"].as_str(), most, side).unwrap();
        let wanted = Tokens { ids: numbers(&case["ids"]), type_ids: numbers(&case["type_ids"]) };
        assert_eq!(found, wanted, "{case}");
    }
    assert_eq!((tokenizers.len(), golden.lines().count()), (3, 75));
}

#[test]
fn a_text_as_large_as_a_record_may_be_is_cut_without_the_rest_being_framed() {
    let tokenizer = Tokenizer::load(&fixtures().join("models/sentiment/tokenizer.json")).unwrap();
    let long = "refund ".repeat(40_000);
    let tokens = tokenizer.encode(&long, Some(&long), Some(64), Side::Right).unwrap();
    assert_eq!(tokens.ids.len(), 64);
}

#[test]
fn rows_of_about_one_length_go_together_and_no_run_has_too_many_tokens() {
    let lengths = [10, 60, 9, 10, 58, 10];
    let limits = Limits { rows: 3, tokens: Some(120), width: Width::Longest };
    let runs = cut(0..6, &lengths, &limits);
    let run = |rows: &[u32], length| Run { rows: rows.to_vec(), length };
    // Three rows at most; 10 and 58 would be padding for the most part; 58 and 60 make 120 tokens.
    assert_eq!(runs, [run(&[0, 2, 3], 10), run(&[5], 10), run(&[1, 4], 60)]);
    let free = Limits { tokens: None, ..limits };
    assert_eq!(cut(0..6, &lengths, &free), [run(&[0, 2, 3], 10), run(&[1, 4, 5], 60)]);
    let equal = Limits { width: Width::Equal, ..limits };
    assert_eq!(cut(0..3, &[4, 3, 4], &equal), [run(&[1], 3), run(&[0, 2], 4)]);
    let fixed = Limits { width: Width::Fixed(64), rows: 4, tokens: None };
    assert_eq!(cut(1..3, &lengths, &fixed), [run(&[1, 2], 64)]);
    // One text above the bound is a run by itself.
    assert_eq!(cut(0..1, &[500], &limits), [run(&[0], 500)]);
}

proptest! {
    #[test]
    fn runs_hold_every_row_once_within_the_limits(lengths in prop::collection::vec(1u32..300, 0..200), rows in 1usize..50) {
        let limits = Limits { rows, tokens: Some(1000), width: Width::Longest };
        let runs = cut(0..lengths.len() as u32, &lengths, &limits);
        let mut all: Vec<u32> = runs.iter().flat_map(|r| r.rows.clone()).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..lengths.len() as u32).collect::<Vec<_>>());
        for run in &runs {
            prop_assert!(run.rows.is_sorted() && run.rows.len() <= rows);
            let tokens = run.rows.len() as u32 * run.length;
            let real: u32 = run.rows.iter().map(|r| lengths[*r as usize]).sum();
            prop_assert!(tokens <= 1000 && (tokens - real) * 8 <= tokens);
            prop_assert_eq!(run.rows.iter().map(|r| lengths[*r as usize]).max(), Some(run.length));
        }
    }
}

fn tokens(ids: &[u32]) -> Tokens {
    Tokens { ids: ids.to_vec(), type_ids: ids.iter().map(|id| u32::from(*id > 8)).collect() }
}

#[test]
fn padding_stands_on_its_side_and_positions_begin_behind_it() {
    let rows = [tokens(&[7, 8, 9]), tokens(&[5])];
    let run = Run { rows: vec![0, 1], length: 4 };
    let int64 = |values: &[i64]| Tensor { shape: vec![2, 4], data: TensorData::Int64(values.to_vec()) };
    let right = Padding { side: Side::Right, id: 1, type_id: 3 };
    let made = |role, padding: &Padding, first| tensor(role, Dtype::Int64, &run, &rows, padding, first);
    assert_eq!(made(Role::Ids, &right, 0), int64(&[7, 8, 9, 1, 5, 1, 1, 1]));
    assert_eq!(made(Role::Mask, &right, 0), int64(&[1, 1, 1, 0, 1, 0, 0, 0]));
    assert_eq!(made(Role::TypeIds, &right, 0), int64(&[0, 0, 1, 3, 0, 3, 3, 3]));
    assert_eq!(made(Role::Positions, &right, 0), int64(&[0, 1, 2, 0, 0, 0, 0, 0]));
    // RoBERTa: the padding token's id is 1, its position too.
    assert_eq!(made(Role::Positions, &right, 2), int64(&[2, 3, 4, 1, 2, 1, 1, 1]));
    let left = Padding { side: Side::Left, ..right };
    assert_eq!(made(Role::Ids, &left, 0), int64(&[1, 7, 8, 9, 1, 1, 1, 5]));
    assert_eq!(made(Role::Mask, &left, 0), int64(&[0, 1, 1, 1, 0, 0, 0, 1]));
    assert_eq!(made(Role::Positions, &left, 0), int64(&[0, 0, 1, 2, 0, 0, 0, 0]));
    let int32 = tensor(Role::Ids, Dtype::Int32, &run, &rows, &left, 0);
    assert_eq!(int32.data, TensorData::Int32(vec![1, 7, 8, 9, 1, 1, 1, 5]));
}

fn input(name: &str) -> ValueInfo {
    let shape = vec![Dim::Dynamic(None), Dim::Dynamic(None)];
    ValueInfo { name: name.to_owned(), value: ValueType::Tensor { dtype: Dtype::Int64, shape: Some(shape) } }
}

fn bound(file: &str, first: &RecordBatch) -> Result<Binding, BindError> {
    let signature = Signature { inputs: vec![input("input_ids"), input("attention_mask")], outputs: Vec::new() };
    let mut pipeline = Pipeline::new(Task::TextClassification, signature);
    pipeline.text = Some(Section {
        tokenizer: file.to_owned(),
        column: "text".to_owned(),
        pair: None,
        max_length: Some(8),
        truncation_side: Side::Right,
        padding: Padding::default(),
        first_position: 0,
    });
    let assets = Assets::load(&fixtures(), &pipeline, false).unwrap();
    Binding::resolve(&pipeline, first, &assets, &ImageLimits::default(), 1024)
}

fn batch(name: &str, texts: Vec<Option<&str>>) -> RecordBatch {
    RecordBatch::try_from_iter([(name, Arc::new(StringArray::from(texts)) as ArrayRef)]).unwrap()
}

#[test]
fn an_empty_text_is_a_record_and_a_null_is_a_missing_value() {
    let rows = batch("text", vec![Some("refund refund"), None, Some(""), Some("refund")]);
    let made = bound("models/sentiment/tokenizer.json", &rows).unwrap().featurize(&rows);
    let codes: Vec<_> = made.errors.iter().map(|RowError { row, code, .. }| (*row, *code)).collect();
    assert_eq!(codes, [(1, "missing_value")]);
    let rows_of: Vec<_> = made.groups.iter().map(|g| g.rows.clone()).collect();
    // Lengths as different as these share no run: more than an eighth of it would be padding.
    assert_eq!(rows_of, [[2], [3], [0]]);
    assert_eq!((made.notes.tokens[1], made.notes.tokens[2]), (0, 2));
    assert_eq!(made.notes.padding_tokens, 0);
    // A tokenizer without special tokens leaves nothing of it that a model could read.
    let made = bound("tokenizers/unigram.json", &rows).unwrap().featurize(&rows);
    let codes: Vec<_> = made.errors.iter().map(|RowError { row, code, .. }| (*row, *code)).collect();
    assert_eq!(codes, [(1, "missing_value"), (2, "no_tokens")]);
}

#[test]
fn a_column_of_texts_that_is_not_there_is_said_with_the_setting_that_names_it() {
    let error = bound("models/sentiment/tokenizer.json", &batch("Text", vec![Some("a")])).unwrap_err();
    assert_eq!(error.code, "missing_column");
    assert!(error.detail.contains("pipeline.text.column, perhaps \"Text\""), "{}", error.detail);
    let lists = arrow::array::BooleanArray::from(vec![true]);
    let rows = RecordBatch::try_from_iter([("text", Arc::new(lists) as ArrayRef)]).unwrap();
    assert_eq!(bound("models/sentiment/tokenizer.json", &rows).unwrap_err().code, "column_type");
}

//! Texts → token tensors: tokenize, sort by length, cut into runs, pad.
//!
//! In: the column of texts (and of second texts). Out: a [`Group`] a run, whose rows are about equally long, so that little of what
//! the model works on is padding. Runs depend on the records of the batch alone: the same input gives the same runs.
//!
//! Truncation and padding are ours: those that a tokenizer's file asks for are what its author last used, not what the model needs.

mod runs;
mod tensors;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::sync::Arc;

use arrow::array::RecordBatch;

use super::{
    Assets, BindError, Errors, Featurized, Group, Notes,
    bind::{self, Column},
    cells::scalars,
};
use crate::domain::{Dtype, Pipeline, pipeline::text::Padding, pipeline::text::Text as Section};
use runs::Limits;
pub(super) use tokenizer::Tokenizer;
use tokenizer::Tokens;

/// What a model takes of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    TypeIds,
    Positions,
}

impl Role {
    /// By the names that Hugging Face's exporters give; `model/derive/text.rs` lets no other input pass.
    fn of(input: &str) -> Option<Self> {
        match input {
            "input_ids" => Some(Self::Ids),
            "attention_mask" => Some(Self::Mask),
            "token_type_ids" => Some(Self::TypeIds),
            "position_ids" => Some(Self::Positions),
            _ => None,
        }
    }
}

/// One of the model's inputs.
#[derive(Debug, Clone)]
struct Input {
    name: String,
    role: Role,
    dtype: Dtype,
}

/// How a schema's texts become the model's inputs.
#[derive(Debug, Clone)]
pub(super) struct Text {
    tokenizer: Arc<Tokenizer>,
    section: Section,
    column: Column,
    pair: Option<Column>,
    inputs: Vec<Input>,
    limits: Limits,
}

impl Text {
    /// The columns that fill each input, for people.
    pub(super) fn columns(&self) -> Vec<(String, Vec<String>)> {
        let names = || std::iter::once(&self.column).chain(&self.pair).map(|column| column.name.clone()).collect();
        self.inputs.iter().map(|input| (input.name.clone(), names())).collect()
    }

    /// Binds the columns that the pipeline names. `batch_size` is the most rows of a run.
    ///
    /// # Errors
    /// [`BindError`] when a column is not there or holds no texts.
    pub(super) fn resolve(
        pipeline: &Pipeline,
        section: &Section,
        first: &RecordBatch,
        assets: &Assets,
        batch_size: usize,
    ) -> Result<Self, BindError> {
        let tokenizer = assets.tokenizer.clone().ok_or_else(|| BindError {
            code: "no_tokenizer",
            detail: format!("the model's folder has no {} that could be loaded", section.tokenizer),
        })?;
        let mut inputs = Vec::with_capacity(pipeline.signature.inputs.len());
        for input in &pipeline.signature.inputs {
            let (Some(role), Some((dtype, _))) = (Role::of(&input.name), input.tensor()) else {
                let detail = format!("the model's input {:?} is none that a text fills", input.name);
                return Err(BindError { code: "unsupported_input", detail });
            };
            inputs.push(Input { name: input.name.clone(), role, dtype });
        }
        Ok(Self {
            tokenizer,
            column: bind::text_column(&section.column, "pipeline.text.column", first)?,
            pair: section.pair.as_ref().map(|pair| bind::text_column(pair, "pipeline.text.pair", first)).transpose()?,
            limits: Limits::of(pipeline, batch_size, assets.most_tokens),
            section: section.clone(),
            inputs,
        })
    }

    pub(super) fn featurize(&self, columns: &RecordBatch) -> Featurized {
        let rows = columns.num_rows();
        let mut errors = Errors::default();
        let texts = read(&self.column, "pipeline.text.column", columns, &mut errors);
        let pairs = self.pair.as_ref().map(|pair| read(pair, "pipeline.text.pair", columns, &mut errors));
        let mut tokens = Vec::with_capacity(rows);
        for (row, text) in texts.iter().enumerate() {
            tokens.push(if errors.has(row) {
                Tokens::default()
            } else {
                self.tokenize(row, text, pairs.as_ref().map(|pairs| pairs[row].as_str()), &mut errors)
            });
        }

        let lengths: Vec<u32> = tokens.iter().map(|t| t.ids.len() as u32).collect();
        let good = (0..rows as u32).filter(|row| !errors.has(*row as usize));
        let runs = runs::cut(good, &lengths, &self.limits);
        let mut padding = 0;
        let groups = runs.into_iter().map(|run| {
            padding += run.rows.iter().map(|row| (run.length - lengths[*row as usize]) as usize).sum::<usize>();
            let inputs = self.inputs.iter().map(|input| (input.name.clone(), self.tensor(input, &run, &tokens)));
            Group { inputs: inputs.collect(), rows: run.rows }
        });
        let groups = groups.collect();
        let errors = errors.0.into_values().collect();
        Featurized { groups, errors, notes: Notes { tokens: lengths, padding_tokens: padding as u64, ..Notes::default() } }
    }

    fn tensor(&self, input: &Input, run: &runs::Run, tokens: &[Tokens]) -> crate::runner::tensor::Tensor {
        let padding: &Padding = &self.section.padding;
        tensors::tensor(input.role, input.dtype, run, tokens, padding, self.section.first_position)
    }

    fn tokenize(&self, row: usize, text: &str, pair: Option<&str>, errors: &mut Errors) -> Tokens {
        let most = self.section.max_length.map(|n| n as usize);
        match self.tokenizer.encode(text, pair, most, self.section.truncation_side) {
            // Only tokenizers that add no special tokens come here, with a text that is empty or nothing but blanks.
            Ok(tokens) if tokens.ids.is_empty() => {
                errors.add(row, "no_tokens", || format!("column {:?}: the model's tokenizer finds no token in the text", self.column.name));
                tokens
            }
            Ok(tokens) => tokens,
            Err(detail) => {
                errors.add(row, "tokenizer_failed", || format!("column {:?}: {detail}", self.column.name));
                Tokens::default()
            }
        }
    }
}

/// The texts of a column; rows without one get an error and an empty text. `setting` is the field that names the column.
fn read(column: &Column, setting: &str, columns: &RecordBatch, errors: &mut Errors) -> Vec<String> {
    let mut texts = vec![String::new(); columns.num_rows()];
    scalars::<String>(columns.column(column.index), 0..columns.num_rows(), column.encoding, &mut |row, cell| match cell {
        Ok(Some(text)) => texts[row] = text,
        Ok(None) => errors.add(row, "missing_value", || format!("column {:?} has no text; {setting} names the column", column.name)),
        Err(error) => errors.cell(row, column, Dtype::Bytes, error),
    });
    texts
}

//! Lengths → runs: which rows of a batch go into the runtime together, and how long they are made.

use crate::domain::{Dim, Pipeline, Task};

/// A run ends before more than one in so many of its tokens would be padding.
const PADDING_ONE_IN: u64 = 8;

/// What the model allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Most rows of a run.
    pub(super) rows: usize,
    /// Most tokens of a run, padding included; `None` for a model of fixed batch, which takes its rows whatever their lengths.
    pub(super) tokens: Option<u64>,
    pub(super) width: Width,
}

/// How long the rows of a run are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// As long as its longest.
    Longest,
    /// The model's own length.
    Fixed(u32),
    /// They are equally long already: padding would change what the model says.
    Equal,
}

impl Limits {
    pub(super) fn of(pipeline: &Pipeline, batch_size: usize, most_tokens: u64) -> Self {
        let signature = &pipeline.signature;
        let lengths = signature.inputs.iter().filter_map(|input| input.tensor()?.1.get(1).and_then(Dim::fixed));
        let masked = signature.inputs.iter().any(|input| input.name == "attention_mask");
        let width = match lengths.min() {
            Some(length) => Width::Fixed(length as u32),
            // Raw outputs would show the padding.
            None if !masked || pipeline.task == Task::Raw => Width::Equal,
            None => Width::Longest,
        };
        let tokens = signature.fixed_batch().is_none().then_some(most_tokens);
        Self { rows: batch_size.max(1), tokens, width }
    }
}

/// Rows that go into the runtime together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// Indices into the batch, ascending.
    pub(super) rows: Vec<u32>,
    /// What each of them is padded to.
    pub(super) length: u32,
}

/// Cuts rows, shortest first, into runs: each row goes with others of about its length.
pub(super) fn cut(rows: impl Iterator<Item = u32>, lengths: &[u32], limits: &Limits) -> Vec<Run> {
    let mut rows: Vec<u32> = rows.collect();
    rows.sort_by_key(|row| (lengths[*row as usize], *row));
    let mut runs: Vec<Run> = Vec::new();
    // Tokens of the last run that are no padding.
    let mut real = 0;
    for row in rows {
        let length = match limits.width {
            Width::Fixed(length) => length,
            Width::Longest | Width::Equal => lengths[row as usize],
        };
        let own = u64::from(lengths[row as usize]);
        match runs.last_mut() {
            Some(run) if takes(run, length, real + own, limits) => {
                run.rows.push(row);
                run.length = length;
                real += own;
            }
            _ => {
                runs.push(Run { rows: vec![row], length });
                real = own;
            }
        }
    }
    runs.iter_mut().for_each(|run| run.rows.sort_unstable());
    runs
}

/// Whether a run has room for a row of this length, which is at least its own; with it, `real` of its tokens would be no padding.
fn takes(run: &Run, length: u32, real: u64, limits: &Limits) -> bool {
    let rows = run.rows.len() + 1;
    let tokens = rows as u64 * u64::from(length);
    let fits = match (limits.width, limits.tokens) {
        (Width::Equal, _) if run.length != length => false,
        (_, None) => true,
        (Width::Longest, Some(most)) => tokens <= most && (tokens - real) * PADDING_ONE_IN <= tokens,
        (Width::Fixed(_) | Width::Equal, Some(most)) => tokens <= most,
    };
    fits && rows <= limits.rows
}

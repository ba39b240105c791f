//! The runtime alone: batches that lie in its memory already, whose outputs nobody reads.

use ort::{
    session::{RunOptions, SessionInputValue},
    value::DynValue,
};

use super::{Error, Session, batches::slice, values};
use crate::runner::featurize::Group;

/// Batches ready to be run, again and again.
#[derive(Debug)]
pub struct Prepared(Vec<Batch>);

#[derive(Debug)]
struct Batch {
    records: usize,
    inputs: Vec<(String, DynValue)>,
}

impl Prepared {
    /// Cuts groups into batches of exactly `size` records, and of fewer only where no group has as many.
    ///
    /// # Errors
    /// [`Error::Output`] when the runtime does not take a tensor.
    pub fn new(groups: &[Group], size: usize) -> Result<Self, Error> {
        let most = groups.iter().map(|group| group.rows.len()).max().unwrap_or_default();
        let size = size.clamp(1, most.max(1));
        let mut batches = Vec::new();
        for group in groups {
            for start in (0..group.rows.len() / size * size).step_by(size) {
                let mut inputs = Vec::with_capacity(group.inputs.len());
                for (name, tensor) in &group.inputs {
                    let part = slice(tensor, &(start..start + size), size);
                    inputs.push((name.clone(), values::to_runtime(part).map_err(|e| Error::Output(e.to_string()))?));
                }
                batches.push(Batch { records: size, inputs });
            }
        }
        Ok(Self(batches))
    }

    /// Batches there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Session {
    /// Runs one of the batches and gives its number of records.
    ///
    /// # Errors
    /// [`Error::Output`] with the runtime's message.
    pub fn run_prepared(&mut self, prepared: &Prepared, at: usize) -> Result<usize, Error> {
        let batch = &prepared.0[at];
        let inputs: Vec<(&str, SessionInputValue<'_>)> = batch.inputs.iter().map(|(name, value)| (name.as_str(), value.into())).collect();
        let options = RunOptions::new().map_err(|e| Error::Output(e.to_string()))?;
        let outputs = self.inner.run_with_options(inputs, &options).map_err(|e| Error::Output(e.to_string()))?;
        drop(outputs);
        Ok(batch.records)
    }
}

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
                batches.push(Batch::of(group, start, size)?);
            }
        }
        Ok(Self(batches))
    }

    /// Takes groups as they are, each as a batch.
    ///
    /// # Errors
    /// [`Error::Output`] when the runtime does not take a tensor.
    pub fn whole(groups: &[Group]) -> Result<Self, Error> {
        groups.iter().map(|group| Batch::of(group, 0, group.rows.len())).collect::<Result<_, _>>().map(Self)
    }

    /// The batch to run in the `turn`th place: those that come one after the other are far apart, as texts are sorted by their length.
    pub fn in_turn(&self, turn: usize) -> usize {
        // The golden ratio's steps spread evenly over a circle.
        const RATIO: f64 = 0.618_033_988_749_895;
        ((turn as f64 * RATIO).fract() * self.0.len() as f64) as usize
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

impl Batch {
    fn of(group: &Group, start: usize, records: usize) -> Result<Self, Error> {
        let mut inputs = Vec::with_capacity(group.inputs.len());
        for (name, tensor) in &group.inputs {
            let part = slice(tensor, &(start..start + records), records);
            inputs.push((name.clone(), values::to_runtime(part).map_err(|e| Error::Output(e.to_string()))?));
        }
        Ok(Self { records, inputs })
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

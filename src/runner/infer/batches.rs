//! Groups → batches: cut to size, padded to a fixed size, halved when they fail.

use std::ops::Range;

use super::{Error, Interrupt, Session, device::is_out_of_memory, session::RunError};
use crate::{
    each_tensor_data,
    runner::{
        featurize::Group,
        tensor::{Tensor, TensorData, Value},
    },
};

/// Outputs for some rows of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Inferred {
    /// Indices into the batch; each output's leading dimension (or sequence) runs over them.
    pub rows: Vec<u32>,
    /// Output name and value, in the signature's order.
    pub outputs: Vec<(String, Value)>,
}

impl Inferred {
    /// Whether another one is the same to the bit.
    pub fn same_bits(&self, other: &Self) -> bool {
        let same = |(a, b): (&(String, Value), &(String, Value))| a.0 == b.0 && a.1.same_bits(&b.1);
        self.rows == other.rows && self.outputs.len() == other.outputs.len() && self.outputs.iter().zip(&other.outputs).all(same)
    }
}

impl Group {
    /// The first rows.
    pub fn first(&self, rows: usize) -> Self {
        let rows = rows.min(self.rows.len());
        let inputs = self.inputs.iter().map(|(name, tensor)| (name.clone(), slice(tensor, &(0..rows), rows))).collect();
        Self { rows: self.rows[..rows].to_vec(), inputs }
    }
}

/// A row that the runtime refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Index into the batch.
    pub row: u32,
    /// The runtime's message.
    pub detail: String,
}

impl Session {
    /// Runs a group in batches of at most `batch_size` records (exactly the model's fixed batch where it has one, the last one padded
    /// and the padding dropped), halving batches that fail. `busy` is told when a batch enters the runtime, with its records, and when
    /// it leaves.
    ///
    /// # Errors
    /// [`Error::Interrupted`], [`Error::Output`].
    pub fn run(
        &mut self,
        group: Group,
        batch_size: usize,
        interrupt: &Interrupt,
        busy: &mut dyn FnMut(Option<usize>),
    ) -> Result<(Vec<Inferred>, Vec<Refused>), Error> {
        let mut run = Run { session: self, group: &group, interrupt, busy, inferred: Vec::new(), refused: Vec::new() };
        let mut start = 0;
        while start < group.rows.len() {
            let size = run.session.fixed_batch.unwrap_or_else(|| run.session.room.fit(batch_size));
            let end = group.rows.len().min(start + size.max(1));
            run.batch(start..end)?;
            start = end;
        }
        Ok((run.inferred, run.refused))
    }
}

struct Run<'r> {
    session: &'r mut Session,
    group: &'r Group,
    interrupt: &'r Interrupt,
    busy: &'r mut dyn FnMut(Option<usize>),
    inferred: Vec<Inferred>,
    refused: Vec<Refused>,
}

impl Run<'_> {
    /// Runs some records of the group; when the runtime refuses them together, each half by itself.
    fn batch(&mut self, range: Range<usize>) -> Result<(), Error> {
        let padded = self.session.fixed_batch.unwrap_or(range.len());
        let filled: Vec<(String, Tensor)>;
        let (inputs, which) = if padded == range.len() {
            (&self.group.inputs, range.clone())
        } else {
            filled = self.group.inputs.iter().map(|(name, tensor)| (name.clone(), slice(tensor, &range, padded))).collect();
            (&filled, 0..padded)
        };
        (self.busy)(Some(range.len()));
        let ran = self.session.run_batch(inputs, &which, self.interrupt);
        (self.busy)(None);
        match ran {
            Ok(outputs) => {
                let outputs = outputs.into_iter().map(|(name, value)| {
                    let value = rows(&name, value, padded, range.len())?;
                    Ok((name, value))
                });
                let outputs = outputs.collect::<Result<_, Error>>()?;
                self.inferred.push(Inferred { rows: self.group.rows[range].to_vec(), outputs });
                Ok(())
            }
            Err(RunError::Interrupted) => Err(Error::Interrupted),
            Err(RunError::Output(detail)) => Err(Error::Output(detail)),
            Err(RunError::Refused(detail)) if range.len() == 1 => {
                self.refused.push(Refused { row: self.group.rows[range.start], detail });
                Ok(())
            }
            Err(RunError::Refused(detail)) => {
                let middle = range.start + range.len() / 2;
                let refused = self.refused.len();
                self.batch(range.start..middle)?;
                self.batch(middle..range.end)?;
                // One record that asks for too much by itself says nothing of the size.
                if is_out_of_memory(&detail) && self.refused.len() == refused && self.session.fixed_batch.is_none() {
                    self.session.room.learn(range.len(), range.len().div_ceil(2));
                }
                Ok(())
            }
        }
    }
}

/// Some records of a tensor; the last one is repeated up to `padded` records.
pub(super) fn slice(tensor: &Tensor, range: &Range<usize>, padded: usize) -> Tensor {
    let length: usize = tensor.shape[1..].iter().product();
    let data = each_tensor_data!(&tensor.data, values => {
        let mut part = values[range.start * length..range.end * length].to_vec();
        for _ in range.len()..padded {
            part.extend_from_slice(&values[(range.end - 1) * length..range.end * length]);
        }
        TensorData::from(part)
    });
    let mut shape = tensor.shape.clone();
    shape[0] = padded;
    Tensor { shape, data }
}

/// Checks that an output has a row for each of the `padded` records, and drops those of the padding.
fn rows(name: &str, value: Value, padded: usize, wanted: usize) -> Result<Value, Error> {
    let mismatch =
        |found: String| Error::Output(format!("output {name:?} has {found} for a batch of {padded} records; one row a record is needed"));
    match value {
        Value::Tensor(mut tensor) => {
            if tensor.shape.first() != Some(&padded) {
                return Err(mismatch(format!("shape {:?}", tensor.shape)));
            }
            if wanted < padded {
                let length: usize = tensor.shape[1..].iter().product();
                tensor.shape[0] = wanted;
                each_tensor_data!(&mut tensor.data, values => values.truncate(wanted * length));
            }
            Ok(Value::Tensor(tensor))
        }
        // Tensors of which each has a row a record, or one element a record: a map, or a tensor of its own.
        Value::Sequence(mut items) => {
            if items.iter().all(|item| matches!(item, Value::Tensor(t) if t.shape.first() == Some(&padded))) {
                return items.into_iter().map(|item| rows(name, item, padded, wanted)).collect::<Result<_, _>>().map(Value::Sequence);
            }
            if items.len() != padded {
                return Err(mismatch(format!("{} elements", items.len())));
            }
            items.truncate(wanted);
            Ok(Value::Sequence(items))
        }
        Value::Map { .. } => Err(mismatch("one map".to_owned())),
    }
}

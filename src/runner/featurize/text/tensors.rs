//! Tokens of a run → one tensor an input.

use super::{Role, Tokens, runs::Run};
use crate::{
    domain::{
        Dtype,
        pipeline::text::{Padding, Side},
    },
    runner::tensor::{Tensor, TensorData},
};

/// The tensor `[rows, run.length]` of one input.
///
/// Positions count from `first_position`; where there is padding, they are the position before it, or 0.
pub(super) fn tensor(role: Role, dtype: Dtype, run: &Run, tokens: &[Tokens], padding: &Padding, first_position: u32) -> Tensor {
    let shape = vec![run.rows.len(), run.length as usize];
    let fill = match role {
        Role::Ids => padding.id,
        Role::Mask => 0,
        Role::TypeIds => padding.type_id,
        Role::Positions => first_position.saturating_sub(1),
    };
    let mut values = vec![fill; run.rows.len() * run.length as usize];
    for (row, into) in run.rows.iter().zip(values.chunks_exact_mut((run.length as usize).max(1))) {
        let tokens = &tokens[*row as usize];
        let start = match padding.side {
            Side::Right => 0,
            Side::Left => into.len() - tokens.ids.len(),
        };
        let into = &mut into[start..start + tokens.ids.len()];
        match role {
            Role::Ids => into.copy_from_slice(&tokens.ids),
            Role::Mask => into.fill(1),
            Role::TypeIds => into.copy_from_slice(&tokens.type_ids),
            Role::Positions => into.iter_mut().zip(first_position..).for_each(|(into, position)| *into = position),
        }
    }
    let data = match dtype {
        Dtype::Int32 => TensorData::Int32(values.into_iter().map(u32::cast_signed).collect()),
        _ => TensorData::Int64(values.into_iter().map(i64::from).collect()),
    };
    Tensor { shape, data }
}

//! A text column under construction.
//!
//! In: cells, row by row; the last rows can be taken back. Out: an Arrow `Utf8` array. No allocation per cell.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, NullBufferBuilder, StringArray},
    buffer::{Buffer, OffsetBuffer, ScalarBuffer},
};

use crate::runner::lanes::LANES;

/// Cells of one column. Holds at most 2 GiB of text: the decoders' limits (see [`Limits`](super::batches::Limits)) keep below that.
#[derive(Debug)]
pub(super) struct TextColumn {
    /// The cells end to end, in UTF-8.
    text: Vec<u8>,
    /// Where each cell ends, with a zero before the first; empty until there is one.
    ends: Vec<i32>,
    /// Of the cells up to the last null; those after it are valid.
    valid: NullBufferBuilder,
    /// Bytes and cells that the first cell makes room for. Not made before, as a tiny object has no more cells.
    room: (usize, usize),
}

/// Room for the cells of a tiny object, bytes and cells.
const FIRST_ROOM: (usize, usize) = (64, 16);

impl TextColumn {
    /// With no cells.
    pub(super) fn new() -> Self {
        Self { text: Vec::new(), ends: Vec::new(), valid: NullBufferBuilder::new(0), room: FIRST_ROOM }
    }

    /// Number of cells.
    pub(super) fn len(&self) -> usize {
        self.ends.len().saturating_sub(1)
    }

    /// About how many bytes the cells take.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.ends.len().max(1) * size_of::<i32>()
    }

    /// Adds one cell.
    #[inline]
    pub(super) fn push(&mut self, cell: &str) {
        self.begin_cell();
        self.text.extend_from_slice(cell.as_bytes());
        self.end_cell();
    }

    /// Adds one cell, which is valid UTF-8, out of a text that may go on after it.
    #[inline]
    pub(super) fn push_part(&mut self, text: &[u8], cell: Range<usize>) {
        self.begin_cell();
        match text.get(cell.start..).and_then(|rest| rest.first_chunk::<LANES>()) {
            // To copy a register and to take back what is too much of it costs less than to copy a few bytes.
            Some(bytes) if cell.len() <= LANES => {
                let end = self.text.len() + cell.len();
                self.text.extend_from_slice(bytes);
                self.text.truncate(end);
            }
            _ => self.text.extend_from_slice(&text[cell]),
        }
        self.end_cell();
    }

    /// Adds one cell given in pieces.
    pub(super) fn push_pieces<'a>(&mut self, pieces: impl Iterator<Item = &'a str>) {
        self.begin_cell();
        pieces.for_each(|piece| self.text.extend_from_slice(piece.as_bytes()));
        self.end_cell();
    }

    /// Adds nulls until there are `rows` cells.
    pub(super) fn pad(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        if missing > 0 {
            self.begin_cell();
            self.valid.append_n_non_nulls(self.len() - self.valid.len());
            self.ends.resize(rows + 1, self.text.len() as i32);
            self.valid.append_n_nulls(missing);
        }
    }

    /// Takes back all cells after the first `rows`.
    pub(super) fn truncate(&mut self, rows: usize) {
        if rows < self.len() {
            self.ends.truncate(rows + 1);
            self.valid.truncate(rows.min(self.valid.len()));
            self.text.truncate(self.ends.last().map_or(0, |end| *end as usize));
        }
    }

    /// The cells as an array; the column is empty then, and the next cell makes room for as many, a little longer.
    pub(super) fn finish(&mut self) -> ArrayRef {
        self.begin_cell();
        self.valid.append_n_non_nulls(self.len() - self.valid.len());
        let (text, ends) = (std::mem::take(&mut self.text), std::mem::take(&mut self.ends));
        self.room = (text.len() + text.len() / 16 + LANES, ends.len());
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
        let array = StringArray::try_new(offsets, Buffer::from_vec(text), self.valid.finish());
        Arc::new(array.expect("the cells are valid UTF-8, end to end"))
    }

    #[inline]
    fn begin_cell(&mut self) {
        if self.ends.is_empty() {
            self.text.reserve(self.room.0);
            self.ends.reserve(self.room.1);
            self.ends.push(0);
        }
    }

    #[inline]
    fn end_cell(&mut self) {
        self.ends.push(self.text.len() as i32);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn cells_taken_back_leave_no_trace() {
        let mut column = TextColumn::new();
        column.push("a");
        column.pad(3);
        column.push_pieces(["ü", "", "b"].into_iter());
        column.push_part(b"so much is gone, not all of it", 8..15);
        column.pad(9);
        column.truncate(4);
        column.truncate(7);
        let array = column.finish();
        let cells: Vec<_> = array.as_string::<i32>().iter().collect();
        assert_eq!(cells, [Some("a"), None, None, Some("üb")]);
        assert_eq!(column.len(), 0);

        let text = "a cell of some length, and a short one";
        for cell in [0..0, 27..32, 0..16, 0..17, 30..38, 33..33, text.len()..text.len()] {
            column.push_part(text.as_bytes(), cell.clone());
            column.pad(column.len() + 1);
            column.push(&text[cell]);
        }
        let array = column.finish();
        let cells: Vec<_> = array.as_string::<i32>().iter().collect();
        for cell in cells.chunks(3) {
            assert!(cell[0].is_some() && cell[0] == cell[2] && cell[1].is_none(), "{cell:?}");
        }

        column.pad(1);
        assert!(column.finish().is_null(0));
    }
}

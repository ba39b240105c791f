//! Encoded pictures → one image tensor.
//!
//! In: a column of encoded pictures (bytes, or texts in base64). Out: tensors for rows of equal shape, where each picture lies in its
//! tensor, and error rows. Runs on the workers, one a core, so that decoding spreads over the cores and overlaps inference.

mod column;
mod decode;
mod jpeg;
mod limits;
mod mask;
mod png;
mod resize;
mod tensor;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use arrow::array::RecordBatch;
use half::f16;

pub use limits::ImageLimits;

use super::{BindError, Featurized, Group, Notes, RowError, bind};
use crate::{
    domain::{
        Dtype, Pipeline,
        pipeline::image::{Geometry, Image, Layout},
    },
    runner::tensor::{Tensor, TensorData},
};
use column::Encoded;
use decode::{Bad, Picture, decode};
use resize::{Placement, resize};
use tensor::{Element, Table};

/// How a column's pictures become the model's image input.
#[derive(Debug, Clone)]
pub(super) struct Pictures {
    column: bind::Column,
    image: Image,
    table: AnyTable,
    /// Element type of the mask.
    mask: Option<Dtype>,
    limits: ImageLimits,
}

/// A table for the input's element type.
#[derive(Debug, Clone)]
enum AnyTable {
    Fp32(Table<f32>),
    Fp16(Table<f16>),
    Uint8(Table<u8>),
}

impl Pictures {
    /// The columns that fill each input, for people.
    pub(super) fn columns(&self) -> Vec<(String, Vec<String>)> {
        vec![(self.image.input.clone(), vec![self.column.name.clone()])]
    }

    /// Binds the column of pictures to the model's image input.
    ///
    /// # Errors
    /// [`BindError`] when the column is not there or can hold no pictures.
    pub(super) fn resolve(pipeline: &Pipeline, image: &Image, limits: ImageLimits, first: &RecordBatch) -> Result<Self, BindError> {
        let unsupported = |detail: String| BindError { code: "unsupported_input", detail };
        let input = pipeline.signature.inputs.iter().find(|i| i.name == image.input);
        let input = input.ok_or_else(|| unsupported(format!("the model has no input {:?}", image.input)))?;
        let table = match input.tensor().map(|(dtype, _)| dtype) {
            Some(Dtype::Fp32) => AnyTable::Fp32(Table::new(image)),
            Some(Dtype::Fp16) => AnyTable::Fp16(Table::new(image)),
            Some(Dtype::Uint8) => AnyTable::Uint8(Table::new(image)),
            _ => return Err(unsupported(format!("the model's input {:?} is not of FP32, FP16 or UINT8", image.input))),
        };
        let mask = image.mask.as_ref().and_then(|mask| pipeline.signature.inputs.iter().find(|i| i.name == mask.input));
        let mask = mask.and_then(|input| input.tensor()).map(|(dtype, _)| dtype);
        let column = bind::find(first, &image.column).ok_or_else(|| bind::missing(&image.column, input, first))?;
        column::check(&column, first)?;
        Ok(Self { column, image: image.clone(), table, mask, limits })
    }

    pub(super) fn featurize(&self, columns: &RecordBatch) -> Featurized {
        match &self.table {
            AnyTable::Fp32(table) => self.fill(table, columns),
            AnyTable::Fp16(table) => self.fill(table, columns),
            AnyTable::Uint8(table) => self.fill(table, columns),
        }
    }

    fn fill<T: Element>(&self, table: &Table<T>, columns: &RecordBatch) -> Featurized
    where
        TensorData: From<Vec<T>>,
    {
        let rows = columns.num_rows();
        let encoded = Encoded::new(&self.column, columns);
        let mut geometry: Vec<Option<Geometry>> = vec![None; rows];
        let mut errors = Vec::new();
        // Rows of equal shape together; groups in the order of their first rows.
        let mut places: HashMap<(u32, u32), usize> = HashMap::new();
        let mut groups: Vec<Stack<T>> = Vec::new();
        for (row, geometry) in geometry.iter_mut().enumerate() {
            match self.picture::<T>(&encoded, row) {
                Ok((found, placement, seen)) => {
                    let at = *places.entry(placement.tensor).or_insert_with(|| {
                        let length = self.elements(&placement);
                        let fixed = self.image.tensor_size().is_some();
                        groups.push(Stack {
                            length,
                            tensor: placement.tensor,
                            rows: Vec::new(),
                            canvases: Vec::new(),
                            values: reserve(length, rows, fixed),
                        });
                        groups.len() - 1
                    });
                    table.write(&self.image, &placement, &seen, groups[at].slot(row, placement.canvas));
                    *geometry = Some(found);
                }
                Err(Bad { code, detail }) => {
                    errors.push(RowError { row: row as u32, code, detail: format!("column {:?}: {detail}", self.column.name) });
                }
            }
        }
        let groups = groups.into_iter().map(|stack| self.group(stack)).collect();
        Featurized { groups, errors, notes: Notes { geometry, ..Notes::default() } }
    }

    /// A row's picture: where it lies in its tensor, and what of it is seen there.
    fn picture<T>(&self, encoded: &Encoded<'_>, row: usize) -> Result<(Geometry, Placement, Picture), Bad> {
        let bytes = encoded.bytes(row, &self.limits)?;
        let picture = decode(&bytes, &self.limits, self.image.alpha)?;
        let (width, height) = (picture.width, picture.height);
        let placement = Placement::of(&self.image, width, height);
        let taken = self.elements(&placement) as u64 * size_of::<T>() as u64;
        if taken > self.limits.memory {
            let detail = format!("its tensor takes {taken} bytes, over the limit of {}", self.limits.memory);
            return Err(Bad::new("image_too_large", detail));
        }
        if !placement.fits() {
            let ((w, h), (most_w, most_h)) = (placement.canvas, placement.tensor);
            let detail = format!("resized, it has {w} × {h} pixels, and cannot be filled up to {most_w} × {most_h}");
            return Err(Bad::new("image_too_large", detail));
        }
        let picture = if self.image.channel_count() == 1 { picture.into_gray() } else { picture };
        let seen = resize(picture, &placement, self.image.resample)?;
        Ok((placement.geometry(width, height), placement, seen))
    }

    fn elements(&self, placement: &Placement) -> usize {
        placement.tensor.0 as usize * placement.tensor.1 as usize * self.image.channel_count()
    }

    fn group<T>(&self, stack: Stack<T>) -> Group
    where
        TensorData: From<Vec<T>>,
    {
        let Stack { rows, tensor: (width, height), canvases, values, .. } = stack;
        let mask = self.image.mask.as_ref().zip(self.mask);
        let mask = mask.map(|(mask, dtype)| (mask.input.clone(), mask::tensor(mask, dtype, &canvases, (width, height))));
        let (channels, height, width) = (self.image.channel_count(), height as usize, width as usize);
        let shape = match self.image.layout {
            Layout::Nchw => vec![rows.len(), channels, height, width],
            Layout::Nhwc => vec![rows.len(), height, width, channels],
        };
        let picture = (self.image.input.clone(), Tensor { shape, data: values.into() });
        Group { rows, inputs: [picture].into_iter().chain(mask).collect() }
    }
}

/// The batch tensor of rows of one shape, as far as it is filled.
struct Stack<T> {
    length: usize,
    tensor: (u32, u32),
    rows: Vec<u32>,
    /// Width and height of each row's picture in the tensor, without its padding.
    canvases: Vec<(u32, u32)>,
    values: Vec<T>,
}

impl<T: Element> Stack<T> {
    /// The slot of one more row.
    fn slot(&mut self, row: usize, canvas: (u32, u32)) -> &mut [T] {
        let start = self.values.len();
        self.values.resize(start + self.length, T::default());
        self.rows.push(row as u32);
        self.canvases.push(canvas);
        &mut self.values[start..]
    }
}

/// Where all pictures of a batch get one shape, room for all; otherwise it grows with what comes.
fn reserve<T>(length: usize, rows: usize, fixed: bool) -> Vec<T> {
    if fixed { Vec::with_capacity(length * rows) } else { Vec::new() }
}

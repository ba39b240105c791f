//! Where pictures lie in their tensors, as a model's `pixel_mask` is told it.

use half::f16;

use crate::{
    domain::{Dtype, pipeline::image::Mask},
    runner::tensor::{Tensor, TensorData},
};

/// `[rows, height, width]`: 1 where a row's picture lies, 0 where it was padded. `canvases` are the widths and heights of the pictures,
/// `tensor` those of the tensor that holds them. A mask of a size of its own is of ones: nothing is padded then.
pub(super) fn tensor(mask: &Mask, dtype: Dtype, canvases: &[(u32, u32)], tensor: (u32, u32)) -> Tensor {
    let (width, height) = mask.size.map_or(tensor, |[height, width]| (width, height));
    let own = (width, height) != tensor;
    let lies = canvases.iter().flat_map(|canvas| {
        let inside = move |x: u32, y: u32| own || x < canvas.0 && y < canvas.1;
        (0..height).flat_map(move |y| (0..width).map(move |x| inside(x, y)))
    });
    let data: TensorData = match dtype {
        Dtype::Bool => lies.collect::<Vec<bool>>().into(),
        Dtype::Uint8 => lies.map(u8::from).collect::<Vec<_>>().into(),
        Dtype::Int32 => lies.map(i32::from).collect::<Vec<_>>().into(),
        Dtype::Fp16 => lies.map(|lies| if lies { f16::ONE } else { f16::ZERO }).collect::<Vec<_>>().into(),
        Dtype::Fp32 => lies.map(|lies| f32::from(u8::from(lies))).collect::<Vec<_>>().into(),
        _ => lies.map(i64::from).collect::<Vec<_>>().into(),
    };
    Tensor { shape: vec![canvases.len(), height as usize, width as usize], data }
}

//! Arrays as numpy saves them (`numpy.save`, NEP 1).

use half::f16;

/// An array of numbers.
#[derive(Debug, PartialEq)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    /// Row-major.
    pub(super) values: Vec<f64>,
}

/// Reads a `.npy` file of little-endian floats or of bytes, in C order.
///
/// # Errors
/// Says what the bytes are not.
pub(super) fn read(bytes: &[u8]) -> Result<Array, String> {
    let (header, data) = split(bytes).ok_or("it is no .npy file: numpy.save writes one")?;
    let header = String::from_utf8_lossy(header);
    let after = |name: &str| header.split_once(&format!("'{name}':")).map(|(_, rest)| rest.trim_start());
    if after("fortran_order").is_none_or(|order| order.starts_with("True")) {
        return Err("it is in Fortran's order; save numpy.ascontiguousarray of it".to_owned());
    }
    let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(dims, _)| dims);
    let dims = shape.into_iter().flat_map(|dims| dims.split(',')).map(str::trim).filter(|dim| !dim.is_empty());
    let shape: Vec<usize> = dims.map(|dim| dim.parse().map_err(|_| format!("its shape holds {dim:?}"))).collect::<Result<_, _>>()?;
    let kind = after("descr").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
    let values: Vec<f64> = match kind {
        "<f8" => numbers(data, f64::from_le_bytes),
        "<f4" => numbers(data, |bytes| f32::from_le_bytes(bytes).into()),
        "<f2" => numbers(data, |bytes| f16::from_le_bytes(bytes).into()),
        "|u1" => data.iter().map(|byte| f64::from(*byte)).collect(),
        other => return Err(format!("its elements are {other:?}; float16, float32, float64 and uint8 are read")),
    };
    let wanted = shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
    if wanted != Some(values.len()) {
        return Err(format!("its shape is {shape:?}, and it holds {} numbers", values.len()));
    }
    Ok(Array { shape, values })
}

/// The header's text, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = if version[0] == 1 {
        let (length, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk::<4>()?;
        (u32::from_le_bytes(*length) as usize, rest)
    };
    rest.split_at_checked(length)
}

fn numbers<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\0".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn what_numpy_saves_is_read_and_what_it_does_not_is_named() {
        let array = read(&file("<f4", "False", "(2, 1)", &[1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat())).unwrap();
        assert_eq!(array, Array { shape: vec![2, 1], values: vec![1.5, -2.0] });
        assert_eq!(read(&file("|u1", "False", "(3,)", &[1, 2, 255])).unwrap().values, [1.0, 2.0, 255.0]);
        let half = f16::from_f32(0.5).to_le_bytes();
        assert_eq!(read(&file("<f2", "False", "()", &half)).unwrap(), Array { shape: vec![], values: vec![0.5] });
        for (bytes, word) in [
            (b"PK\x03\x04".to_vec(), "numpy.save"),
            (file("<f4", "True", "(1, 1)", &[0; 4]), "Fortran"),
            (file("<i8", "False", "(1,)", &[0; 8]), "<i8"),
            (file("<f4", "False", "(2,)", &[0; 4]), "[2]"),
            (b"\x93NUMPY\x01\0\xff\xff{".to_vec(), "numpy.save"),
        ] {
            assert!(read(&bytes).unwrap_err().contains(word), "{word}");
        }
    }
}

//! Sizes as people write them.

/// A number of bytes: `1073741824`, `1024MiB`, `1 GiB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("", 1)];
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| *factor);
    let size = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    size.filter(|size| *size > 0).ok_or_else(|| "write a number of bytes, or one with KiB, MiB, GiB or TiB: 512MiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_unit_of_1024s() {
        for (text, size) in [("1", 1), ("4096", 4096), ("3KiB", 3072), ("512 MiB", 512 << 20), ("8GiB", 8 << 30), ("2TiB", 2 << 40)] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "0", "0GiB", "GiB", "-1", "1.5GiB", "8GB", "8g", "1 GiB x", "99999999999TiB", "184467440737095516160"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}

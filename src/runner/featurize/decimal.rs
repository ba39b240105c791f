//! Short decimal numbers, read without a loop over their digits.
//!
//! Most numbers in texts are a sign, a few digits, and a point among them. Such a number is cut out of the column's bytes as one word of
//! sixteen, its point taken out, and all its digits are summed up together. It is an integer below 2^53 over a power of ten that a double
//! holds exactly, so one division rounds it correctly (Clinger, "How to Read Floating Point Numbers Accurately", 1990). Whatever
//! else a text may be is left to those that read everything.

use std::ops::Range;

/// Bytes in a word.
const WORD: usize = 16;
/// Every integer up to this one is a double.
const MOST: u64 = 1 << 53;
const TENS: [f64; WORD] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// One byte in all places of a word.
const fn all(byte: u8) -> u128 {
    u128::from_le_bytes([byte; WORD])
}

/// The number that `bytes[cell]` writes, rounded to the nearest double; `None` where it is not written as `12`, `-0.5` or `3.25`, has
/// more digits than a double holds exactly, or has no sixteen bytes from its start on.
#[inline]
pub(super) fn read(bytes: &[u8], cell: Range<usize>) -> Option<f64> {
    let mut word = u128::from_le_bytes(*bytes.get(cell.start..)?.first_chunk::<WORD>()?);
    let mut length = cell.end.checked_sub(cell.start).filter(|length| *length <= WORD)?;
    let negative = word as u8 == b'-';
    if negative {
        word >>= 8;
        length = length.checked_sub(1)?;
    }
    if length == 0 {
        return None;
    }
    // What follows the cell is not its own.
    word &= u128::MAX >> (8 * (WORD - length));
    // The lowest bit that this sets is that of the first point.
    let points = word ^ all(b'.');
    let points = points.wrapping_sub(all(1)) & !points & all(0x80);
    let fraction = if points == 0 {
        0
    } else {
        let place = points.trailing_zeros() as usize / 8;
        let before = (1_u128 << (8 * place)) - 1;
        word = word & before | word >> 8 & !before;
        length -= 1;
        let fraction = length - place;
        if place == 0 || fraction == 0 {
            return None;
        }
        fraction
    };
    // To the end of the word, with zeros before.
    if length < WORD {
        word = word << (8 * (WORD - length)) | all(b'0') >> (8 * length);
    }
    let digits = word & all(0xf0) == all(0x30) && word.wrapping_add(all(6)) & all(0xf0) == all(0x30);
    let number = eight(word as u64) * 100_000_000 + eight((word >> 64) as u64);
    if !digits || number > MOST {
        return None;
    }
    // Looked up so that nothing here can panic: for types that take no decimal all of it can be left out.
    let value = number as f64 / TENS.get(fraction)?;
    Some(if negative { -value } else { value })
}

/// The number of eight digits, the first in the lowest byte: pairs, fours and eights are summed up in all their places at once.
fn eight(digits: u64) -> u64 {
    let pairs = (digits & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(10 << 8 | 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(100 << 16 | 1) >> 16;
    (fours & 0x0000_ffff_0000_ffff).wrapping_mul(10_000 << 32 | 1) >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a text that stands among others.
    fn of(text: &str) -> Option<f64> {
        let bytes = format!("1.5{text}7.25-90000000000");
        read(bytes.as_bytes(), 3..3 + text.len())
    }

    #[test]
    fn what_is_a_plain_number_is_read() {
        for (text, value) in [
            ("0", 0.0_f64),
            ("-0", -0.0),
            ("7", 7.0),
            ("-12", -12.0),
            ("0.1", 0.1),
            ("-0.63629144", -0.63629144),
            ("757.16", 757.16),
            ("00012.500", 12.5),
            ("9007199254740992", 9007199254740992.0),
            ("123456789012.345", 123456789012.345),
        ] {
            assert_eq!(of(text).map(f64::to_bits), Some(value.to_bits()), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_left_to_others() {
        for text in [
            "",
            "-",
            ".",
            "-.",
            ".5",
            "5.",
            "-.5",
            "+1",
            " 1",
            "1 ",
            "1e3",
            "1.2.3",
            "1..2",
            "--1",
            "1-",
            "nan",
            "1,5",
            "0x1",
            "１",
            "1/",
            "1:",
            "9007199254740993",
            "12345678901234567",
            "0.12345678901234567",
        ] {
            assert_eq!(of(text), None, "{text:?}");
        }
        assert_eq!(read(b"1.5", 0..3), None, "too near the end");
        assert_eq!(read(b"1.5", 7..9), None);
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_the_nearest_double(text in "-?[0-9]{0,16}\\.?[0-9]{0,16}") {
            if let Some(value) = of(&text) {
                prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
            }
        }

        #[test]
        fn no_text_is_read_that_is_no_number(text in "[-+0-9.eE /:x]{0,17}") {
            if let Some(value) = of(&text) {
                prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
            }
        }
    }
}

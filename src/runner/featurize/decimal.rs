//! Short decimal numbers, read without a loop over their digits.
//!
//! Most numbers in texts are a sign, a few digits, and a point among them. Such a number ends a word of sixteen bytes; its point is taken
//! out, what stands before it is blanked, and all its digits are summed up together. It is an integer below 2^53 over a power of ten that a
//! double holds exactly, so one division rounds it correctly (Clinger, "How to Read Floating Point Numbers Accurately", 1990). Whatever
//! else a text may be is left to those that read everything.

use std::ops::Range;

use crate::runner::lanes::{self, LANES};

/// Every integer up to this one is a double.
const MOST: u64 = 1 << 53;
const TENS: [f64; LANES] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
/// So many bytes at the end of a word.
const LAST: [u128; LANES + 1] = {
    let mut masks = [u128::MAX; LANES + 1];
    let mut count = 0;
    while count < LANES {
        masks[count] = !(u128::MAX >> (8 * count));
        count += 1;
    }
    masks
};

/// The number that `bytes[cell]` writes, rounded to the nearest double; `None` where it is not written as `12`, `-0.5` or `3.25`, or has
/// more digits than a double holds exactly.
#[inline]
pub(super) fn read(bytes: &[u8], cell: Range<usize>) -> Option<f64> {
    let length = cell.end.checked_sub(cell.start).filter(|length| (1..=LANES).contains(length))?;
    let bytes = bytes.get(..cell.end)?;
    let word = match bytes.last_chunk::<LANES>() {
        Some(word) => *word,
        None => short(bytes),
    };
    let negative = *bytes.get(cell.start)? == b'-';
    // The number without its sign: its places in the word as bits, and how many of them are digits.
    let own = (u32::MAX << (LANES - length) & 0xffff) & !(u32::from(negative) << (LANES - length));
    let mut digits = length - usize::from(negative);
    // How many of them follow the point; all where there is none.
    let mut after = LANES;
    let point = own & !lanes::digits(&word);
    if point != 0 {
        let ends = own & own.wrapping_neg() | 1 << (LANES - 1);
        if point & lanes::any_of(&word, [b'.']) & !ends != point || !point.is_power_of_two() {
            return None;
        }
        after = LANES - 1 - point.trailing_zeros() as usize;
        digits -= 1;
    }
    if digits == 0 {
        return None;
    }
    let word = u128::from_le_bytes(word);
    // Looked up so that nothing here can panic: for types that take no decimal all of it can be left out.
    let behind = LAST.get(after)?;
    let word = (word & behind | (word << 8) & !behind) & LAST.get(digits)?;
    let number = eight(word as u64) * 100_000_000 + eight((word >> 64) as u64);
    if number > MOST {
        return None;
    }
    let value = number as i64 as f64 / TENS[after % LANES];
    Some(if negative { -value } else { value })
}

/// The word that ends with these bytes, of which there are fewer: a column has such numbers at its beginning only.
#[cold]
fn short(bytes: &[u8]) -> [u8; LANES] {
    let mut word = [0; LANES];
    word[LANES - bytes.len()..].copy_from_slice(bytes);
    word
}

/// The number of eight digits, the first in the lowest byte: pairs, fours and eights are summed up in all their places at once. Where no
/// digit is, a zero byte counts as one.
#[inline]
fn eight(digits: u64) -> u64 {
    let pairs = (digits & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(10 << 8 | 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(100 << 16 | 1) >> 16;
    (fours & 0x0000_ffff_0000_ffff).wrapping_mul(10_000 << 32 | 1) >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a text that stands among others, and at the beginning and the end.
    fn of(text: &str) -> Option<f64> {
        let read_after = |before: &str| {
            let bytes = format!("{before}{text}7.25-90000000000");
            read(bytes.as_bytes(), before.len()..before.len() + text.len())
        };
        let value = read_after("123456.789-01.5");
        for other in [read_after(""), read_after("1.5"), read(text.as_bytes(), 0..text.len())] {
            assert_eq!(other.map(f64::to_bits), value.map(f64::to_bits), "{text:?}");
        }
        value
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
        assert_eq!(read(b"1.5", 7..9), None);
        #[expect(clippy::reversed_empty_ranges, reason = "a range that is none")]
        let none = read(b"1.5", 2..1);
        assert_eq!(none, None);
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

//! Sixteen bytes at a time: which of them are of a kind.
//!
//! In: bytes. Out: a bit for each of them, that of the first the lowest. Where separators lie a few bytes apart, to look for each by itself
//! costs more than what lies between two of them.

/// Bytes that are looked at together.
pub(super) const LANES: usize = 16;

#[cfg(not(target_arch = "x86_64"))]
pub(super) use words::{any_of, digits};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{any_of, digits};

/// With the vector registers that every x86-64 processor has. Beside [`words`], a row of 30 numbers takes 100 ns less to be cut and 90 ns
/// less to be read, of 600.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_setzero_si128,
        _mm_sub_epi8,
    };

    use super::LANES;

    /// Which of the bytes are one of `wanted`.
    #[inline]
    pub(in super::super) fn any_of<const N: usize>(bytes: &[u8; LANES], wanted: [u8; N]) -> u32 {
        #[target_feature(enable = "sse2")]
        fn find<const N: usize>(bytes: &[u8; LANES], wanted: [u8; N]) -> u32 {
            let bytes = register(bytes);
            let equal = |byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8));
            let found = wanted.into_iter().fold(_mm_setzero_si128(), |found, byte| _mm_or_si128(found, equal(byte)));
            _mm_movemask_epi8(found) as u32
        }
        // SAFETY: the function asks for SSE2 alone, which is part of x86-64.
        unsafe { find(bytes, wanted) }
    }

    /// Which of the bytes are ASCII digits.
    #[inline]
    pub(in super::super) fn digits(bytes: &[u8; LANES]) -> u32 {
        #[target_feature(enable = "sse2")]
        fn find(bytes: &[u8; LANES]) -> u32 {
            let values = _mm_sub_epi8(register(bytes), _mm_set1_epi8(b'0' as i8));
            _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(values, _mm_set1_epi8(9)), values)) as u32
        }
        // SAFETY: the function asks for SSE2 alone, which is part of x86-64.
        unsafe { find(bytes) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn register(bytes: &[u8; LANES]) -> __m128i {
        let word = u128::from_le_bytes(*bytes);
        _mm_set_epi64x((word >> 64) as i64, word as i64)
    }
}

/// With ordinary registers, for processors of other kinds.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod words {
    use super::LANES;

    /// The highest bit of each byte.
    const HIGH: u64 = all(0x80);

    /// Which of the bytes are one of `wanted`.
    #[inline]
    pub(in super::super) fn any_of<const N: usize>(bytes: &[u8; LANES], wanted: [u8; N]) -> u32 {
        each_half(bytes, |half| {
            let equal = |byte: u8| {
                let other = half ^ all(byte);
                !(((other & !HIGH) + !HIGH) | other)
            };
            wanted.into_iter().fold(0, |found, byte| found | equal(byte))
        })
    }

    /// Which of the bytes are ASCII digits.
    #[inline]
    pub(in super::super) fn digits(bytes: &[u8; LANES]) -> u32 {
        each_half(bytes, |half| {
            let values = half ^ all(b'0');
            // Ten and more reach the highest bit by this.
            !(((values & !HIGH) + all(0x80 - 10)) | values)
        })
    }

    /// One byte in all places of a word.
    const fn all(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }

    /// The bits that `kind` gives as the highest of each byte of a half.
    fn each_half(bytes: &[u8; LANES], kind: impl Fn(u64) -> u64) -> u32 {
        let word = u128::from_le_bytes(*bytes);
        // The product brings the bits, eight places apart, together in its highest byte.
        let bits = |half: u64| (((kind(half) & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
        bits(word as u64) | bits((word >> 64) as u64) << 8
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(bytes: &[u8; LANES], kind: impl Fn(u8) -> bool) -> u32 {
        bytes.iter().rev().fold(0, |bits, byte| bits << 1 | u32::from(kind(*byte)))
    }

    proptest! {
        #[test]
        fn each_byte_of_a_kind_has_its_bit_on_every_processor(
            bytes in prop_oneof![any::<[u8; LANES]>(), prop::array::uniform16(prop::sample::select(b"09/:.,\"\n\x00\xff\x80\xb0\xac".to_vec()))],
            wanted in any::<[u8; 3]>(),
        ) {
            for wanted in [wanted, *b",\n\""] {
                let found = bits(&bytes, |byte| wanted.contains(&byte));
                prop_assert_eq!((any_of(&bytes, wanted), words::any_of(&bytes, wanted)), (found, found));
            }
            let found = bits(&bytes, |byte| byte.is_ascii_digit());
            prop_assert_eq!((digits(&bytes), words::digits(&bytes)), (found, found));
        }
    }
}

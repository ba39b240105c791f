//! The page headers of a Parquet column chunk, before anything is decoded.
//!
//! In: the bytes of a column chunk. Out: whether any of its pages claims to grow beyond a limit. The Parquet library reserves
//! what a page header claims, up to 2 GiB a page, and has no setting to refuse it; this looks first.
//!
//! Headers are structs in Thrift's compact protocol (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>),
//! by `PageHeader` of <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>. A header that cannot
//! be read ends the look: the library will meet the same bytes, and say so at the right row.

/// Deepest nesting of structs and lists in a page header; real ones have three levels.
const MAX_DEPTH: usize = 16;

const UNCOMPRESSED_PAGE_SIZE: i64 = 2;
const COMPRESSED_PAGE_SIZE: i64 = 3;

/// Refuses a column chunk with a page of more than `max_bytes`, decompressed.
pub(super) fn check_sizes(chunk: &[u8], max_bytes: u64) -> Result<(), String> {
    let mut rest = chunk;
    while !rest.is_empty() {
        let Some(page) = PageSizes::read(&mut rest) else { return Ok(()) };
        if page.uncompressed > max_bytes {
            return Err(format!("a page claims {} bytes, over the limit of {max_bytes}", page.uncompressed));
        }
        let Some(after) = usize::try_from(page.compressed).ok().and_then(|size| rest.get(size..)) else { return Ok(()) };
        rest = after;
    }
    Ok(())
}

struct PageSizes {
    uncompressed: u64,
    compressed: u64,
}

impl PageSizes {
    /// Takes one page header off the front of `bytes`.
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut sizes = Self { uncompressed: 0, compressed: 0 };
        let mut id = 0;
        while let Some(kind) = field(bytes, &mut id)? {
            match (kind, id) {
                (Kind::Integer, UNCOMPRESSED_PAGE_SIZE) => sizes.uncompressed = u64::try_from(integer(bytes)?).ok()?,
                (Kind::Integer, COMPRESSED_PAGE_SIZE) => sizes.compressed = u64::try_from(integer(bytes)?).ok()?,
                (kind, _) => skip(bytes, kind, MAX_DEPTH)?,
            }
        }
        Some(sizes)
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// In the field's own header.
    Boolean,
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
    Uuid,
}

impl Kind {
    fn of(code: u8) -> Option<Self> {
        Some(match code {
            1 | 2 => Self::Boolean,
            3 => Self::Byte,
            4..=6 => Self::Integer,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            13 => Self::Uuid,
            _ => return None,
        })
    }
}

/// The next field of a struct: its kind, with its number in `id`; `Some(None)` at the struct's end.
fn field(bytes: &mut &[u8], id: &mut i64) -> Option<Option<Kind>> {
    let header = byte(bytes)?;
    if header == 0 {
        return Some(None);
    }
    let step = i64::from(header >> 4);
    *id = if step == 0 { integer(bytes)? } else { *id + step };
    Kind::of(header & 0x0F).map(Some)
}

fn skip(bytes: &mut &[u8], kind: Kind, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match kind {
        Kind::Boolean => Some(()),
        Kind::Byte => skip_bytes(bytes, 1),
        Kind::Integer => integer(bytes).map(|_| ()),
        Kind::Double => skip_bytes(bytes, 8),
        Kind::Uuid => skip_bytes(bytes, 16),
        Kind::Binary => {
            let length = varint(bytes)?;
            skip_bytes(bytes, length)
        }
        Kind::List => {
            let header = byte(bytes)?;
            let count = if header >> 4 == 15 { varint(bytes)? } else { u64::from(header >> 4) };
            skip_elements(bytes, &[Kind::of(header & 0x0F)], count, depth)
        }
        Kind::Map => {
            let count = varint(bytes)?;
            if count == 0 {
                return Some(());
            }
            let kinds = byte(bytes)?;
            skip_elements(bytes, &[Kind::of(kinds >> 4), Kind::of(kinds & 0x0F)], count, depth)
        }
        Kind::Struct => {
            let mut id = 0;
            while let Some(kind) = field(bytes, &mut id)? {
                skip(bytes, kind, depth)?;
            }
            Some(())
        }
    }
}

fn skip_elements(bytes: &mut &[u8], kinds: &[Option<Kind>], count: u64, depth: usize) -> Option<()> {
    for _ in 0..count {
        for kind in kinds {
            match (*kind)? {
                // Outside of a struct, a boolean has a byte of its own.
                Kind::Boolean => skip_bytes(bytes, 1)?,
                kind => skip(bytes, kind, depth)?,
            }
        }
    }
    Some(())
}

fn skip_bytes(bytes: &mut &[u8], count: u64) -> Option<()> {
    *bytes = bytes.get(usize::try_from(count).ok()?..)?;
    Some(())
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// Unsigned, seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let next = byte(bytes)?;
        value |= u64::from(next & 0x7F) << shift;
        if next < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Signed, in zigzag order.
fn integer(bytes: &mut &[u8]) -> Option<i64> {
    let value = varint(bytes)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A data page header (type 0) with the sizes given, a nested header, a binary and a list, and `data` after it.
    fn page(uncompressed: u8, compressed: u8, data: &[u8]) -> Vec<u8> {
        let zigzag = |value: u8| value * 2;
        let mut bytes = vec![0x15, 0, 0x15, zigzag(uncompressed), 0x15, zigzag(compressed)];
        bytes.extend([0x2C, 0x15, 8, 0x18, 2, b'h', b'i', 0x19, 0x25, 1, 2, 0x11, 0, 0]);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn every_page_of_a_chunk_is_looked_at() {
        let small = page(10, 3, b"abc");
        assert_eq!(check_sizes(&[small.clone(), small.clone()].concat(), 10), Ok(()));
        let fault = check_sizes(&[small.clone(), page(11, 1, b"x"), small].concat(), 10).expect_err("the second page is too large");
        assert!(fault.contains("11 bytes"), "{fault}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_sizes(&bytes, 100);
        }
    }
}

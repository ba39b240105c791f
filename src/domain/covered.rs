//! The record of which objects earlier runs of a schedule covered: by name, with a mark that changes with the object.
//!
//! In: names (whole locations) and marks, in the order of their bytes. Out: a block of bytes, and back. A name is kept as what it does not
//! share with the one before it, a mark as eight bytes of a SHA-256 over size and etag; the names of a block are compressed by Zstandard.
//! Names are kept rather than hashes of them: no object is ever taken for another, and as an input is listed in the order of its names,
//! one block at a time is looked at, so that neither the record nor a look at it needs memory for all of it.

use sha2::{Digest, Sha256};

/// Entries in a block, at most.
pub const MOST_ENTRIES: usize = 1024;
/// Level of Zstandard: names differ in a few digits, and higher ones find no more in them.
const LEVEL: i32 = 3;
/// Most bytes of the names of a block: keys have 1024 bytes at most, and a location a bucket before it.
const MOST_NAME_BYTES: usize = MOST_ENTRIES * 2 * 2048;

/// An object that was covered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its location.
    pub name: String,
    /// What it was.
    pub mark: u64,
}

impl Entry {
    /// An object as it was listed.
    pub fn new(name: String, size: u64, etag: Option<&str>) -> Self {
        let digest = Sha256::digest(format!("{size}\0{}", etag.unwrap_or_default()));
        let mark = digest.iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte));
        Self { name, mark }
    }
}

/// What the record of a schedule still has to be told of one of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has completed, and what it read is covered.
    Add,
    /// It had completed, was retried, and came to something else: what it read is to come again.
    TakeBack,
}

/// One block of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// It begins here: the empty text for the first.
    pub first: String,
    /// The next one begins here; `None` for the last.
    pub end: Option<String>,
    /// In the order of their names.
    pub entries: Vec<Entry>,
}

impl Block {
    /// Whether an object of this name would be in this block.
    pub fn spans(&self, name: &str) -> bool {
        *self.first <= *name && self.end.as_deref().is_none_or(|end| name < end)
    }

    /// Whether this object was covered as it is.
    pub fn covers(&self, object: &Entry) -> bool {
        let found = self.entries.binary_search_by(|entry| entry.name.as_str().cmp(&object.name));
        found.is_ok_and(|at| self.entries[at].mark == object.mark)
    }
}

/// Adds entries to others; of one name the added one counts. Both in the order of their names.
pub fn merge(known: Vec<Entry>, added: Vec<Entry>) -> Vec<Entry> {
    let mut merged: Vec<Entry> = Vec::with_capacity(known.len() + added.len());
    let (mut known, mut added) = (known.into_iter().peekable(), added.into_iter().peekable());
    loop {
        let next = match (known.peek(), added.peek()) {
            (Some(a), Some(b)) if a.name < b.name => known.next(),
            (Some(a), Some(b)) if a.name == b.name => {
                known.next();
                added.next()
            }
            (_, Some(_)) => added.next(),
            (_, None) => known.next(),
        };
        match (next, merged.last_mut()) {
            (None, _) => return merged,
            (Some(entry), Some(last)) if last.name == entry.name => *last = entry,
            (Some(entry), _) => merged.push(entry),
        }
    }
}

/// Takes entries out of others, those that are there as they are taken: one that a later run has read as another object stays. Both in the
/// order of their names.
pub fn without(mut known: Vec<Entry>, taken: &[Entry]) -> Vec<Entry> {
    known.retain(|entry| taken.binary_search_by(|other| other.name.cmp(&entry.name)).map_or(true, |at| taken[at].mark != entry.mark));
    known
}

/// Writes a block.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let (mut names, mut before) = (Vec::new(), "");
    for entry in entries {
        let shared = before.bytes().zip(entry.name.bytes()).take_while(|(a, b)| a == b).count();
        number(&mut names, shared);
        number(&mut names, entry.name.len() - shared);
        names.extend_from_slice(&entry.name.as_bytes()[shared..]);
        before = &entry.name;
    }
    let packed = zstd::bulk::compress(&names, LEVEL).expect("memory for a block");
    let mut block = Vec::with_capacity(8 + packed.len() + entries.len() * 8);
    number(&mut block, entries.len());
    number(&mut block, packed.len());
    block.extend_from_slice(&packed);
    entries.iter().for_each(|entry| block.extend_from_slice(&entry.mark.to_le_bytes()));
    block
}

/// Reads what [`encode`] wrote; `None` when this is something else.
pub fn decode(mut block: &[u8]) -> Option<Vec<Entry>> {
    let (count, length) = (read_number(&mut block)?, read_number(&mut block)?);
    let (packed, marks) = block.split_at_checked(length)?;
    if marks.len() != count.checked_mul(8)? {
        return None;
    }
    let names = zstd::bulk::decompress(packed, MOST_NAME_BYTES).ok()?;
    let (mut names, mut before): (&[u8], Vec<u8>) = (&names, Vec::new());
    let mut entries = Vec::with_capacity(count);
    for mark in marks.chunks_exact(8) {
        let (shared, rest) = (read_number(&mut names)?, read_number(&mut names)?);
        let (suffix, after) = names.split_at_checked(rest)?;
        if shared > before.len() {
            return None;
        }
        before.truncate(shared);
        before.extend_from_slice(suffix);
        names = after;
        entries.push(Entry { name: String::from_utf8(before.clone()).ok()?, mark: u64::from_le_bytes(mark.try_into().ok()?) });
    }
    names.is_empty().then_some(entries)
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn number(bytes: &mut Vec<u8>, mut value: usize) {
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        prop::collection::btree_map("[a-c/ä]{0,6}", any::<u64>(), 0..40)
            .prop_map(|map| map.into_iter().map(|(name, mark)| Entry { name, mark }).collect())
    }

    proptest! {
        #[test]
        fn a_block_is_read_as_it_was_written(entries in entries()) {
            prop_assert_eq!(decode(&encode(&entries)), Some(entries));
        }

        #[test]
        fn merging_is_what_a_map_does(known in entries(), added in entries()) {
            let mut map: BTreeMap<String, u64> = known.iter().map(|e| (e.name.clone(), e.mark)).collect();
            map.extend(added.iter().map(|e| (e.name.clone(), e.mark)));
            let wanted: Vec<Entry> = map.into_iter().map(|(name, mark)| Entry { name, mark }).collect();
            prop_assert_eq!(merge(known, added), wanted);
        }

        #[test]
        fn taking_out_is_what_a_map_does(known in entries(), other in entries(), picked in prop::collection::vec(any::<bool>(), 40)) {
            let mut taken: BTreeMap<String, u64> = other.into_iter().map(|e| (e.name, e.mark)).collect();
            taken.extend(known.iter().zip(picked).filter(|(_, picked)| *picked).map(|(e, _)| (e.name.clone(), e.mark)));
            let taken: Vec<Entry> = taken.into_iter().map(|(name, mark)| Entry { name, mark }).collect();
            let left = without(known.clone(), &taken);
            prop_assert_eq!(&left, &known.iter().filter(|entry| !taken.contains(entry)).cloned().collect::<Vec<_>>());
            prop_assert_eq!(decode(&encode(&left)), Some(left));
        }

        #[test]
        fn what_is_no_block_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), entries in entries(), cut in any::<prop::sample::Index>()) {
            let _refused_or_not = decode(&bytes);
            let block = encode(&entries);
            prop_assert_eq!(decode(&block[..cut.index(block.len())]), None);
        }
    }

    /// What docs/ARCHITECTURE.md says of its size: names as Spark and event streams write them.
    #[test]
    fn an_object_costs_eight_bytes_where_names_count_and_26_where_they_are_random() {
        let cost = |name: &dyn Fn(u64) -> String| {
            let mut names: Vec<String> = (0..1024).map(name).collect();
            names.sort();
            let entries: Vec<Entry> = names.into_iter().map(|name| Entry::new(name, 1, Some("e"))).collect();
            let marked: Vec<Entry> = entries.into_iter().enumerate().map(|(n, e)| Entry::new(e.name, n as u64, None)).collect();
            encode(&marked).len() as f64 / 1024.0
        };
        let counted = cost(&|n| format!("s3://lake/tx/2026-11-23/part-{:05}.parquet", n + 40_000));
        let random = cost(&|n| {
            let uuid: String = Sha256::digest(n.to_le_bytes()).iter().take(16).map(|b| format!("{b:02x}")).collect();
            format!("s3://lake/photos/{uuid}.jpg")
        });
        println!("{counted:.1} and {random:.1} bytes an object");
        assert!(counted < 9.0 && random < 27.0, "{counted} {random}");
    }
}

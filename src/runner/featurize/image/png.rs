//! PNG without its colour profile.
//!
//! Profiles are metadata and ignored, but the decoder inflates one before the first pixel: half a megabyte may say that it is half a
//! gigabyte.

use std::borrow::Cow;

const SIGNATURE_BYTES: usize = 8;
/// Length, type and checksum about a chunk's data.
const FRAME_BYTES: usize = 12;

/// The same PNG without the profiles that stand before its pixels. What is no well-formed chunk is left to the decoder.
pub(super) fn without_profile(bytes: &[u8]) -> Cow<'_, [u8]> {
    let (mut kept, mut copied, mut at) = (Vec::new(), 0, SIGNATURE_BYTES);
    while let Some((kind, length)) = chunk(bytes, at) {
        match &kind {
            b"iCCP" => {
                kept.extend_from_slice(&bytes[copied..at]);
                copied = at + length;
            }
            b"IDAT" | b"IEND" => break,
            _ => {}
        }
        at += length;
    }
    if copied == 0 {
        return Cow::Borrowed(bytes);
    }
    kept.extend_from_slice(&bytes[copied..]);
    Cow::Owned(kept)
}

/// Type and whole length of the chunk at a place, where all of it is there.
fn chunk(bytes: &[u8], at: usize) -> Option<([u8; 4], usize)> {
    let head = bytes.get(at..at + 8)?;
    let data = u32::from_be_bytes(head[..4].try_into().ok()?) as usize;
    let length = data.checked_add(FRAME_BYTES).filter(|length| *length <= bytes.len() - at)?;
    Some((head[4..].try_into().ok()?, length))
}

//! Whether the slices that parts cover are the snapshot, each byte and row of it once.
//!
//! In: the manifest. Out: findings. Reads nothing: that what a part covers is in the part is `outcomes`' business.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::findings::{Finding, Findings};
use crate::{
    domain::{Slice, Uri},
    execute::manifest::{Manifest, PartInput},
};

/// An object whose slices are being walked through.
struct Open<'m> {
    input: &'m PartInput,
    /// One past the last byte or row covered; `None` when the object is covered whole.
    end: Option<u64>,
}

/// Walks through the inputs of all parts in order.
pub(super) fn check(manifest: &Manifest, findings: &mut Findings) {
    let mut seen: HashSet<(Option<&Uri>, &str)> = HashSet::new();
    let mut open: Option<Open<'_>> = None;
    let (mut objects, mut bytes, mut digest) = (0u64, 0u64, String::new());
    for input in manifest.parts.iter().flat_map(|part| &part.inputs) {
        match &mut open {
            Some(open) if (&open.input.bucket, &open.input.key) == (&input.bucket, &input.key) => {
                next_slice(open, input, manifest.complete, findings)
            }
            _ => {
                close(open.take(), manifest.complete, findings);
                if !seen.insert((input.bucket.as_ref(), &input.key)) {
                    findings.add(Finding::of_output("covered_twice", format!("parts cover {} more than once, not in order", input.name())));
                }
                objects += 1;
                bytes += input.size;
                digest = pin(&digest, input);
                let (start, end) = range(input);
                if manifest.complete && start > 0 {
                    findings.add(gap(input, 0, start));
                }
                open = Some(Open { input, end });
            }
        }
    }
    close(open, manifest.complete, findings);
    let said = &manifest.input;
    if manifest.complete && (objects, bytes) != (said.objects, said.bytes) {
        let detail = format!("the snapshot had {} objects of {} bytes, and parts cover {objects} of {bytes}", said.objects, said.bytes);
        findings.add(Finding::of_output("snapshot_not_covered", detail));
    } else if manifest.complete && digest != said.snapshot_digest {
        let detail = "the objects that parts cover are not those of the snapshot: their digest is another".to_owned();
        findings.add(Finding::of_output("snapshot_not_covered", detail));
    }
}

/// The snapshot's digest is a chain over its objects, as the planner makes it.
fn pin(before: &str, input: &PartInput) -> String {
    let mut digest = Sha256::new();
    digest.update(before);
    digest.update(input.name());
    digest.update(format!("\0{}\0{}\n", input.size, input.etag.as_deref().unwrap_or_default()));
    digest.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn range(input: &PartInput) -> (u64, Option<u64>) {
    match input.slice {
        Slice::Whole => (0, None),
        Slice::Bytes { start, end } | Slice::Rows { start, end } => (start, Some(end)),
    }
}

fn next_slice<'m>(open: &mut Open<'m>, input: &'m PartInput, complete: bool, findings: &mut Findings) {
    if (&input.etag, input.size) != (&open.input.etag, open.input.size) {
        findings.add(Finding::of_output("two_versions", format!("parts cover two versions of {}", input.key)));
    }
    let (start, end) = range(input);
    match (open.end, end) {
        (Some(before), Some(_)) if start >= before => {
            if complete && start > before {
                findings.add(gap(input, before, start));
            }
        }
        _ => findings.add(Finding::of_output("covered_twice", format!("two parts cover {} from {start} on", input.key))),
    }
    *open = Open { input, end };
}

/// How many rows an object has is not in the manifest: its last slice of rows is taken at its word, until the input is read.
fn close(open: Option<Open<'_>>, complete: bool, findings: &mut Findings) {
    let Some(Open { input, end: Some(end) }) = open else { return };
    if complete && matches!(input.slice, Slice::Bytes { .. }) && end < input.size {
        findings.add(gap(input, end, input.size));
    }
}

fn gap(input: &PartInput, from: u64, to: u64) -> Finding {
    let what = if matches!(input.slice, Slice::Rows { .. }) { "rows" } else { "bytes" };
    Finding::of_output("not_covered", format!("no part covers {what} {from} to {to} of {}", input.key))
}

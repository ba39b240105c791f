//! One part with its errors file: are the bytes those that were committed, and is there one outcome a record?
//!
//! Runs on a thread of its own, and holds a batch of rows and the places of one chunk's error rows in memory.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{
    Depth,
    findings::{Finding, Findings},
    input,
    outcomes::{Comparison, ErrorRows, Inputs, LOST, Place},
    rows::{self, Found, Row},
};
use crate::{
    domain::{Slice, Uri},
    execute::manifest::{Input, Part},
    objects::{self, Bucket, ObjectMeta, Stores},
    runner::{decode::DecodeError, source::ObjectBytes},
};

/// Findings kept of one part.
const MOST_FINDINGS: usize = 20;
/// Bytes hashed at a time.
const BLOCK: usize = 256 * 1024;

/// Where parts and inputs are read.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) output: Bucket,
    pub(super) prefix: Uri,
    pub(super) stores: Stores,
    /// What the manifest says of the input.
    pub(super) input: Input,
    pub(super) depth: Depth,
    /// Predictions are in a table alone.
    pub(super) only_table: bool,
    pub(super) handle: Handle,
}

/// What one part came to.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) findings: Findings,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) codes: BTreeMap<String, u64>,
    /// Records of the input that were met, where it was read again.
    pub(super) input_records: u64,
}

/// One file as the manifest describes it.
struct Said<'a> {
    key: &'a str,
    bytes: u64,
    sha256: &'a str,
    rows: u64,
}

/// Checks one part.
///
/// # Errors
/// When the store fails, so that nothing can be said.
pub(super) fn check(part: &Part, access: &Access) -> Result<Checked, objects::Error> {
    let keys: Vec<Arc<str>> = part.inputs.iter().map(|input| input.to_slice(&access.input).source(&access.input.uri).into()).collect();
    let inputs = Inputs::new(keys, part.inputs.iter().map(|input| input.slice).collect());
    let mut checked = Checked {
        findings: Findings::at_most(MOST_FINDINGS),
        files: 0,
        bytes: 0,
        succeeded: 0,
        failed: 0,
        codes: BTreeMap::new(),
        input_records: 0,
    };
    let mut errors = Errors::default();
    match &part.errors {
        Some(file) => {
            let said = Said { key: &file.key, bytes: file.bytes, sha256: &file.sha256, rows: file.records };
            if let Some(meta) = checked.file(&said, access)? {
                errors.read(&said, &meta, access, &inputs, &mut checked)?;
            }
        }
        None if part.failed > 0 => {
            let detail = format!("part {} says that {} records failed and names no errors file", part.part, part.failed);
            checked.findings.add(Finding::of_output("missing_errors", detail));
        }
        None => {}
    }
    let file = part.key.as_deref().or(part.errors.as_ref().map(|e| e.key.as_str())).unwrap_or("_manifest.json");
    let reread = (access.depth == Depth::Input).then(|| {
        let expected = input::records(part, &access.input, access, errors.decode_errors.clone());
        Comparison::new(expected, &inputs, file)
    });
    let mut walk = Walk { inputs: &inputs, errors: &errors.rows, comparison: reread, last: None, out_of_order: Vec::new(), next_error: 0 };
    match (&part.key, &part.sha256) {
        (Some(key), Some(sha256)) => {
            let said = Said { key, bytes: part.bytes, sha256, rows: part.records };
            if let Some(meta) = checked.file(&said, access)? {
                walk.read(&said, &meta, access, &mut checked)?;
            }
        }
        _ if access.only_table => {
            checked.succeeded += part.records;
            if part.table.is_none() && part.records > 0 {
                let detail =
                    format!("part {} has {} records, and the manifest does not say how many are in the table", part.part, part.records);
                checked.findings.add(Finding::of_output("missing_part", detail));
            }
        }
        _ if part.records > 0 => {
            let detail = format!("part {} says that it has {} records and names no file", part.part, part.records);
            checked.findings.add(Finding::of_output("missing_part", detail));
        }
        _ => {}
    }
    checked.input_records = walk.finish(&mut checked.findings);
    check_rows_of_slice(part, &errors, file, &mut checked);
    Ok(checked)
}

/// A slice of rows says how many outcomes there must be, even where the input is not read again.
fn check_rows_of_slice(part: &Part, errors: &Errors, file: &str, checked: &mut Checked) {
    let [only] = part.inputs.as_slice() else { return };
    let Slice::Rows { start, end } = only.slice else { return };
    let outcomes = checked.succeeded + checked.failed;
    if errors.decode_errors.is_empty() && !errors.lost && outcomes != end - start {
        let detail = format!("rows {start} to {end} of {} are {} records, and {outcomes} have an outcome", only.key, end - start);
        checked.findings.add(Finding::of_file("missing_outcome", file, detail));
    }
}

impl Checked {
    /// The file is there, and its bytes are those that were committed.
    fn file(&mut self, said: &Said<'_>, access: &Access) -> Result<Option<ObjectMeta>, objects::Error> {
        let Said { key, .. } = said;
        if Uri::parse(&access.prefix.join(key).to_string()).is_err() {
            self.findings.add(Finding::of_file("not_a_part", key, "the manifest names it, and no object of the output can have that name"));
            return Ok(None);
        }
        let meta = match access.handle.block_on(access.output.head(access.prefix.join(key).path())) {
            Ok(meta) => meta,
            Err(objects::Error::NotFound { .. }) => {
                self.findings.add(Finding::of_file("missing_part", key, "the manifest names it, and it is not there"));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.files += 1;
        self.bytes += meta.size;
        if meta.size != said.bytes {
            let detail = format!("it has {} bytes, and the manifest says {}", meta.size, said.bytes);
            self.findings.add(Finding::of_file("wrong_size", key, detail));
        }
        let digest = digest(&meta, access)?;
        if digest != said.sha256 {
            let detail = format!("its bytes are not those that were committed: their SHA-256 is {digest}, not {}", said.sha256);
            self.findings.add(Finding::of_file("wrong_digest", key, detail));
        }
        Ok(Some(meta))
    }

    fn rows(&mut self, said: &Said<'_>, found: u64) {
        if found != said.rows {
            let detail = format!("it has {found} rows, and the manifest says {}", said.rows);
            self.findings.add(Finding::of_file("wrong_count", said.key, detail));
        }
    }

    fn broken(&mut self, key: &str, place: Option<u64>, detail: &str) {
        let at = place.map(|p| format!("at {p}, ")).unwrap_or_default();
        self.findings.add(Finding::of_file("unreadable_row", key, format!("{at}{detail}")));
    }
}

fn digest(meta: &ObjectMeta, access: &Access) -> Result<String, objects::Error> {
    let object = rows::object(&access.output, rows::whole(meta), &access.handle);
    let mut stream = object.stream(0..meta.size)?;
    let (mut digest, mut block) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        match stream.read(&mut block) {
            Ok(0) => return Ok(digest.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            Ok(count) => digest.update(&block[..count]),
            Err(error) => {
                let unavailable = |reason| objects::Error::Unavailable { operation: "GET", uri: access.output.uri(&meta.key), reason };
                return Err(error.downcast::<objects::Error>().unwrap_or_else(|e| unavailable(e.to_string())));
            }
        }
    }
}

/// A file that is not what its format says is a finding; a store that fails ends the verification.
fn read_to_end(read: Result<(), DecodeError>, key: &str, checked: &mut Checked) -> Result<bool, objects::Error> {
    match read {
        Ok(()) => Ok(true),
        Err(DecodeError::Source(error)) => Err(error),
        Err(DecodeError::Corrupt { detail, position, .. }) => {
            let at = position.map(|p| format!("from {p} on ")).unwrap_or_default();
            checked.findings.add(Finding::of_file("unreadable_file", key, format!("{at}it cannot be read: {detail}")));
            Ok(false)
        }
    }
}

/// What an errors file says.
#[derive(Debug, Default)]
struct Errors {
    rows: ErrorRows,
    /// Inputs, by place, of which the decoder lost records.
    decode_errors: Vec<u32>,
    /// Whether an object was lost as a whole.
    lost: bool,
}

impl Errors {
    fn read(
        &mut self,
        said: &Said<'_>,
        meta: &ObjectMeta,
        access: &Access,
        inputs: &Inputs,
        checked: &mut Checked,
    ) -> Result<(), objects::Error> {
        let mut near = 0;
        let read = rows::read(&access.output, meta, &access.handle, &["code", "stage"], &mut |found| match found {
            Found::Broken { place, detail } => checked.broken(said.key, place, &detail),
            Found::Row(Row { number, source, position, code, stage }) => {
                checked.failed += 1;
                match &code {
                    Some(code) => *checked.codes.entry(code.to_string()).or_default() += 1,
                    None => checked.findings.add(Finding::of_row("unreadable_row", said.key, number, "it has no code")),
                }
                match inputs.place(near, source.as_deref(), position) {
                    Ok(place) => {
                        near = place.0;
                        if stage.as_deref() == Some("decode") && self.decode_errors.last() != Some(&near) {
                            self.decode_errors.push(near);
                        }
                        self.lost |= place.1 == LOST;
                        self.rows.push(place, number);
                    }
                    Err(why) => checked.findings.add(Finding::of_row("foreign_row", said.key, number, why)),
                }
            }
        });
        if read_to_end(read, said.key, checked)? {
            checked.rows(said, checked.failed);
        }
        self.rows.settle(said.key, inputs, &mut checked.findings);
        Ok(())
    }
}

/// The walk through a part's rows.
struct Walk<'a> {
    inputs: &'a Inputs,
    errors: &'a ErrorRows,
    comparison: Option<Comparison<'a>>,
    /// The furthest place so far, and its row.
    last: Option<(Place, u64)>,
    /// Rows that stand behind a later one.
    out_of_order: Vec<(Place, u64)>,
    /// Error rows before this one have been compared with the input.
    next_error: usize,
}

impl Walk<'_> {
    fn read(&mut self, said: &Said<'_>, meta: &ObjectMeta, access: &Access, checked: &mut Checked) -> Result<(), objects::Error> {
        let read = rows::read(&access.output, meta, &access.handle, &[], &mut |found| match found {
            Found::Broken { place, detail } => checked.broken(said.key, place, &detail),
            Found::Row(row) => {
                checked.succeeded += 1;
                self.row(said.key, &row, &mut checked.findings);
            }
        });
        if read_to_end(read, said.key, checked)? {
            checked.rows(said, checked.succeeded);
        }
        self.explain_order(said, meta, access, checked)
    }

    fn row(&mut self, key: &str, row: &Row<'_>, findings: &mut Findings) {
        let near = self.last.map_or(0, |((at, _), _)| at);
        let place = match self.inputs.place(near, row.source.as_deref(), row.position) {
            Ok((_, LOST)) => return findings.add(Finding::of_row("foreign_row", key, row.number, "it has no _position")),
            Ok(place) => place,
            Err(why) => return findings.add(Finding::of_row("foreign_row", key, row.number, why)),
        };
        if let Some(other) = self.errors.row_of(place) {
            let detail = format!("{} has two outcomes: row {other} of the errors file is one too", self.inputs.describe(place));
            findings.add(Finding::of_row("two_outcomes", key, row.number, detail));
        }
        match self.last {
            Some((last, before)) if last == place => {
                let detail = format!("{} has two outcomes: it stands in row {before} too", self.inputs.describe(place));
                findings.add(Finding::of_row("two_outcomes", key, row.number, detail));
            }
            Some((last, _)) if place < last => {
                if self.out_of_order.len() < MOST_FINDINGS {
                    self.out_of_order.push((place, row.number));
                }
            }
            _ => {
                self.last = Some((place, row.number));
                self.compare_errors_before(place, findings);
                if let Some(comparison) = self.comparison.as_mut().filter(|_| self.errors.row_of(place).is_none()) {
                    comparison.found(place, findings);
                }
            }
        }
    }

    /// Error rows and rows are compared with the input as one sequence.
    fn compare_errors_before(&mut self, place: Place, findings: &mut Findings) {
        let Some(comparison) = &mut self.comparison else { return };
        while let Some(error) = self.errors.at(self.next_error).filter(|error| *error <= place) {
            self.next_error += 1;
            comparison.found(error, findings);
        }
    }

    /// A row behind a later one is there twice, or in the wrong place: which of the two, a second reading tells.
    fn explain_order(&mut self, said: &Said<'_>, meta: &ObjectMeta, access: &Access, checked: &mut Checked) -> Result<(), objects::Error> {
        if self.out_of_order.is_empty() {
            return Ok(());
        }
        let mut firsts: HashMap<Place, Option<u64>> = self.out_of_order.iter().map(|(place, _)| (*place, None)).collect();
        let again = rows::read(&access.output, meta, &access.handle, &[], &mut |found| {
            let Found::Row(row) = found else { return };
            let Ok(place) = self.inputs.place(0, row.source.as_deref(), row.position) else { return };
            if let Some(first) = firsts.get_mut(&place) {
                first.get_or_insert(row.number);
            }
        });
        if let Err(DecodeError::Source(error)) = again {
            return Err(error);
        }
        for (place, row) in &self.out_of_order {
            let what = self.inputs.describe(*place);
            let finding = match firsts.get(place).copied().flatten().filter(|first| first < row) {
                Some(first) => ("two_outcomes", format!("{what} has two outcomes: it stands in row {first} too")),
                None => ("out_of_order", format!("{what} stands behind a later one; rows are in input order")),
            };
            checked.findings.add(Finding::of_row(finding.0, said.key, *row, finding.1));
        }
        Ok(())
    }

    /// Compares what is left; the records of the input that were met.
    fn finish(mut self, findings: &mut Findings) -> u64 {
        self.compare_errors_before((u32::MAX, LOST), findings);
        let Some(comparison) = &mut self.comparison else { return 0 };
        // Rows in the wrong place were said to be so; what is missing at their right places would say it again.
        if self.out_of_order.is_empty() {
            comparison.finish(findings);
        }
        comparison.records
    }
}

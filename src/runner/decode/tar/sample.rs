//! Files of an archive → samples, as WebDataset groups them.
//!
//! In: entries. Out: [`Sample`]s: consecutive files whose names are the same up to the first dot of the last segment. The rest of the
//! name, in lower case, says what a file is. Files whose names begin with a dot, and WebDataset's own `__name__` files, are no
//! records, like objects whose names begin so.

use super::{
    super::{batches::Fault, sniff},
    archive::{Archive, BLOCK_BYTES, Entry, Error, Kind},
};
use crate::runner::decode::whole::{IMAGE, TEXT};

/// Most files in a sample, and most columns that files make in a batch.
pub(super) const MOST_COLUMNS: usize = 256;

/// The files of one record.
#[derive(Debug)]
pub(super) struct Sample {
    /// The name without extensions.
    pub(super) key: String,
    /// Of the first header.
    pub(super) position: u64,
    /// Column and content of each file that is wanted, in archive order.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// Why it is no record.
    pub(super) fault: Option<Fault>,
    /// What it takes, headers counted, so that many empty files are not for nothing.
    bytes: u64,
}

/// Where a file belongs.
struct Place {
    key: String,
    column: Result<String, Fault>,
}

/// Reads samples.
pub(super) struct Samples {
    archive: Archive,
    most_bytes: u64,
    /// The first entry of the next sample.
    pending: Option<(Entry, Place)>,
    /// The archive ended here without its mark: said once the last sample has been given.
    unmarked: bool,
    /// Of the sample that was being read when the archive could not be read on.
    lost: Option<u64>,
}

impl Samples {
    pub(super) fn new(archive: Archive, most_bytes: usize) -> Self {
        Self { archive, most_bytes: most_bytes as u64, pending: None, unmarked: false, lost: None }
    }

    /// Position of the first record that an error has cost.
    pub(super) fn position(&self) -> u64 {
        self.lost.unwrap_or(self.archive.offset())
    }

    /// The next sample; `None` at the end. Files whose column is not `wanted` are passed over.
    ///
    /// # Errors
    /// [`Error`]; there is no next sample after one.
    pub(super) fn next(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Option<Sample>, Error> {
        if std::mem::take(&mut self.unmarked) {
            return Err(Error::Unmarked);
        }
        let mut sample: Option<Sample> = None;
        loop {
            self.lost = sample.as_ref().map(|s| s.position);
            let (entry, place) = match self.pending.take() {
                Some(pending) => pending,
                None => match self.archive.next() {
                    Ok(Some(entry)) => match place(&entry) {
                        Some(place) => (entry, place),
                        None => continue,
                    },
                    Ok(None) => return Ok(sample),
                    Err(Error::Unmarked) if sample.is_some() => {
                        self.unmarked = true;
                        self.lost = None;
                        return Ok(sample);
                    }
                    Err(error) => return Err(error),
                },
            };
            if sample.as_ref().is_some_and(|sample| sample.key != place.key) {
                self.pending = Some((entry, place));
                return Ok(sample);
            }
            self.lost.get_or_insert(entry.position);
            let sample = sample.get_or_insert_with(|| Sample::new(place.key, entry.position));
            if sample.fault.is_none()
                && let Err(fault) = sample.add(&entry, place.column, &mut self.archive, self.most_bytes, &wanted)?
            {
                sample.files = Vec::new();
                sample.fault = Some(fault);
            }
        }
    }
}

impl Sample {
    fn new(key: String, position: u64) -> Self {
        Self { key, position, files: Vec::new(), fault: None, bytes: 0 }
    }

    fn add(
        &mut self,
        entry: &Entry,
        column: Result<String, Fault>,
        archive: &mut Archive,
        most_bytes: u64,
        wanted: &impl Fn(&str) -> bool,
    ) -> Result<Result<(), Fault>, Error> {
        let column = match (column, entry.kind) {
            (Err(fault), _) => return Ok(Err(fault)),
            (Ok(_), Kind::Other(what)) => {
                let detail = format!("{:?} is {what}; only files are read", excerpt(&entry.name));
                return Ok(Err(Fault { code: "unsupported_member", detail }));
            }
            (Ok(column), Kind::File | Kind::Folder) => column,
        };
        if self.files.iter().any(|(taken, _)| *taken == column) {
            let detail = format!("the sample has two files for the column {column:?}");
            return Ok(Err(Fault { code: "duplicate_member", detail }));
        }
        if self.files.len() == MOST_COLUMNS {
            let detail = format!("the sample has more files than the limit of {MOST_COLUMNS}");
            return Ok(Err(Fault { code: "too_many_columns", detail }));
        }
        let wanted = wanted(&column);
        let kept = if wanted { entry.size } else { 0 };
        self.bytes = self.bytes.saturating_add(kept).saturating_add((BLOCK_BYTES + column.len()) as u64);
        if self.bytes > most_bytes {
            let detail =
                format!("the files of the sample are over the limit of {most_bytes} bytes together, with {:?}", excerpt(&entry.name));
            return Ok(Err(Fault { code: "record_too_large", detail }));
        }
        if wanted {
            self.files.push((column, archive.read(entry.size)?));
        }
        Ok(Ok(()))
    }
}

/// Where an entry belongs; `None` for what is no record's.
fn place(entry: &Entry) -> Option<Place> {
    if entry.kind == Kind::Folder {
        return None;
    }
    let name = String::from_utf8_lossy(&entry.name);
    let name = name.strip_prefix("./").unwrap_or(&name);
    let base_at = name.rfind('/').map_or(0, |at| at + 1);
    let base = &name[base_at..];
    if base.starts_with('.') || base.strip_prefix("__").is_some_and(|rest| rest.ends_with("__")) {
        return None;
    }
    let (stem, extension) = base.split_once('.').unwrap_or((base, ""));
    let key = format!("{}{stem}", &name[..base_at]);
    let fault = |code, what: &str| Err(Fault { code, detail: format!("{:?} {what}", excerpt(&entry.name)) });
    let column = if std::str::from_utf8(&entry.name).is_err() {
        fault("invalid_name", "is not valid UTF-8")
    } else if name.starts_with('/') || name.split('/').any(|segment| segment == "..") {
        fault("unsafe_name", "leads out of the archive: names must be relative and without \"..\"")
    } else if extension.is_empty() {
        fault("no_extension", "has no extension, which says what a file of a sample is")
    } else {
        Ok(column_of(&extension.to_lowercase()))
    };
    Some(Place { key, column })
}

/// The column that a file with this extension fills.
fn column_of(extension: &str) -> String {
    match extension {
        picture if sniff::is_picture(picture) => IMAGE.to_owned(),
        "txt" => TEXT.to_owned(),
        other => other.to_owned(),
    }
}

/// The start of a name, for messages.
fn excerpt(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(100).collect()
}

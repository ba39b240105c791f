//! Whether a folder takes writes.

use std::{
    io::{self, Write},
    path::Path,
};

/// As much as a few commits need.
const ROOM_BYTES: usize = 256 * 1024;

/// Writes a file into `folder` and removes it.
///
/// # Errors
/// What the folder says: it is full, read-only, gone.
pub(super) fn try_write(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!("tmp-ready-{}", uuid::Uuid::now_v7().simple()));
    let write = || {
        let mut file = std::fs::File::create_new(&path)?;
        file.write_all(&vec![0; ROOM_BYTES])?;
        file.flush()
    };
    let written = write();
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_gone_takes_no_writes_and_one_that_does_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        try_write(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(try_write(&folder.path().join("gone")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

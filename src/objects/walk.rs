//! Lists a folder of this machine in key order, as an S3 prefix would list: LocalFileSystem gives no order.

use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

/// Absolute paths of the files below `folder`, in the byte order of their keys, from the first after `after` on.
///
/// Holds one folder's names at a time in memory. Unfinished uploads (`name#1`, as object_store stages them) are no objects.
pub(super) fn files(folder: &Path, after: Option<&Path>) -> impl Iterator<Item = walkdir::Result<PathBuf>> + use<> {
    let after = after.map(|p| p.as_os_str().as_encoded_bytes().to_vec());
    WalkDir::new(folder)
        .follow_links(true)
        .sort_by(|a, b| sort_key(a).cmp(&sort_key(b)))
        .into_iter()
        .filter_map(|entry| match entry {
            Ok(e) if e.file_type().is_file() => Some(Ok(e.into_path())),
            Ok(_) => None,
            Err(e) => Some(Err(e)),
        })
        .filter(move |path| match path {
            Ok(path) => !is_staged(path) && after.as_ref().is_none_or(|a| path.as_os_str().as_encoded_bytes() > a.as_slice()),
            Err(_) => true,
        })
}

/// A folder sorts as its name with a slash: `a.csv` stands before `a/x` in key order.
fn sort_key(entry: &DirEntry) -> Vec<u8> {
    let mut key = entry.file_name().as_encoded_bytes().to_vec();
    if entry.file_type().is_dir() {
        key.push(b'/');
    }
    key
}

/// Whether the file is an upload that was never finished.
pub(super) fn is_staged(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    match name.iter().position(|b| *b == b'#') {
        Some(at) => !name[at + 1..].is_empty() && name[at + 1..].iter().all(u8::is_ascii_digit),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_in_key_order_and_resume_after_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["a/x.csv", "a.csv", "b", "a-b/y", "a/b/z", "c#1", "c#x"];
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        let list = |after: Option<&str>| -> Vec<String> {
            let after = after.map(|a| folder.path().join(a));
            files(folder.path(), after.as_deref())
                .map(|p| p.unwrap().strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned())
                .collect()
        };
        let mut sorted: Vec<&str> = names.into_iter().filter(|n| *n != "c#1").collect();
        sorted.sort_unstable();
        assert_eq!(list(None), sorted);
        assert_eq!(list(Some("a/b/z")), sorted[sorted.iter().position(|n| *n == "a/b/z").unwrap() + 1..]);
    }
}

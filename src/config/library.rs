//! Where the ONNX Runtime library is looked for.

use std::path::{Path, PathBuf};

/// The ONNX Runtime library: as configured, else in the usual places.
///
/// # Errors
/// One sentence that says which command fetches it.
pub fn find_library(configured: Option<&Path>, data_dir: &Path) -> Result<PathBuf, String> {
    if let Some(path) = configured {
        return match path.is_file() {
            true => Ok(path.to_owned()),
            false => Err(format!("--onnxruntime (ORT_DYLIB_PATH) is {}, which is no file", path.display())),
        };
    }
    const NAME: &str = "libonnxruntime.so";
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut fetched = |folder: &Path| {
        // What scripts/fetch-onnxruntime leaves: .onnxruntime/VERSION/lib.
        let mut versions: Vec<PathBuf> = std::fs::read_dir(folder.join(".onnxruntime"))
            .map(|entries| entries.filter_map(|e| Some(e.ok()?.path().join("lib"))).collect())
            .unwrap_or_default();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        folders.extend(versions);
    };
    if let Ok(here) = std::env::current_dir() {
        fetched(&here);
    }
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().skip(1).for_each(&mut fetched);
    if let Some(beside) = program.parent() {
        folders.extend([beside.to_owned(), beside.join("../lib")]);
    }
    folders.push(data_dir.join("lib"));
    folders.extend(
        ["/opt/onnxruntime/lib", "/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .map(PathBuf::from),
    );
    folders.into_iter().map(|f| f.join(NAME)).find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "the ONNX Runtime library ({NAME}) was not found: run scripts/fetch-onnxruntime, or name it with --onnxruntime (ORT_DYLIB_PATH)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_one_sentence_with_the_command_that_fetches_it() {
        let error = find_library(Some(Path::new("/nowhere/libonnxruntime.so")), Path::new(".")).unwrap_err();
        assert!(error.contains("/nowhere/libonnxruntime.so"), "{error}");
    }
}

//! Writes a `nightshift.json` that says what was derived, for people to edit.
//!
//! In: a model's folder on this machine. Out: the file, with every choice spelled out. A folder that has one already is left as it is.

use std::path::{Path, PathBuf};

use super::{Error, Models, SECTION, cache, folder};
use crate::domain::{Pipeline, PipelineSpec, Uri};

impl Models {
    /// Derives the pipeline of the model in `folder` and writes it there; the file, and what it says.
    ///
    /// # Errors
    /// [`Error::Refused`] when the model cannot be used, or when the folder has such a file.
    pub async fn init(&self, folder: &Path) -> Result<(PathBuf, PipelineSpec), Error> {
        let failed = cache::failed(folder);
        let folder = tokio::fs::canonicalize(folder).await.map_err(failed)?;
        let file = folder.join(SECTION);
        if file.exists() {
            let detail = format!("{} is there already", file.display());
            return Err(folder::refused("nightshift_json_exists", detail, "edit it, or move it away to have it written anew"));
        }
        let location = format!("file://{}/", folder.display());
        let uri = Uri::parse(&location).map_err(|error| folder::refused("invalid_uri", error.to_string(), "rename the folder"))?;
        let pipeline: Pipeline = self.resolve(&uri, &PipelineSpec::default()).await?.pipeline;
        let section = pipeline.section();
        let mut json = serde_json::to_vec_pretty(&section).expect("texts and numbers are always JSON");
        json.push(b'\n');
        tokio::fs::write(&file, json).await.map_err(cache::failed(&file))?;
        Ok((file, section))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Limits, *};
    use crate::objects::{Options, Stores};

    #[tokio::test]
    async fn what_is_written_means_what_was_derived() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        for name in ["loan-default-pipeline", "breast-cancer-double", "file-type", "odd/two-in-three-out"] {
            let temporary = tempfile::tempdir().unwrap();
            let root = temporary.path().canonicalize().unwrap();
            let model = root.join("model");
            std::fs::create_dir(&model).unwrap();
            std::fs::copy(fixtures.join(name).join("model.onnx"), model.join("model.onnx")).unwrap();
            let stores = Stores::new(Options { file_roots: vec![root.clone()], ..Options::default() }).unwrap();
            let models = Models::new(root.join("cache"), stores, Limits { max_bytes: 1 << 30, max_nesting: 16 });
            let uri = Uri::parse(&format!("file://{}/", model.display())).unwrap();
            let derived = models.resolve(&uri, &PipelineSpec::default()).await.unwrap();
            let (file, section) = models.init(&model).await.unwrap();
            let read: PipelineSpec = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            assert_eq!(read, section);
            assert_eq!(read.task, Some(derived.pipeline.task));
            let again = models.resolve(&uri, &PipelineSpec::default()).await.unwrap();
            assert_eq!(again.pipeline, derived.pipeline, "{name}");
            let refused = models.init(&model).await.unwrap_err();
            assert!(matches!(&refused, Error::Refused(faults) if faults[0].code == "nightshift_json_exists"), "{refused}");
        }
    }
}

//! The output of an earlier job below the same prefix, and how another job takes its place.
//!
//! Until a job that replaces it has something to show, nothing of it is touched. Then its marker goes first, so that no reader takes what
//! follows for whole; then what its manifest names; the new manifest and the new marker come after. Each step can be repeated after a
//! crash. Files that neither a manifest names nor have a part's name are never touched.

use std::collections::HashSet;

use crate::{
    domain::{
        Uri,
        names::{MANIFEST, SUCCESS},
    },
    execute::manifest::Manifest,
    objects::{self, Bucket},
};

/// What lies at the place of the manifest.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A job's manifest.
    Manifest(Box<Manifest>),
    /// Something that no version of this program wrote.
    Foreign,
}

/// Reads the manifest below an output prefix.
///
/// # Errors
/// Those of the store.
pub async fn read(bucket: &Bucket, output: &Uri) -> objects::Result<Found> {
    match bucket.read_all(output.join(MANIFEST).path()).await {
        Ok(bytes) => Ok(Manifest::parse(&bytes).map_or(Found::Foreign, |manifest| Found::Manifest(Box::new(manifest)))),
        Err(objects::Error::NotFound { .. }) => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

/// Every object that a manifest names, relative to its prefix. It may have been written by anybody who can write there: a name that
/// leads out of the prefix, or is a marker's, is left out.
pub fn named(manifest: &Manifest, output: &Uri) -> HashSet<String> {
    let parts = manifest.parts.iter();
    let names = parts.flat_map(|part| part.key.iter().chain(part.errors.as_ref().map(|errors| &errors.key)));
    let inside = |name: &str| {
        let uri = output.join(name);
        !uri.is_prefix() && Uri::parse(&uri.to_string()).is_ok_and(|parsed| parsed == uri)
    };
    names.filter(|name| inside(name) && *name != MANIFEST && *name != SUCCESS).cloned().collect()
}

//! The objects of an input in their order: those below a prefix, or the one that it names.

use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::Error;
use crate::{
    domain::{Problem, Uri, spec::InputSpec},
    objects::{Bucket, ObjectMeta},
};

/// An object to be planned.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Where it lies.
    pub(super) bucket: Bucket,
    /// The same as a location, where a manifest named the object.
    pub(super) named_in: Option<Uri>,
    /// As listed or headed; of size 0 and without an etag where it could not be reached.
    pub(super) meta: ObjectMeta,
    /// The line of the manifest that names it; 0 where none does.
    pub(super) line: u64,
}

impl Found {
    /// What tells it from every other object of the job.
    pub(super) fn name(&self) -> String {
        match &self.named_in {
            Some(bucket) => bucket.with_path(&self.meta.key).to_string(),
            None => self.meta.key.clone(),
        }
    }
}

/// The objects of an input that is no manifest, from the first after `after` on.
pub(super) async fn objects(bucket: &Bucket, input: &InputSpec, after: Option<&str>) -> BoxStream<'static, Result<Found, Error>> {
    let filter = Filter::new(input);
    let listed = if input.uri.is_prefix() {
        bucket.list(input.uri.path(), after)
    } else if after.is_some() {
        stream::empty().boxed()
    } else {
        stream::iter([bucket.head(input.uri.path()).await]).boxed()
    };
    let bucket = bucket.clone();
    let taken = listed.try_filter(move |object| futures::future::ready(filter.takes(object)));
    taken.map_ok(move |meta| Found { bucket: bucket.clone(), named_in: None, meta, line: 0 }).map_err(Error::Objects).boxed()
}

/// Which objects below the prefix are input.
struct Filter {
    prefix: String,
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Filter {
    fn new(input: &InputSpec) -> Self {
        let prefix = if input.uri.is_prefix() { input.uri.path().to_owned() } else { String::new() };
        Self { prefix, include: (!input.include.is_empty()).then(|| globs(&input.include)), exclude: globs(&input.exclude) }
    }

    /// Names that begin with `_` or `.` (`_SUCCESS`, `.crc`) are markers by the convention of Hadoop and Spark, and no input unless
    /// `include` names them; so are empty objects without a known extension, which stand for folders.
    fn takes(&self, object: &ObjectMeta) -> bool {
        let name = object.key.strip_prefix(&self.prefix).unwrap_or(&object.key);
        if self.exclude.is_match(name) {
            return false;
        }
        match &self.include {
            Some(include) => include.is_match(name),
            None if self.prefix.is_empty() => true,
            None => {
                let marker = name.split('/').any(|segment| segment.starts_with(['_', '.']));
                let folder = object.size == 0 && !name.rsplit('/').next().unwrap_or(name).contains('.');
                !marker && !folder
            }
        }
    }
}

/// Globs were compiled once at acceptance already; one that does not compile now matches nothing.
fn globs(patterns: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        if let Ok(glob) = GlobBuilder::new(pattern).literal_separator(true).build() {
            set.add(glob);
        }
    }
    set.build().unwrap_or_default()
}

/// Says what to do about a prefix in which nothing is input.
pub(super) async fn nothing_found(input: &InputSpec, bucket: &Bucket) -> Problem {
    let title = "The input prefix holds no object";
    let below = bucket.list(input.uri.path(), None).take(1).try_next().await;
    let detail = match below {
        Ok(Some(object)) => format!(
            "{} holds objects (the first is {:?}), but input.include and input.exclude leave none of them; names that begin with '_' or '.' count only when input.include names them",
            input.uri, object.key
        ),
        _ => format!("nothing lies below {}; check the bucket, the prefix and its letter case", input.uri),
    };
    Problem::new("input_empty", title, detail)
}

//! `[buckets.NAME]`: how to reach one bucket, where that differs from the environment's settings.

use serde::Deserialize;

/// One section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BucketSection {}

//! `[webhooks]`: who hears of every job.

use serde::Deserialize;

/// The section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSection {}

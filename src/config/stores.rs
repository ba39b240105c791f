//! Settings of object stores, for all of them alike; what single buckets need is a section of the file.

use clap::Args;

use super::seconds;
use crate::objects::Manners;

/// What stores may be asked to bear.
#[derive(Debug, Clone, Args)]
pub struct StoreManners {
    /// Seconds that an object store may be silent before a request is sent again
    #[arg(long, env = "NIGHTSHIFT_STORE_TIMEOUT", default_value_t = Manners::default().timeout.as_secs_f64(), value_name = "SECONDS")]
    pub store_timeout: f64,
    /// Most requests at once to one bucket, by each process; fewer when it asks to slow down
    #[arg(long, env = "NIGHTSHIFT_STORE_REQUESTS", default_value_t = Manners::default().requests, value_name = "COUNT")]
    pub store_requests: usize,
}

impl StoreManners {
    /// As the stores take them.
    pub fn manners(&self) -> Manners {
        Manners { timeout: seconds(self.store_timeout), requests: self.store_requests.max(1) }
    }
}

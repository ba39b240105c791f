//! How long a room that found nothing waits before it looks again.

use std::time::Duration;

use super::Store;

/// Looks are so much rarer while nothing is unfinished. A ring that is lost then costs as much more.
const QUIET: u32 = 5;

/// Waits as long as a room does that looks every `poll` for work that nobody announced: an idle service hardly looks at all.
pub async fn pause(store: &dyn Store, poll: Duration) {
    tokio::time::sleep(poll).await;
    // Asked only now, so that rooms at work do not ask. A database that is away is looked at as ever.
    if store.is_quiet().await.unwrap_or(false) {
        tokio::time::sleep(poll * (QUIET - 1)).await;
    }
}

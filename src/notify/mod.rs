//! Tells those who asked what became of their jobs: events → deliveries → signed requests.
//!
//! In: events, which `db/` keeps in the transaction of the change that they tell of. Out: HTTP requests by Standard Webhooks 1.0.0, and
//! a record of each attempt. Absent: anything that a job waits for; results never depend on a receiver.
//!
//! Nothing is held in memory that would be missed: a process that dies between a job's end and its message, or in the middle of an
//! attempt, is followed by one that finds the event or the delivery as it was. A message may therefore arrive twice, under one
//! `webhook-id`; it is never lost.

mod deliver;
mod guard;
mod message;
mod outbox;
mod receivers;
mod retry;
mod sign;

pub use deliver::{Answer, Deliverer, Message, Timeouts};
pub use guard::{Guard, Refused};
pub use outbox::{Notifier, Options};

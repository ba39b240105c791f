//! `[connections.NAME]`: databases that jobs may write tables to. Whether the variables and files that they name are there is looked at at
//! start.

/// One section.
pub use crate::tables::ConnectionSettings as ConnectionSection;

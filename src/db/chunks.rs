//! What the store tells of chunks to those who run them.

use crate::domain::{Chunk, ChunkId};

/// A lease on a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkLease {
    /// Which chunk.
    pub chunk: ChunkId,
    /// The fencing token.
    pub epoch: i64,
}

/// A claimed chunk.
#[derive(Debug, Clone)]
pub struct ClaimedChunk {
    /// The lease that was won.
    pub lease: ChunkLease,
    /// The chunk as it stands.
    pub chunk: Chunk,
}
